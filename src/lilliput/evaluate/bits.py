"""Bits per byte: the one loss that compares models whatever their tokenizers.

    bits per byte = Σ nats / (ln 2 · Σ UTF-8 bytes)

The protocol (docs/evaluate.md): each document alone; BOS is context and is never scored, EOS is not scored;
the first window has the context's length, later ones advance by half of it, without a new BOS; each token is
scored once; a byte the tokenizer cannot represent costs 8 bits beside its unknown token.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterable, Iterator, Sized
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch

from lilliput.errors import UserError
from lilliput.evaluate.resampling import LN2, document_interval
from lilliput.evaluate.unknown import UnknownBytes
from lilliput.model.byte_pool_config import BytePoolConfig
from lilliput.progress import Progress

if TYPE_CHECKING:
    from torch import nn

    from lilliput.model.decoder import Decoder
    from lilliput.model.early_exit import ExitReader
    from lilliput.tokenizer.load import Tokenizer

BITS_OF_A_BYTE = 8.0
# Tokens of a batch by kind of device: enough to fill it, small enough for its memory.
_BATCH_TOKENS = {"cpu": 4096, "cuda": 65536}
# Tokens held before they are sorted by length and scored: bounds the memory whatever the text's size.
_HELD_TOKENS = 1 << 20
_IGNORED = -100


@dataclass(frozen=True)
class Bits:
    """Bits per byte of a text.

    value: bits per byte. low, high: 95 % interval over the documents, NaN with fewer than two.
    nats: float64 (documents,), with 8 bits for each byte the tokenizer cannot represent. bytes: int64
    (documents,), raw UTF-8. tokens: scored. unk_share: share of the bytes it cannot represent. text_hash:
    SHA-256 of the documents in their order; scores are paired only where it is the same.
    """

    value: float
    low: float
    high: float
    nats: npt.NDArray[np.float64]
    bytes: npt.NDArray[np.int64]
    tokens: int
    unk_share: float
    text_hash: str
    pseudo: bool = False
    """Whether the model is no likelihood to be compared with others: it gives each byte of a unit by itself."""

    def to_dict(self) -> dict[str, Any]:
        """For JSON: the figures without the arrays; null where there is no interval."""
        interval = {"low": self.low, "high": self.high}
        return {
            "value": self.value,
            **{name: bound if math.isfinite(bound) else None for name, bound in interval.items()},
            "documents": len(self.nats),
            "bytes": int(self.bytes.sum()),
            "tokens": self.tokens,
            "tokens_per_byte": self.tokens / int(self.bytes.sum()),
            "unk_share": self.unk_share,
            "text_hash": self.text_hash,
            **({"pseudo": True} if self.pseudo else {}),
        }


@dataclass(frozen=True)
class Window:
    """A stretch of one document, ids (length + 1,), or rows of a byte-pooled model's units (length + 1, L); of it the
    last `scored` are predicted and counted."""

    document: int
    ids: npt.NDArray[np.int64]
    scored: int


def windows(ids: npt.NDArray[np.int64], context: int, document: int = 0) -> Iterator[Window]:
    """The windows of one document; `ids` is BOS + its tokens.

    The first reads ids[0:context]; each later one begins half a context further on and counts only the
    tokens that no earlier window reached.
    """
    stride = max(1, context // 2)
    last, begin, reached = len(ids) - 1, 0, 0
    while reached < last:
        end = min(begin + context, last)
        yield Window(document, ids[begin : end + 1], end - reached)
        reached, begin = end, begin + stride


def bits_per_byte(
    model: Decoder | ExitReader,
    tokenizer: Tokenizer,
    documents: Iterable[str],
    *,
    device: torch.device | str | None = None,
    batch: int | None = None,
    context: int | None = None,
    seed: int = 0,
    title: str | None = "evaluating",
) -> Bits:
    """Score `documents` with `model` by the protocol above.

    device: where the model's weights are, by default asked of the model. batch: tokens at once; changes speed
    and memory, never the result beyond rounding. context: window length, by default the trained context.
    seed: of the interval's resamples. title: of the progress shown; None shows none.
    Memory is bounded by the batch and one long document. Raises UserError if there is not a byte of text.
    """
    device = torch.device(device) if device is not None else next(model.parameters()).device
    batch = batch or _BATCH_TOKENS.get(device.type, _BATCH_TOKENS["cpu"])
    context = context or model.config.context
    total = len(documents) if isinstance(documents, Sized) else None
    unknown = UnknownBytes(tokenizer)
    nats: list[float] = []
    sizes: list[int] = []
    tokens = missing = 0
    digest = hashlib.sha256()
    with _scoring(model), Progress(title or "", total, "documents") as bar:
        for held in _held(documents):
            first = len(nats)
            for raw in (text.encode() for text in held):
                sizes.append(len(raw))
                digest.update(len(raw).to_bytes(8, "little") + raw)
            nats += [0.0] * len(held)
            cut: list[Window] = []
            for index, (text, ids) in enumerate(zip(held, tokenizer.encode_batch(held), strict=True), first):
                if lost := unknown.count(text, ids):
                    nats[index] += lost * BITS_OF_A_BYTE * LN2
                    missing += lost
                read = tokenizer.positions([tokenizer.bos_id, *ids])
                tokens += len(read) - 1
                cut += windows(read, context, index)

            def show(share: float, first: int = first, count: int = len(held)) -> None:
                if title:
                    bar.update(first + int(count * share))

            for document, value in _score(model, cut, batch, device, show):
                nats[document] += value
    written = sum(sizes)
    if written == 0:
        raise UserError("there is no text to evaluate on", mend="name a file with at least one character")
    low, high = document_interval(nats, sizes, seed=seed)
    return Bits(
        value=sum(nats) / written / LN2,
        low=low,
        high=high,
        nats=np.array(nats),
        bytes=np.array(sizes, np.int64),
        tokens=tokens,
        unk_share=missing / written,
        text_hash=digest.hexdigest(),
        pseudo=isinstance(model.config, BytePoolConfig) and model.config.pseudo,
    )


def _held(documents: Iterable[str]) -> Iterator[list[str]]:
    """Documents in groups of bounded size, the empty ones among them."""
    held: list[str] = []
    size = 0
    for text in documents:
        held.append(text)
        size += len(text) + 1
        if size >= _HELD_TOKENS:
            yield held
            held, size = [], 0
    if held:
        yield held


def _score(
    model: Decoder | ExitReader,
    cut: list[Window],
    batch: int,
    device: torch.device,
    show: Callable[[float], None],
) -> Iterator[tuple[int, float]]:
    """(document, nats) of every window, longest first so that a batch is of one length and hardly padded."""
    cut.sort(key=lambda window: len(window.ids), reverse=True)
    begin = 0
    while begin < len(cut):
        length = len(cut[begin].ids) - 1
        taken = cut[begin : begin + max(1, batch // length)]
        shape = (len(taken), length, *taken[0].ids.shape[1:])
        ids_BT = np.zeros(shape, np.int64)
        targets_BT = np.full(shape, _IGNORED, np.int64)
        for row, window in enumerate(taken):
            width = len(window.ids) - 1
            ids_BT[row, :width] = window.ids[:-1]
            targets_BT[row, width - window.scored : width] = window.ids[len(window.ids) - window.scored :]
        nats_BT = model(
            torch.from_numpy(ids_BT).to(device), torch.from_numpy(targets_BT).to(device), reduction="none"
        )
        values = nats_BT.double().sum(1).tolist()
        yield from zip((window.document for window in taken), values, strict=True)
        begin += len(taken)
        show(begin / len(cut))


@contextmanager
def _scoring(model: nn.Module) -> Iterator[None]:
    """Evaluation mode without gradients; the model goes back to what it was doing."""
    training = model.training
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        model.train(training)

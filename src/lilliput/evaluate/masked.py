"""The masked loss on held-out text: nats for each hidden token, all of them shown as the mask, drawn once and the same
for every model of one tokenizer. It compares encoders of one tokenizer; across tokenizers it says nothing, being no
likelihood of text."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from lilliput.evaluate.resampling import LN2, document_interval
from lilliput.model.encoder import PAD, Encoder
from lilliput.progress import Progress
from lilliput.tokenizer.load import Tokenizer
from lilliput.tokenizer.special import Specials
from lilliput.train.masked import corrupt, plain_pieces, trimmed

_BATCH = 32
_SEED = 20_260_101


@dataclass(frozen=True)
class MaskedScore:
    """value: nats a masked token. low, high: 95 % interval over windows (None where there are fewer than two).
    accuracy: share of masked tokens whose likeliest piece is the right one. nats, counts: of each window, its loss and
    how many of its tokens are masked. hash: identifies what is shown and asked, so pieces and masks, too."""

    value: float
    low: float | None
    high: float | None
    accuracy: float
    masked: int
    windows: int
    nats: npt.NDArray[np.float64]
    counts: npt.NDArray[np.int64]
    hash: str

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON: what holds for all windows together."""
        return {name: value for name, value in vars(self).items() if name not in ("nats", "counts", "hash")}


def windows_of(texts: Iterable[str], tokenizer: Tokenizer, special: Specials, context: int) -> Tensor:
    """int64 (windows, context): every text cut as in training (`Pieces`), PAD behind it."""
    room, rows = context - 2, []
    for ids in tokenizer.encode_batch(list(texts)):
        pieces = max(1, -(-len(ids) // room))
        for number in range(pieces):
            piece = ids[number * len(ids) // pieces : (number + 1) * len(ids) // pieces]
            row = [special.cls, *piece, special.sep]
            rows.append(row + [PAD] * (context - len(row)))
    return torch.tensor(rows, dtype=torch.int64)


@torch.inference_mode()
def masked_loss(
    model: Encoder, windows_WS: Tensor, special: Specials, rate: float, *, title: str | None = "evaluating"
) -> MaskedScore:
    """The loss of `model` on these windows; the model keeps its mode. title: of the progress; None shows none."""
    device = next(model.parameters()).device
    generator = torch.Generator().manual_seed(_SEED)
    plain_V = plain_pieces(model.config.vocab_size, special)
    _, targets_WS = corrupt(windows_WS, plain_V, special.mask, rate, generator)
    # All of them hidden: a tenth left to see, as in training, would make the loss look better than any guess is.
    shown_WS = torch.where(targets_WS >= 0, special.mask, windows_WS)
    before = model.training
    model.eval()
    sums, right = [], 0
    with Progress(title or "", len(windows_WS), "windows") as progress:
        for begin in range(0, len(windows_WS), _BATCH):
            length = trimmed(shown_WS[begin : begin + _BATCH]).shape[1]
            shown = shown_WS[begin : begin + _BATCH, :length].to(device)
            targets = targets_WS[begin : begin + _BATCH, :length].to(device)
            nats_N, hits = _each(model, shown, targets)
            row_N = (targets >= 0).nonzero()[:, 0]
            sums.append(torch.zeros(len(shown), device=device).index_add_(0, row_N, nats_N).cpu())
            right += hits
            if title:
                progress.update(begin + len(shown))
    model.train(before)
    nats, counts = torch.cat(sums).double().numpy(), (targets_WS >= 0).sum(1).numpy()
    total = max(1, int(counts.sum()))
    low, high = (LN2 * bound for bound in document_interval(nats, counts))
    known = np.isfinite(low)
    return MaskedScore(
        value=float(nats.sum() / total),
        low=low if known else None,
        high=high if known else None,
        accuracy=right / total,
        masked=int(counts.sum()),
        windows=len(windows_WS),
        nats=nats,
        counts=counts,
        hash=sha256(shown_WS.numpy().tobytes() + targets_WS.numpy().tobytes()).hexdigest(),
    )


def _each(model: Encoder, shown: Tensor, targets: Tensor) -> tuple[Tensor, int]:
    """(nats of each masked token, how many of them are guessed right)."""
    asked = targets >= 0
    states_ND = model.cls.predictions.transform(model.bert(shown)[asked])
    logits_NV = states_ND @ model.bert.embeddings.word_embeddings.weight.t() + model.cls.predictions.bias
    wanted_N = targets[asked]
    nats_N = torch.nn.functional.cross_entropy(logits_NV.float(), wanted_N, reduction="none")
    return nats_N, int((logits_NV.argmax(1) == wanted_N).sum())


@torch.inference_mode()
def guesses(
    model: Encoder, tokenizer: Tokenizer, special: Specials, texts: Iterable[str], count: int
) -> list[dict[str, Any]]:
    """Examples for people: from each of the first `count` texts with room for it, one token hidden, and the five
    likeliest pieces in its place: {before, hidden, after, guesses: [{piece, probability}]}. The model is in evaluation
    mode."""
    device, found = next(model.parameters()).device, []
    for text in texts:
        ids = tokenizer.encode(text)[: min(40, model.config.context - 2)]
        at = len(ids) // 2
        if at < 4 or ids[at] in special.never:
            continue
        row = [special.cls, *ids[:at], special.mask, *ids[at + 1 :], special.sep]
        best = model(torch.tensor([row], device=device))[0, at + 1].softmax(0).topk(5)
        found.append(
            {
                "before": tokenizer.decode(ids[:at]),
                "hidden": tokenizer.decode([ids[at]]),
                "after": tokenizer.decode(ids[at + 1 :]),
                "guesses": [
                    {"piece": tokenizer.decode([number]), "probability": round(value, 4)}
                    for number, value in zip(best.indices.tolist(), best.values.tolist(), strict=True)
                ],
            }
        )
        if len(found) == count:
            break
    return found

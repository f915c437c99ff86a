"""Writing with a byte-pooled model: the core's key-value cache over units, and bytes one after the other within a unit.

Only bytes that go on a valid UTF-8 text are ever chosen, and a unit ends only where a character does.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import cast

import torch
from torch import Tensor

from lilliput.corpus.unit_rows import ALPHABET, DOCUMENT, END, NOTHING
from lilliput.model.byte_pool import BytePool
from lilliput.model.decoder import Decoder
from lilliput.model.generate import Generator, check_settings, choose


class UnitGenerator(Generator):
    """The core, ready to write: `feed` takes rows and gives the state after the last unit, (B, D)."""

    def __init__(self, model: BytePool, batch: int = 1) -> None:
        self.encoder = model.model.embed_tokens
        super().__init__(model, batch)

    def _last_map(self, model: Decoder) -> Tensor:
        return torch.diag(model.model.norm.weight)

    def _embed(self, ids_BT: Tensor) -> Tensor:
        return cast("Tensor", self.encoder(ids_BT))


def allowed(written: Sequence[int], limit: int) -> list[int]:
    """The symbols that may follow the symbols `written` of a unit of at most `limit` bytes: what keeps the text valid
    UTF-8 (RFC 3629) and lets the unit end in time."""
    start = len(written)
    while start and 0x80 <= written[start - 1] - 1 <= 0xBF:
        start -= 1
    first = written[start - 1] - 1 if start else 0
    size = _size(first)
    have = len(written) - start + 1
    if size > have:  # within a character
        low, high = _SECOND.get(first, (0x80, 0xBF)) if have == 1 else (0x80, 0xBF)
        return list(range(low + 1, high + 2))
    room = limit - len(written)
    leads = [byte for byte in (*range(0x80), *range(0xC2, 0xF5)) if _size(byte) <= room]
    return [*(byte + 1 for byte in leads), END if written else DOCUMENT]


# Of these first bytes the second must lie in a narrower range: shorter forms, surrogates, beyond U+10FFFF.
_SECOND = {0xE0: (0xA0, 0xBF), 0xED: (0x80, 0x9F), 0xF0: (0x90, 0xBF), 0xF4: (0x80, 0x8F)}


def _size(first: int) -> int:
    """Bytes of the character that begins with this one."""
    return 1 if first < 0xC0 else 2 if first < 0xE0 else 3 if first < 0xF0 else 4


@torch.inference_mode()
def generate_units(
    model: BytePool,
    rows_TL: Tensor,
    max_new: int,
    *,
    temperature: float = 1.0,
    top_p: float | None = None,
    top_k: int | None = None,
    seed: int = 0,
) -> Iterator[int]:
    """Continue a text, yielding symbol after symbol of at most `max_new` units; DOCUMENT is the last where it comes.

    rows_TL: the units so far, DOCUMENT first. Temperature and cuts are of each byte's choice. When the context is full,
    the last half of it is read again. Raises ConfigError for impossible settings, ModelError for an empty prompt.
    """
    check_settings(rows_TL, max_new, temperature, top_p, top_k)
    random = torch.Generator(rows_TL.device).manual_seed(seed) if temperature else None
    context = model.config.context
    writer, read = UnitGenerator(model), rows_TL[-context:]
    for _ in range(max_new):
        if len(read) > context:
            writer.rewind()
            read = read[-max(1, context // 2) :]
        state_1D = writer.feed(read[None, writer.position :])
        written: list[int] = []
        logits_LV: Tensor | None = None
        while not written or (written[-1] < END and len(written) < model.config.unit):
            logits_LV = _logits(model, state_1D, written, logits_LV)
            may = allowed(written, model.config.unit)
            logits_1V = torch.full((1, ALPHABET), -torch.inf, device=logits_LV.device)
            logits_1V[0, may] = logits_LV[len(written), may]
            written.append(int(choose(logits_1V, temperature, top_k, top_p, random)))
            yield written[-1]
        if written[-1] == DOCUMENT:
            return
        if written[-1] < END:  # a unit as long as may be ends by itself; to readers of symbols it is said
            yield END
        row_1L = torch.tensor([written + [NOTHING] * (model.config.unit - len(written))], device=rows_TL.device)
        read = torch.cat((read, row_1L))


def _logits(model: BytePool, state_1D: Tensor, written: list[int], known_LV: Tensor | None) -> Tensor:
    """Logits of each place up to the one after `written`; a parallel head's are the same whatever is written."""
    decoder = model.byte_decoder
    if known_LV is not None and not decoder.causal:
        return known_LV
    size = len(written) + 1 if decoder.causal else model.config.unit
    row = written + [END] * (size - len(written)) + [NOTHING] * (model.config.unit - size)
    logits_LV, _ = decoder.logits(state_1D, torch.tensor([row], device=state_1D.device))
    return cast("Tensor", logits_LV)

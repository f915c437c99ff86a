"""How likely a byte-pooled model finds given continuations: `likelihood.py`'s question, answered in units.

The protocol is the same, with a unit in the place of a token. Texts are read each by itself, those of one length
together. A unit is the likeliest where each of its symbols is, given those before it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch

from lilliput.evaluate.likelihood import Likelihoods, Request
from lilliput.evaluate.writing import Prompt, Written
from lilliput.model.byte_generate import generate_units
from lilliput.progress import Progress

if TYPE_CHECKING:
    from lilliput.model.byte_pool import BytePool
    from lilliput.tokenizer.load import Tokenizer

_BATCH_UNITS = {"cpu": 2048, "cuda": 32768}
Rows = npt.NDArray[np.int64]


def unit_likelihoods(
    model: BytePool,
    tokenizer: Tokenizer,
    requests: Sequence[Request],
    *,
    batch: int | None = None,
    title: str | None = "evaluating",
) -> Likelihoods:
    """Score each request. Arguments as for `likelihood.likelihoods`."""
    device = next(model.parameters()).device
    batch = batch or _BATCH_UNITS.get(device.type, _BATCH_UNITS["cpu"])
    context, cut = model.config.context, 0
    read: list[Rows] = []
    own = np.zeros(len(requests), int)
    known: dict[str, int] = {}
    for number, (before, text) in enumerate(requests):
        if before not in known:
            known[before] = tokenizer.length(tokenizer.encode(before))
        rows = tokenizer.positions([tokenizer.bos_id, *tokenizer.encode(before + text)])
        # Where the two texts' units merge, the last unit is scored still.
        own[number] = min(max(len(rows) - 1 - known[before], min(1, len(rows) - 1)), context)
        cut += len(rows) - 1 > context
        read.append(rows[-(context + 1) :])
    log_p, greedy = np.zeros(len(requests)), np.ones(len(requests), bool)
    order = sorted((number for number in range(len(requests)) if own[number]), key=lambda number: -len(read[number]))
    done = 0
    with Progress(title or "", len(order), "texts") as bar:
        while done < len(order):
            taken = order[done : done + max(1, batch // (len(read[order[done]]) - 1))]
            log_p[taken], greedy[taken] = _score(model, [read[number] for number in taken], own[taken], device)
            done += len(taken)
            if title:
                bar.update(done)
    return Likelihoods(log_p, greedy, int(own.sum()), cut)


@torch.inference_mode()
def _score(
    model: BytePool, read: list[Rows], own: npt.NDArray[np.int64], device: torch.device
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.bool_]]:
    """(log-probability of the last `own` units, whether each is the likeliest) of each text."""
    length = len(read[0]) - 1
    ids_BTL = np.zeros((len(read), length, read[0].shape[1]), np.int64)
    targets_BTL, scored_BT = ids_BTL.copy(), np.zeros((len(read), length), bool)
    for row, (rows, count) in enumerate(zip(read, own, strict=True)):
        size = len(rows) - 1
        ids_BTL[row, :size], targets_BTL[row, :size] = rows[:-1], rows[1:]
        scored_BT[row, size - count : size] = True
    states_BTD = model(torch.from_numpy(ids_BTL).to(device))
    scored = torch.from_numpy(scored_BT).to(device)
    targets_NL = torch.from_numpy(targets_BTL).to(device)[scored]
    log_p_N, best_N = model.byte_decoder.judge(states_BTD[scored], targets_NL)
    text_N = np.nonzero(scored_BT)[0]
    log_p, greedy = np.zeros(len(read)), np.ones(len(read), bool)
    np.add.at(log_p, text_N, log_p_N.double().cpu().numpy())
    np.logical_and.at(greedy, text_N, best_N.cpu().numpy())
    return log_p, greedy


def units_written(
    model: BytePool, tokenizer: Tokenizer, prompts: Sequence[Prompt], max_new: int, *, title: str | None = "writing"
) -> Written:
    """Write after each prompt until the line, or the text, ends: `writing.written` in units, one text at a time."""
    device, context = next(model.parameters()).device, model.config.context
    max_new = min(max_new, context // 2)
    room = context - max_new
    texts, units, cut = [], 0, 0
    with Progress(title or "", len(prompts), "texts") as bar:
        for text, end in prompts:
            ids, kept = tokenizer.encode(text + end), tokenizer.length(tokenizer.encode(end))
            if tokenizer.length(ids) >= room:
                cut += 1
                head = tokenizer.positions(tokenizer.encode(text))[: max(0, room - 1 - kept)]
                rows = np.concatenate([tokenizer.positions([tokenizer.bos_id]), head, tokenizer.positions(ids)[-kept:]])
            else:
                rows = tokenizer.positions([tokenizer.bos_id, *ids])
            symbols: list[int] = []
            for symbol in generate_units(model, torch.from_numpy(rows).to(device), max_new, temperature=0):
                symbols.append(symbol)
                if tokenizer.closes(symbol) and "\n" in tokenizer.decode(symbols):
                    break
            units += tokenizer.length(symbols)
            texts.append(tokenizer.decode(symbols).split("\n")[0].strip())
            if title:
                bar.update(len(texts))
    return Written(texts, units, cut)

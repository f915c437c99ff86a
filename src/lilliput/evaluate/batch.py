"""Log-probabilities of many short sequences: what they share is read once, and the rest in full batches.

A batch is so many tokens, not rows, and holds trees of about one size, so that little of it is filling. The numbers are
those of scoring each sequence alone, up to rounding; which sequences stand together follows from them alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
import torch

from lilliput.evaluate.prefixes import Ids, Tree, trees
from lilliput.model.tree import TreeReader

# Tokens of a batch by kind of device: enough to fill it, small enough for its caches.
_BATCH_TOKENS = {"cpu": 2048, "cuda": 65536}
# Lengths, and predictions, are filled up to a multiple of these: the kernels of matrix products are prepared, and kept,
# for each shape that occurs.
_ROUND, _ROUND_ASKED = 16, 128


def score_sequences(
    reader: TreeReader,
    sequences: Sequence[Ids],
    scored: Sequence[int],
    *,
    batch: int | None = None,
    show: Callable[[float], None] = lambda share: None,
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.bool_]]:
    """For each sequence: (Σ log-probability in nats of its last `scored` ids, whether each of them is the likeliest).

    A sequence has at most context + 1 ids and more of them than are scored; with none scored it has (0, True).
    batch: tokens at once; changes speed and memory, never the result beyond rounding. show: is told the share done.
    """
    device = reader.embedding.device
    batch = batch or _BATCH_TOKENS.get(device.type, _BATCH_TOKENS["cpu"])
    log_p, greedy = np.zeros(len(sequences)), np.ones(len(sequences), bool)
    grown = sorted(trees(sequences, scored), key=lambda tree: -len(tree.ids))
    size = sum(len(tree.ids) for tree in grown)
    begin = done = 0
    while begin < len(grown):
        length = -(-len(grown[begin].ids) // _ROUND) * _ROUND
        taken = grown[begin : begin + max(1, batch // length)]
        values, best = _predict(reader, taken, length, device)
        first = 0
        for tree in taken:
            last = first + len(tree.at)
            for number, own in tree.asked:
                log_p[number] = values[first:last][own].sum()
                greedy[number] = best[first:last][own].all()
            first = last
        begin, done = begin + len(taken), done + sum(len(tree.ids) for tree in taken)
        show(done / size)
    return log_p, greedy


def _predict(
    reader: TreeReader, taken: list[Tree], length: int, device: torch.device
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.bool_]]:
    """All that the trees, each filled up to `length` tokens, ask for, one after the other."""
    ids_BT, depth_BT = np.zeros((len(taken), length), np.int64), np.zeros((len(taken), length), np.int64)
    end_BT = np.tile(np.arange(1, length + 1), (len(taken), 1))
    for row, tree in enumerate(taken):
        size = len(tree.ids)
        ids_BT[row, :size], depth_BT[row, :size], end_BT[row, :size] = tree.ids, tree.depth, tree.end
    at = np.concatenate([tree.at + row * length for row, tree in enumerate(taken)])
    targets = np.concatenate([tree.targets for tree in taken])
    asked, filling = len(at), np.zeros(-len(at) % _ROUND_ASKED, np.int64)
    at, targets = np.append(at, filling), np.append(targets, filling)
    arrays = (torch.from_numpy(array).to(device) for array in (ids_BT, depth_BT, end_BT, at, targets))
    ids, depth, end, at_M, targets_M = arrays
    log_p, best = reader.predict(reader.read(ids, depth, end), at_M, targets_M)
    return log_p[:asked].double().cpu().numpy(), best[:asked].cpu().numpy()

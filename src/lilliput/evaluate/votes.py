"""Committees: how votes are summed, how accuracy grows with members, and how far members differ."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import combinations
from typing import Any

import numpy as np
import numpy.typing as npt

from lilliput.evaluate.labels import Labels, accuracy, accuracy_gain

Array = npt.NDArray[np.float64]
# Subsets of one size that are looked at: all where there are no more.
_SUBSETS = 50


def softmax(logits: npt.ArrayLike) -> Array:
    """Probabilities over the last axis."""
    values = np.asarray(logits, np.float64)
    powers = np.exp(values - values.max(-1, keepdims=True))
    result: Array = powers / powers.sum(-1, keepdims=True)
    return result


def shares(votes_KNL: npt.ArrayLike, vote: str) -> Array:
    """What a committee makes of its members' logits, (rows, labels): "softmax" the mean of their probabilities (the
    paper's soft committee), "logits" the probabilities of the mean logits."""
    values = np.asarray(votes_KNL, np.float64)
    return softmax(values).mean(0) if vote == "softmax" else softmax(values.mean(0))


def by_size(votes_KNL: Array, truth: Labels, *, seed: int = 0) -> list[dict[str, Any]]:
    """Accuracy of committees of 1 … K members: for each size the mean, lowest and highest over all subsets, or over 50
    random ones where there are more; by both ways to vote."""
    members = len(votes_KNL)
    softened = softmax(votes_KNL)
    rows = []
    for size in range(1, members + 1):
        chosen = list(_subsets(members, size, seed))
        found: dict[str, Any] = {"members": size, "subsets": len(chosen)}
        for name, values in (("softmax", softened), ("logits", votes_KNL)):
            right = [float((values[list(one)].sum(0).argmax(1) == truth).mean()) for one in chosen]
            found[name] = {"value": float(np.mean(right)), "least": min(right), "most": max(right)}
        rows.append(found)
    return rows


def _subsets(members: int, size: int, seed: int) -> Iterator[tuple[int, ...]]:
    if math.comb(members, size) <= _SUBSETS:
        yield from combinations(range(members), size)
        return
    rng = np.random.Generator(np.random.PCG64(seed))
    seen: set[tuple[int, ...]] = set()
    while len(seen) < _SUBSETS:
        seen.add(tuple(sorted(rng.choice(members, size, replace=False).tolist())))
    yield from sorted(seen)


def committee_scores(votes_KNL: Array, truth: Labels) -> dict[str, Any]:
    """Accuracy of the whole committee by both ways to vote, with intervals over the test rows; its gain over its
    members' mean; how often two members differ; how often at least one is right (oracle)."""
    answers = votes_KNL.argmax(2)
    right = (answers == truth).astype(np.float64)
    found: dict[str, Any] = {}
    for vote in ("softmax", "logits"):
        mine = (shares(votes_KNL, vote).argmax(1) == truth).astype(np.float64)[None]
        gain = accuracy_gain(mine, right.mean(0)[None])
        found[vote] = {"accuracy": accuracy(mine).to_dict(), "gain": gain.to_dict()}
    pairs = [float((answers[a] != answers[b]).mean()) for a, b in combinations(range(len(answers)), 2)]
    return {
        **found,
        "members": [float(one) for one in right.mean(1)],
        "disagreement": float(np.mean(pairs)) if pairs else 0.0,
        "oracle": float(right.max(0).mean()),
    }

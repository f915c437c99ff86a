"""How well labels are told: accuracy, macro-F1 and their intervals, over test rows and seeds.

Both rows and seeds are drawn: SE² = s²_seed / n + SE²_rows, with Student's t at Satterthwaite's degrees of freedom
(1946), since only the first part rests on few seeds. With one seed the interval covers the choice of test rows alone.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from lilliput.evaluate.resampling import CONFIDENCE, item_error
from lilliput.evaluate.statistics import t_quantile

Labels = npt.NDArray[np.int64]
Array = npt.NDArray[np.float64]
_RESAMPLES = 500


@dataclass(frozen=True)
class Score:
    """A share with its 95 % interval, and the value of each seed."""

    value: float
    low: float
    high: float
    each: tuple[float, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON, rounded to what the test rows can tell."""
        return {name: round(getattr(self, name), 5) for name in ("value", "low", "high")}


def accuracy(right_KN: npt.ArrayLike) -> Score:
    """Share of right answers. right_KN: per seed and test row, 1 or 0."""
    right = np.asarray(right_KN, np.float64)
    return _score(right.mean(1), item_error(right.mean(0)))


def accuracy_gain(ours_KN: npt.ArrayLike, theirs_KN: npt.ArrayLike) -> Score:
    """How much more is right in the first than in the second, paired by seed and row."""
    difference = np.asarray(ours_KN, np.float64) - np.asarray(theirs_KN, np.float64)
    return _score(difference.mean(1), item_error(difference.mean(0)))


def f1(truth: Labels, guessed: Labels, labels: int) -> float:
    """Macro-F1: the mean of 2·tp / (2·tp + fp + fn) over the labels that occur in truth or guesses, as scikit-learn
    takes it. truth, guessed: numbers below `labels`."""
    return _f1(np.bincount(truth * labels + guessed, minlength=labels * labels), labels)


def _f1(counts: npt.NDArray[np.int64], labels: int) -> float:
    table = counts.reshape(labels, labels)
    total = table.sum(0) + table.sum(1)
    met = total > 0
    return float((2 * table.diagonal()[met] / total[met]).mean())


def macro_f1(truth: Labels, guessed_KN: Sequence[Labels], labels: int, *, seed: int = 0) -> Score:
    """Macro-F1 of each seed's guesses; the rows' part of the error by bootstrap, the same draws for every seed."""
    codes = [truth * labels + guessed for guessed in guessed_KN]
    size = labels * labels
    values = np.array([_f1(np.bincount(code, minlength=size), labels) for code in codes])
    rng = np.random.Generator(np.random.PCG64(seed))
    drawn = np.empty(_RESAMPLES)
    for at in range(_RESAMPLES):
        rows = rng.integers(0, len(truth), len(truth))
        drawn[at] = np.mean([_f1(np.bincount(code[rows], minlength=size), labels) for code in codes])
    return _score(values, float(drawn.std(ddof=1)) if len(truth) > 1 else 0.0)


def _score(values: Array, se_rows: float) -> Score:
    count, mean = len(values), float(values.mean())
    of_seeds = float(values.var(ddof=1)) / count if count > 1 else 0.0
    square = of_seeds + se_rows**2
    dof = square**2 / (of_seeds**2 / (count - 1)) if of_seeds > 0 else math.inf
    half = math.sqrt(square) * t_quantile((1 + CONFIDENCE) / 2, dof)
    return Score(mean, mean - half, mean + half, tuple(float(value) for value in values))


def by_label(truth: Labels, guessed: Labels, names: Sequence[str]) -> list[dict[str, Any]]:
    """Rows, share found (recall) and F1 of each label with test rows."""
    labels = len(names)
    table = np.bincount(truth * labels + guessed, minlength=labels * labels).reshape(labels, labels)
    rows, total, right = table.sum(1), table.sum(0) + table.sum(1), table.diagonal()
    return [
        {
            "label": name,
            "rows": int(rows[at]),
            "found": round(float(right[at] / rows[at]), 4),
            "f1": round(float(2 * right[at] / total[at]), 4),
        }
        for at, name in enumerate(names)
        if rows[at]
    ]


def confusion(truth: Labels, guessed: Labels, names: Sequence[str]) -> dict[str, Any]:
    """{labels, rows}: how many test rows of each label are told as each, of the labels that occur in truth or
    guesses."""
    labels = len(names)
    table = np.bincount(truth * labels + guessed, minlength=labels * labels).reshape(labels, labels)
    met = np.flatnonzero(table.sum(0) + table.sum(1))
    return {"labels": [names[at] for at in met.tolist()], "rows": table[np.ix_(met, met)].tolist()}

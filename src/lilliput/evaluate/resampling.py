"""The bootstrap: how much would a figure move if other documents, or other items of a task, had been drawn?

What is resampled is what was sampled: whole documents, whose figure is a ratio of sums (Σ nats / Σ bytes, never the
mean of the ratios); and items of a task, within each of its groups where the task's figure is the mean over groups, as
it is over BLiMP's paradigms. NumPy only. Draws are seeded: the same data give the same numbers.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]

LN2 = math.log(2.0)
RESAMPLES = 2000
CONFIDENCE = 0.95
# Indices drawn at once: bounds the memory of a bootstrap whatever the number of documents (8 bytes each).
_DRAWN_AT_ONCE = 2_000_000
# Up to so many distinct values, how often each is drawn is drawn, not which items.
_DISTINCT = 64


def resample_ratios(
    numerators: npt.ArrayLike, denominators: npt.ArrayLike, *, resamples: int = RESAMPLES, seed: int = 0
) -> Array:
    """Ratio of the sums over the documents, for each of `resamples` draws of them with replacement.

    Both arrays have shape (documents,), the result (resamples,). A draw without a byte gives NaN, which the
    callers leave out.
    Source: Efron & Tibshirani, An Introduction to the Bootstrap, §6 (the plug-in ratio estimator).
    """
    top, bottom = np.asarray(numerators, np.float64), np.asarray(denominators, np.float64)
    count = len(top)
    rng = np.random.Generator(np.random.PCG64(seed))
    at_once = max(1, _DRAWN_AT_ONCE // max(count, 1))
    ratios = np.empty(resamples)
    for begin in range(0, resamples, at_once):
        rows = min(at_once, resamples - begin)
        drawn = rng.integers(0, count, size=(rows, count))
        with np.errstate(invalid="ignore", divide="ignore"):
            ratios[begin : begin + rows] = top[drawn].sum(1) / bottom[drawn].sum(1)
    return ratios


def document_interval(
    nats: npt.ArrayLike,
    sizes: npt.ArrayLike,
    *,
    confidence: float = CONFIDENCE,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> tuple[float, float]:
    """Percentile interval of bits per byte over the documents; (NaN, NaN) for fewer than two documents.

    nats: per document, in nats. sizes: UTF-8 bytes per document.
    """
    if np.asarray(nats).size < 2 or np.asarray(sizes).sum() <= 0:
        return math.nan, math.nan
    ratios = resample_ratios(nats, sizes, resamples=resamples, seed=seed) / LN2
    tail = (1 - confidence) / 2
    low, high = np.nanquantile(ratios, [tail, 1 - tail])
    return float(low), float(high)


def document_error(nats: npt.ArrayLike, sizes: npt.ArrayLike, *, seed: int = 0) -> float:
    """Standard error of bits per byte over the documents (bootstrap); 0 for fewer than two documents.

    `nats` may be differences of nats between two arms on the same documents: then this is SE_documents of
    the paired comparison.
    """
    if np.asarray(nats).size < 2 or np.asarray(sizes).sum() <= 0:
        return 0.0
    return float(np.nanstd(resample_ratios(nats, sizes, seed=seed), ddof=1) / LN2)


def group_mean(points: npt.ArrayLike, groups: npt.NDArray[np.int64] | None = None) -> float:
    """The mean of the groups' means; of all items where there are no groups.

    points: per item, shape (items,). groups: the number of each item's group, from 0 on, none of them empty.
    """
    values = np.asarray(points, np.float64)
    if groups is None:
        return float(values.mean())
    return float((np.bincount(groups, values) / np.bincount(groups)).mean())


def item_error(points: npt.ArrayLike, groups: npt.NDArray[np.int64] | None = None, *, seed: int = 0) -> float:
    """Standard error of `group_mean` over the items, drawn with replacement within each group; 0 for a single item.

    `points` may be differences between two arms on the same items. For right and wrong it is, but for the resamples'
    own noise, √((b + c)/n − (b − c)²/n²)/√n, with b and c the items that only one of two models has right.
    """
    values = np.asarray(points, np.float64)
    if values.size < 2:
        return 0.0
    rng = np.random.Generator(np.random.PCG64(seed))
    if groups is None:
        return float(_resample_mean(values, rng).std(ddof=1))
    total, count = np.zeros(RESAMPLES), int(groups.max()) + 1
    for number in range(count):
        total += _resample_mean(values[groups == number], rng)
    return float((total / count).std(ddof=1))


def _resample_mean(values: Array, rng: np.random.Generator) -> Array:
    """The mean of each of RESAMPLES draws of the items. How often each distinct value is drawn is multinomial, so tens
    of thousands of items that are right or wrong take no longer than ten."""
    kinds, counts = np.unique(values, return_counts=True)
    if len(kinds) > _DISTINCT:
        return resample_ratios(values, np.ones(len(values)), seed=int(rng.integers(2**32)))
    if len(kinds) == 1:
        return np.full(RESAMPLES, kinds[0])
    drawn = rng.multinomial(len(values), counts / len(values), size=RESAMPLES)
    means: Array = drawn @ kinds / len(values)
    return means

"""What a shape is expected to reach, fitted from runs.

The logarithm of bits per byte is taken as linear in a few features of the shape. Each coefficient starts from what
the literature says, loosely, and moves as far as the runs ask (Bayesian linear regression). Only differences within
a group of comparable runs count, so no run is compared with one of other text or length.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lilliput.model.config import ModelConfig
from lilliput.plan.evidence import Run, shipped_runs
from lilliput.plan.rules import EXPANSION, MAX_SHARE, aspect, table_share, wanted_head_dim

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Term:
    """One coefficient before any run: its value, how far runs may easily move it (a standard deviation), and why."""

    name: str
    start: float
    spread: float
    why: str


# Units: change of ln(bits per byte) for a change of the feature by one.
TERMS = (
    # All parameters, not those of the body alone: at this scale a bigger table is worth its place (vocabulary-size), so
    # with the body's alone small bodies would look good. And it is all parameters that a budget limits.
    Term("size", -0.076, 0.03, "ln of all parameters; L ∝ N^-0.076 (2001.08361 §3.1, there of the body)"),
    Term("aspect", 0.0, 0.02, "ln of width/depth over the usual line: which side of it is better"),
    Term("aspect²", 0.009, 0.01, "its square: a factor of 6 from the best costs 3 % (2001.08361 Fig. 5)"),
    Term("expansion", 0.0, 0.02, "ln of the expansion over 2.77 (PanGu-π Pro Table 3)"),
    Term("expansion²", 0.01, 0.01, "its square: hardly matters in [2, 4], 1 is worst (Table 3)"),
    Term("head", 0.0, 0.01, "ln of the channels a head over the usual (Table 12: no clear order)"),
    Term("head²", 0.002, 0.005, "its square"),
    Term("share", 0.0, 0.02, "ln of the share of embedding and head over 20 %"),
    Term("share²", 0.01, 0.01, "its square: both ends lose (Table 1)"),
    Term("grouping", 0.004, 0.004, "log2 of heads over key-value heads: a small loss is assumed"),
    Term("shortcut", 0.0, 0.02, "PanGu-π's augmented shortcut against none (2312.17276)"),
    Term("series", 0.0, 0.02, "PanGu-π's activation of two terms against one (2312.17276)"),
)
# Noise of a run where no seeds were repeated, and what a model of so few terms cannot tell: ln of bits per byte.
_NOISE, _MISFIT = 0.005, 0.004


def features(shape: ModelConfig) -> Floats:
    """The features of a shape, in the order of TERMS."""
    side = math.log(shape.width / shape.depth / aspect(shape.parameters()))
    wide = math.log(shape.ffn / shape.width / EXPANSION)
    head = math.log(shape.head_dim / wanted_head_dim(shape.width))
    table = math.log(table_share(shape) / MAX_SHARE)
    return np.array([
        math.log(shape.parameters() / 1e6), side, side**2, wide, wide**2, head, head**2, table, table**2,
        math.log2(shape.heads / shape.kv_heads), float(shape.shortcut > 0), float(shape.series > 1),
    ])  # fmt: skip


@dataclass(frozen=True)
class Prior:
    """A fitted prior. mean (terms,), covariance (terms, terms): of the coefficients. misfit: standard deviation, in ln
    of bits per byte, of what the terms do not explain. informed: for each term, the groups of runs that vary it."""

    mean: Floats
    covariance: Floats
    misfit: float
    noise: float
    informed: tuple[int, ...]
    runs: tuple[Run, ...]

    def loss(self, shape: ModelConfig) -> float:
        """Expected ln of bits per byte, up to a constant that is the same for all shapes."""
        return float(features(shape) @ self.mean)

    def compare(self, shape: ModelConfig, base: ModelConfig) -> tuple[float, float]:
        """(expected change of ln bits per byte from `base` to `shape`, its standard deviation)."""
        if shape == base:
            return 0.0, 0.0
        gap = features(shape) - features(base)
        return float(gap @ self.mean), math.sqrt(float(gap @ self.covariance @ gap) + 2 * self.misfit**2)


@functools.cache
def shipped_prior() -> Prior:
    """The prior of the runs that ship with Lilliput."""
    return fit(shipped_runs())


def fit(runs: Sequence[Run]) -> Prior:
    """The posterior of the coefficients. A group's own level is free; what a seed does to all shapes of its group (the
    order of the data) is taken out first, and runs of one shape are averaged over their seeds."""
    groups = [one for one in map(_levels, _by_group(runs)) if len(one.shapes) > 1]
    start = np.array([term.start for term in TERMS])
    spread = np.array([term.spread for term in TERMS])
    freedom = sum(one.freedom for one in groups)
    noise = math.sqrt(sum(one.squares for one in groups) / freedom) if freedom >= 3 else _NOISE
    # Each group's level: one more coefficient, free to be anything.
    certain = np.concatenate([spread**-2, np.zeros(len(groups))])
    X = np.concatenate([np.zeros((0, len(certain))), *(_rows(one, n, len(groups)) for n, one in enumerate(groups))])
    y = np.concatenate([np.zeros(0), *(one.values for one in groups)])
    counts = np.concatenate([np.zeros(0), *(one.counts for one in groups)])
    weight = _weight(counts, noise)
    begin = np.concatenate([start, np.zeros(len(groups))])
    squares = np.array([term.name.endswith("²") for term in TERMS] + [False] * len(groups))
    held = np.zeros_like(squares)
    while True:
        # A square below zero would send the best shape to infinity: it is held at none, and the rest fitted anew.
        mean, covariance = _posterior(X, y, weight, np.where(held, 0, begin), np.where(held, 1e12, certain))
        bent = squares & ~held & (mean < 0)
        if not bent.any():
            break
        held |= bent
    terms = slice(0, len(TERMS))
    informed = tuple(sum(int(one.varies[place]) for one in groups) for place in range(len(TERMS)))
    return Prior(mean[terms], covariance[terms, terms], _MISFIT, noise, informed, tuple(runs))


def _weight(counts: Floats, noise: float) -> Floats:
    """Precision of the mean of so many seeds: what the terms do not explain stays however many there are."""
    return np.asarray(1 / (_MISFIT**2 + noise**2 / counts))


def _posterior(X: Floats, y: Floats, weight: Floats, begin: Floats, certain: Floats) -> tuple[Floats, Floats]:
    """Mean and covariance of the coefficients of y ≈ X·c, the precision of each row being `weight`, where c has before
    the mean `begin` and the precision `certain`."""
    covariance: Floats = np.linalg.inv(X.T @ (weight[:, None] * X) + np.diag(certain)).astype(np.float64)
    return covariance @ (X.T @ (weight * y) + certain * begin), covariance


def fitted(prior: Prior) -> list[dict[str, Any]]:
    """The runs that the prior was fitted from, by group and shape: bits per byte measured (the seeds' effects out) and
    fitted. Groups of a single shape tell nothing and are left out."""
    answer = []
    for members in _by_group(prior.runs):
        group = _levels(members)
        if len(group.shapes) < 2:
            continue
        gaps = group.values - group.features @ prior.mean
        level = float(np.average(gaps, weights=_weight(group.counts, prior.noise)))
        rows = [
            {
                "arm": next(run.arm for run in members if run.shape == shape),
                "depth": shape.depth,
                "width": shape.width,
                "expansion": shape.ffn / shape.width,
                "head_dim": shape.head_dim,
                "vocab": shape.vocab_size,
                "parameters": shape.parameters(),
                "seeds": int(count),
                "bits_per_byte": math.exp(value),
                "fitted": math.exp(level + prior.loss(shape)),
            }
            for shape, value, count in zip(group.shapes, group.values, group.counts, strict=True)
        ]
        answer.append({"studies": sorted({run.study for run in members}), "shapes": rows})
    return answer


@dataclass(frozen=True)
class _Group:
    """Runs that may be compared. features (shapes, terms); values (shapes,): ln bits per byte with the seeds' effects
    out; counts (shapes,): seeds. squares, freedom: of what is left between seeds."""

    shapes: list[ModelConfig]
    features: Floats
    values: Floats
    counts: Floats
    squares: float
    freedom: int

    @property
    def varies(self) -> NDArray[np.bool_]:
        """Which features differ within the group."""
        return np.asarray(self.features.max(0) - self.features.min(0) > 1e-9)


def _by_group(runs: Sequence[Run]) -> list[list[Run]]:
    groups: dict[str, list[Run]] = {}
    for run in runs:
        groups.setdefault(run.group, []).append(run)
    return list(groups.values())


def _levels(members: Sequence[Run]) -> _Group:
    """Least squares on shape + seed. The seeds' effects are the smallest that explain the runs, so that shapes which
    share no seed keep the whole of their difference."""
    shapes = sorted({run.shape for run in members}, key=repr)
    seeds = sorted({run.seed for run in members})
    by_shape = np.array([[run.shape == shape for shape in shapes] for run in members], dtype=np.float64)
    by_seed = np.array([[run.seed == seed for seed in seeds] for run in members], dtype=np.float64)
    values = np.log([run.bits_per_byte for run in members])
    counts = by_shape.sum(0)
    # What is left of both once each shape's own mean is taken off; `mean` has a row for each shape.
    mean = by_shape.T / counts[:, None]
    left = values - by_shape @ (mean @ values)
    seeds_left = (by_seed - by_shape @ (mean @ by_seed)).round(12)  # a seed of all runs alike leaves exactly nothing
    effects, _, rank, _ = np.linalg.lstsq(seeds_left, left, rcond=1e-9)
    return _Group(
        shapes,
        np.stack([features(shape) for shape in shapes]),
        (mean @ (values - by_seed @ effects)).astype(np.float64),
        counts,
        float(np.square(left - seeds_left @ effects).sum()),
        len(members) - len(shapes) - int(rank),
    )


def _rows(group: _Group, place: int, groups: int) -> Floats:
    """Features and, beside them, a one in the column of the group's level."""
    level = np.zeros((len(group.shapes), groups))
    level[:, place] = 1
    return np.concatenate([group.features, level], axis=1)

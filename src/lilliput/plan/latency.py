"""How fast a shape would write and train here, from a calibration of this machine.

A decoding step of the writer (model/generate.py) is the sum of what it does, each at a price that the calibration fits:

    fixed + layers·l(S) + elements·e + logits·v                              operator calls, element-wise work, the head
    + bytes of weights·w(S) [+ rows·bytes·m where there are several rows]    every weight is read once a step
    + caches·a [+ shared heads·h] + scores·s + first scores·f + bytes of cache·c(S)    attention over what is written

S is the bytes that every step goes through: what fits a level of the processor's caches is read fast, what does not
comes from the next, and even a call takes longer where weights have driven its code out. So w and c rise with S,
piecewise linearly in log S, and l takes a step. One row is multiplied by other kernels than
several are, so w is fitted for both; heads that share keys and values go through another kernel, too, and have a price
of their own. Prices are never negative, hence a shape that does more of anything is never predicted to be faster. They
minimise the squared relative error over the probes (Lawson & Hanson's active set).

A training step costs layers·call + FLOPs / rate(width), attention's among them, the rate interpolated over log width.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from lilliput.evaluate.speed import feeds
from lilliput.model.config import ModelConfig
from lilliput.model.sharing import unrolled
from lilliput.plan.probes import Point, Step
from lilliput.train.derive import flops

Array = npt.NDArray[np.float64]

ITEMSIZE = {"fp32": 4, "bf16": 2}
# Bytes at which the price of a byte bends: around the caches of processors.
BENDS = tuple(size * 2.0**20 for size in (1, 4, 16, 64))
# Positions that cost more than those after them: reading a head's cache begins slowly, and goes on fast.
_FIRST = 64
# Past this bend a layer's calls begin cold.
_COLD = 2
# Queries that go over the cache together when a text is read at once.
_QUERIES = 32
# What the calls of PanGu-π blocks add to a plain layer's, as shares of them (timed at widths 64 to 256): a GELU and two
# joinings for the shortcut, two calls for the second term of the activation. Their weights count as all others do.
_SHORTCUT_CALLS, _SERIES_CALLS = 0.08, 0.05

PRICES = (
    "fixed",
    "layer",
    "layer, cold",
    "element",
    "logit",
    *(f"weight byte, one row {bend}" for bend in range(len(BENDS))),
    *(f"weight byte, rows {bend}" for bend in range(len(BENDS))),
    "weight byte and row",
    "cache",
    "shared head",
    "score",
    "score, first",
    *(f"cache byte {bend}" for bend in range(len(BENDS))),
)


@dataclass(frozen=True)
class Calibration:
    """What this machine charges. prices: seconds for each of PRICES. layer_seconds: of a layer's calls in a training
    step. widths, rates: FLOP/s that training reaches at each width. about: device, machine, versions and probes."""

    dtype: str
    prices: dict[str, float]
    layer_seconds: float
    widths: tuple[float, ...]
    rates: tuple[float, ...]
    about: dict[str, Any]

    def tokens_per_second(self, shape: ModelConfig, *, batch: int = 1, prefix: int = 2, new: int = 510) -> float:
        """Predicted decoding speed of one text among `batch`, by the protocol of `measure_speed`."""
        return new / self.decode_seconds(shape, batch=batch, prefix=prefix, new=new)

    def decode_seconds(self, shape: ModelConfig, *, batch: int = 1, prefix: int = 2, new: int = 510) -> float:
        """Predicted seconds from the prefix's entry to the last of `new` ids."""
        start, length, times = _fed(shape.context, prefix, new)
        amounts = features(shape, batch, start, length, ITEMSIZE[self.dtype])
        return float(times @ (amounts @ np.array([self.prices[name] for name in PRICES])))

    def train_seconds(self, shape: ModelConfig, tokens: int, micro_sequences: int) -> float:
        """Predicted seconds of training on `tokens`, not compiled, `micro_sequences` windows at a time."""
        passes = tokens / (micro_sequences * shape.context)
        rate = float(np.exp(np.interp(math.log(shape.width), np.log(self.widths), np.log(self.rates))))
        return passes * shape.depth * _calls(shape) * self.layer_seconds + training_flops(shape, tokens) / rate

    @property
    def provisional(self) -> bool:
        """Whether the machine was busy when it was timed."""
        return bool(self.about.get("provisional"))

    @property
    def fit_error(self) -> float:
        """Median relative error of the fit over the probes."""
        return float(self.about["fit_error"])

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, raw: dict[str, Any]) -> Calibration:
        """The calibration that `to_dict` gave; raises KeyError, TypeError or ValueError for anything else."""
        found = cls(
            dtype=str(raw["dtype"]),
            prices={name: float(raw["prices"][name]) for name in PRICES},
            layer_seconds=float(raw["layer_seconds"]),
            widths=tuple(float(width) for width in raw["widths"]),
            rates=tuple(float(rate) for rate in raw["rates"]),
            about=dict(raw["about"]),
        )
        numbers = (*found.prices.values(), found.layer_seconds, *found.widths, *found.rates)
        positive = all(value > 0 for value in (*found.widths, *found.rates, sum(found.prices.values())))
        if not (all(math.isfinite(value) and value >= 0 for value in numbers) and positive):
            raise ValueError("a price is negative or not a number")
        if found.dtype not in ITEMSIZE or not 0 < len(found.widths) == len(found.rates):
            raise ValueError("the dtype or the rates are not usable")
        return found


@lru_cache(maxsize=64)
def _fed(context: int, prefix: int, new: int) -> tuple[Array, Array, Array]:
    """(position, length, how often) of what the writer takes in. Single positions are gathered to the middles of 32."""
    single: list[int] = []
    pieces: list[tuple[float, float, float]] = []
    for position, length in feeds(context, prefix, new):
        if length == 1:
            single.append(position)
        else:
            pieces.append((position, length, 1.0))
    for group in np.array_split(np.sort(np.array(single, float)), min(32, len(single)) or 1):
        if len(group):
            pieces.append((float(group.mean()), 1.0, float(len(group))))
    columns = np.array(pieces, float).T
    return columns[0], columns[1], columns[2]


def features(shape: ModelConfig, batch: int, start: Array, length: Array, itemsize: int) -> Array:
    """Amounts of each of PRICES in the steps that take `length` ids after `start` others, (steps, prices)."""
    depth, heads, kv_heads, head_dim = shape.depth, shape.heads, shape.kv_heads, shape.head_dim
    rows, end = batch * length, start + length
    tables = shape.vocab_size * shape.width
    # Every weight but the embedding, of which one row is looked up; a tied table is read as the head. The writer has a
    # copy of its own for each use of what layers share.
    read = itemsize * float(unrolled(shape).parameters() - (0 if shape.tied else tables)) * np.ones_like(start)
    seen = np.ceil(length / _QUERIES) * itemsize * 2.0 * depth * batch * kv_heads * head_dim * end
    elements = 4 * shape.width + 2 * (heads + 2 * kv_heads) * head_dim + (1 + 2 * shape.series) * shape.ffn
    scores = batch * depth * heads * length * (start + (length + 1) / 2)
    level = _level(read + seen)
    one = (rows == 1)[:, None]
    columns = [
        np.ones_like(start),
        np.full_like(start, depth * _calls(shape)),
        depth * _calls(shape) * level[:, _COLD],
        depth * rows * elements,
        np.full_like(start, float(batch * shape.vocab_size)),
        np.where(one, read[:, None] * level, 0.0),
        np.where(one, 0.0, read[:, None] * level),
        np.where(rows == 1, 0.0, rows * read),
        np.full_like(start, float(depth * batch * kv_heads)),
        np.full_like(start, float(depth * batch * heads * (heads != kv_heads))),
        scores,
        batch * depth * heads * length * np.minimum(start + (length + 1) / 2, _FIRST),
        seen[:, None] * level,
    ]
    return np.column_stack(columns)


def _calls(shape: ModelConfig) -> float:
    """Operator calls of a layer, in those of a plain one."""
    return 1.0 + (_SHORTCUT_CALLS if shape.shortcut else 0.0) + (_SERIES_CALLS if shape.series > 1 else 0.0)


def _level(size: Array) -> Array:
    """How far `size` bytes are past each bend, (steps, bends): 1 for the first, then 0 to 1 from a bend to the next."""
    logs, bends = np.log(size), np.log(BENDS)
    ramps = [np.clip((logs - low) / (high - low), 0.0, 1.0) for low, high in pairwise(bends)]
    return np.column_stack([np.ones_like(size), *ramps])


def fit_prices(points: Sequence[Point], dtype: str) -> dict[str, float]:
    """The prices that predict the probes with the least squared relative error, none negative."""
    rows = [
        features(point.shape, point.batch, np.array([point.position]), np.ones(1), ITEMSIZE[dtype])[0] / point.seconds
        for point in points
    ]
    matrix = np.array(rows)
    scale = np.maximum(matrix.max(0), np.finfo(float).tiny)
    prices = _non_negative(matrix / scale, np.ones(len(rows))) / scale
    return {name: float(price) for name, price in zip(PRICES, prices, strict=True)}


def _non_negative(a: Array, b: Array) -> Array:
    """The x ≥ 0 that minimises |a·x − b|² (Lawson & Hanson 1974, ch. 23)."""
    x = np.zeros(a.shape[1])
    free = np.zeros(a.shape[1], bool)
    for _ in range(10 * len(x)):
        pull = np.where(free, -np.inf, a.T @ (b - a @ x))
        if pull.max() <= 1e-10 * len(b):
            break
        free[int(pull.argmax())] = True
        while True:
            best = np.zeros_like(x)
            best[free] = np.linalg.lstsq(a[:, free], b, rcond=None)[0]
            below = free & (best <= 0)
            if not below.any():
                break
            # As far towards the best as nothing turns negative; what reaches zero is held there.
            x += float((x[below] / (x[below] - best[below])).min()) * (best - x)
            free &= x > 1e-15
            x[~free] = 0.0
        x = best
    return x


def training_flops(shape: ModelConfig, tokens: float) -> float:
    """Training cost as `flops` counts it, and attention's part: 6 · depth · heads · head_dim · context a token (forward
    and backward, the half that is not masked)."""
    return flops(shape, tokens) + 6.0 * shape.depth * shape.heads * shape.head_dim * shape.context * tokens


def fit_training(steps: Sequence[Step]) -> tuple[float, dict[float, float]]:
    """(seconds of a layer's calls, FLOP/s by width). The two smallest probes, of one width or close to it, tell the
    calls from the arithmetic."""
    work = [training_flops(step.shape, step.windows * step.shape.context) for step in steps]
    small, next_one = steps[0], steps[1]
    depth = np.array([[small.shape.depth, work[0]], [next_one.shape.depth, work[1]]], float)
    layer = float(np.linalg.solve(depth, np.array([small.seconds, next_one.seconds]))[0])
    layer = min(max(layer, 0.0), 0.9 * min(step.seconds / step.shape.depth for step in steps))
    rates = {
        float(step.shape.width): done / (step.seconds - step.shape.depth * layer)
        for step, done in zip(steps[1:], work[1:], strict=True)
    }
    return layer, rates

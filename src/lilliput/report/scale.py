"""From data to pixels: linear and logarithmic axes with round ticks."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

_STEPS = (1.0, 2.0, 2.5, 5.0, 10.0)
# Smaller values have no place on a logarithmic axis: next to the smallest float, its ends and ticks would be zero.
_LEAST = 1e-290


@dataclass(frozen=True)
class Axis:
    """One axis: data range [low, high] on pixels [start, end]."""

    low: float
    high: float
    start: float
    end: float
    log: bool
    ticks: tuple[float, ...]

    def __call__(self, value: float) -> float:
        """The pixel of a value; values beyond the range are held at its edge."""
        low, high = _place(self.low, self.log), _place(self.high, self.log)
        share = (_place(value, self.log) - low) / (high - low)
        return self.start + min(1.0, max(0.0, share)) * (self.end - self.start)

    def labels(self) -> list[str]:
        """The ticks as text, all with the same number of decimals on a linear axis."""
        if self.log:
            small = self.ticks[0] < 1e-3 and self.ticks[-1] < 1
            return [_power(tick) if small else tick_text(tick) for tick in self.ticks]
        step = self.ticks[1] - self.ticks[0] if len(self.ticks) > 1 else abs(self.ticks[0]) or 1.0
        return [tick_text(tick, step) for tick in self.ticks]


def _place(value: float, log: bool) -> float:
    return math.log10(value) if log and value > 0 else -300.0 if log else value


def make_axis(
    values: Iterable[float], start: float, end: float, *, log: bool = False, wanted: int = 6, pad: float = 0.04
) -> Axis:
    """An axis that holds all finite `values` (the positive ones if `log`), padded by a share of its length."""
    found = [value for value in values if math.isfinite(value) and (value >= _LEAST or not log)]
    if not found:
        found = [1.0, 10.0] if log else [0.0, 1.0]
    low, high = min(found), max(found)
    if log:
        a, b = math.log10(low), math.log10(high)
        margin = pad * (b - a) if b > a else 0.15
        low, high = 10 ** (a - margin), 10 ** (b + margin)
        ticks = log_ticks(low, high, wanted)
    else:
        margin = pad * (high - low) if high > low else abs(high) * 0.1 or 1.0
        low, high = low - margin, high + margin
        ticks = linear_ticks(low, high, wanted)
    return Axis(low, high, start, end, log, tuple(ticks))


def linear_ticks(low: float, high: float, wanted: int = 6) -> list[float]:
    """Round numbers in [low, high], about `wanted` of them: multiples of 1, 2, 2.5 or 5 × 10^k."""
    raw = (high - low) / max(1, wanted)
    base = 10.0 ** math.floor(math.log10(raw))
    step = next(base * factor for factor in _STEPS if base * factor >= raw * 0.999)
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return [round(index * step, 12) + 0.0 for index in range(first, last + 1)]


def log_ticks(low: float, high: float, wanted: int = 6) -> list[float]:
    """Powers of ten in [low, high]; with too few of them also 2 and 5 times; on less still, linear ones."""
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    for factors in ((1.0,), (1.0, 3.0), (1.0, 2.0, 5.0)):
        ticks = [f * 10.0**e for e in range(first, last + 1) for f in factors]
        ticks = [tick for tick in ticks if low <= tick <= high]
        if len(ticks) >= 3:
            skip = math.ceil(len(ticks) / (wanted + 3))
            return ticks[::skip]
    return [tick for tick in linear_ticks(low, high, wanted) if tick > 0] or [low]


def tick_text(value: float, step: float | None = None) -> str:
    """`0.5`, `250k`, `1.5M`, `1e-4`: short, with the decimals that `step` needs."""
    if value == 0:
        return "0"
    size = abs(value)
    for unit, letter in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e4, "k")):
        if size >= unit:
            unit = 1e3 if letter == "k" else unit
            return f"{_plain(value / unit, None if step is None else step / unit)}{letter}"
    if size < 1e-3:
        return _power(value)
    return _plain(value, step)


def _power(value: float) -> str:
    exponent = math.floor(math.log10(abs(value)) + 1e-9)
    return f"{value / 10.0**exponent:.3g}e{exponent}"


def _plain(value: float, step: float | None) -> str:
    if step is None:
        return f"{value:.4g}"
    decimals = 0
    while decimals < 6 and abs(step * 10**decimals - round(step * 10**decimals)) > 1e-6:
        decimals += 1
    return f"{value:.{decimals}f}"


def thin(
    x: Sequence[float], y: Sequence[float], points: int = 400
) -> tuple[list[float], list[float]]:
    """At most `points` points: means over equal stretches, so that a curve of any length stays small."""
    if len(x) <= points:
        return list(x), list(y)
    edges = [round(index * len(x) / points) for index in range(points + 1)]
    spans = list(pairwise(edges))
    return (
        [sum(x[a:b]) / (b - a) for a, b in spans],
        [sum(y[a:b]) / (b - a) for a, b in spans],
    )

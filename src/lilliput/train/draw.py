"""Which units are read again: drawn without replacement, by chance that follows from (seed, round, unit) alone."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from lilliput.train.order import mix, scramble

_GOLDEN = 0x9E3779B97F4A7C15
# Tells these numbers from those of the order.
_DRAW = 0x64726177


def chance(units: NDArray[np.int64], *key: int) -> NDArray[np.float64]:
    """A number between 0 and 1 for each unit, both excluded: splitmix64 counted from a key, its upper 53 bits."""
    counters = units.astype(np.uint64) * np.uint64(_GOLDEN)
    bits = scramble(counters, mix(_DRAW, *key)) >> np.uint64(11)
    return (bits.astype(np.float64) + 0.5) / float(1 << 53)


def draw(
    losses: NDArray[np.float64] | None,
    parts: NDArray[np.int64],
    quotas: NDArray[np.int64],
    *,
    weighting: str,
    temperature: float,
    key: tuple[int, ...],
) -> NDArray[np.int64]:
    """The units drawn, int64, rising: of part p, units parts[p] to parts[p + 1], so many as quotas[p] says.

    weighting: "loss" draws one unit after the other with p = softmax(losses / temperature) over those of the part that
    are left; "uniform" with equal p; "top" takes the highest losses. losses: of each unit, nats; None where they do not
    count. A loss that is no number counts as the lowest: such a unit is drawn only where nothing else is left.
    """
    units = np.arange(parts[-1], dtype=np.int64)
    # The n largest of score + Gumbel noise are n successive draws by softmax (Kool et al. 2019, 1903.06059 §2.2).
    rank = -np.log(-np.log(chance(units, *key)))
    if losses is not None and weighting != "uniform":
        known = np.where(np.isfinite(losses), losses, -np.inf)
        rank = known if weighting == "top" else rank + known / temperature
    chosen = [
        begin + np.sort(np.argsort(-rank[begin:end], kind="stable")[:quota])
        for begin, end, quota in zip(parts[:-1], parts[1:], quotas, strict=True)
    ]
    return np.concatenate(chosen)

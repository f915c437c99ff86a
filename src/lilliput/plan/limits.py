"""What a device allows: ceilings on parameters, on bytes and on the time of a token."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from lilliput.model.config import ModelConfig
from lilliput.plan.cost import weight_bytes
from lilliput.recipe import Budget

# Tokens a second that a shape writes on this machine, one sequence at a time.
Rate = Callable[[ModelConfig], float]

_BYTES_PER_WEIGHT = {16: 2.0, 8: 34 / 32, 4: 144 / 256}


@dataclass(frozen=True)
class Limit:
    """One ceiling. key: the recipe's key. measure: what is limited; it grows with every dimension of a shape."""

    key: str
    ceiling: float
    measure: Callable[[ModelConfig], float]

    def holds(self, shape: ModelConfig) -> bool:
        """Whether the shape keeps the limit."""
        return self.measure(shape) <= self.ceiling

    def at(self, ceiling: float) -> Limit:
        """The same limit with another ceiling."""
        return replace(self, ceiling=ceiling)

    def setting(self) -> str:
        """The recipe's setting for this ceiling, never stricter than it."""
        if self.key == "budget.speed":
            digits = 2 - math.floor(math.log10(1 / self.ceiling))
            return f"{self.key}={math.floor(10**digits / self.ceiling) / 10**digits:g}"
        return f"{self.key}={math.ceil(self.ceiling)}"

    def said(self) -> str:
        """The ceiling for people."""
        if self.key == "budget.speed":
            return f"{1 / self.ceiling:,.10g} tokens a second"
        return f"{self.ceiling:,.0f} {self.key.removeprefix('budget.').replace('params', 'parameters')}"


def limits_of(budget: Budget, rate: Rate | None) -> list[Limit]:
    """The limits of a budget. rate: needed where it names a speed."""
    limits = []
    if budget.params is not None:
        limits.append(Limit("budget.params", budget.params, lambda shape: shape.parameters()))
    if budget.bytes is not None:
        bits = budget.bits or 16
        limits.append(Limit("budget.bytes", budget.bytes, lambda shape: weight_bytes(shape, bits)))
    if budget.speed is not None and rate is not None:
        limits.append(Limit("budget.speed", 1 / budget.speed, lambda shape: 1 / rate(shape)))
    return limits


def parameters_within(limits: Sequence[Limit], bits: int) -> int | None:
    """About the parameters that limits on size leave room for; None where only a speed, or nothing, is limited."""
    per = {"budget.params": 1.0, "budget.bytes": _BYTES_PER_WEIGHT[bits]}
    return min((int(limit.ceiling / per[limit.key]) for limit in limits if limit.key in per), default=None)

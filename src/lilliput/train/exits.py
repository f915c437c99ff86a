"""Training a decoder whose layers need not all be run: layer dropout and a loss at every exit (LayerSkip, 2404.16710).

Layer dropout (§4.1.1): in update t the layer l leaves a sequence as it is with probability
    p = D(l)·S(t)·p_max,   D(l) = exp(l·ln 2/(L − 1)) − 1,   S(t) = exp(t·ln 2/(T − 1)) − 1 or 1,
so that the first layer never drops and the last up to p_max. Nothing is rescaled.

Early exit loss (§4.1.2): the states after each layer pass the model's own last norm and head, and the loss is
    Σ_l ẽ(t, l)·J(l),   ẽ(t, l) = C(t, l)·e(l) / Σ_i C(t, i)·e(i),
    e(l) = e_scale·Σ_{i=0}^{l} i for l < L − 1,   e(L − 1) = L − 1 + e_scale·Σ_{i=0}^{L−2} i.
C(t, l) is 1 for the exits that update t counts: "rotational", each R-th layer, one layer further at each update;
"gradual", the last first, one more each T/(2L) updates; "none", all. The last layer counts always. (e(0) is 0: what
stands before any but the first layer is not asked to predict.)
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lilliput.errors import ConfigError

if TYPE_CHECKING:
    from lilliput.model.config import ModelConfig

LAYER_SCHEDULES = ("exponential", "constant")
CURRICULA = ("rotational", "gradual", "none")


@dataclass(frozen=True)
class LayerDropout:
    """rate: p_max. schedule: S(t), "exponential" for a model that begins anew, "constant" for one trained further."""

    rate: float
    schedule: str = "exponential"

    def __post_init__(self) -> None:
        if not 0 <= self.rate < 1:
            raise ConfigError(
                f"layer_dropout is {self.rate}", where="train.layer_dropout", mend="give 0 or more, below 1"
            )
        if self.schedule not in LAYER_SCHEDULES:
            raise ConfigError(
                f"unknown schedule {self.schedule!r}",
                where="train.layer_dropout_schedule",
                mend=f"one of {', '.join(LAYER_SCHEDULES)}",
            )

    def at(self, depth: int, step: int, steps: int) -> list[float]:
        """The probability with which each of `depth` layers is left out in update `step` of `steps`."""
        over_time = 1.0 if self.schedule == "constant" else _rise(step, steps)
        return [_rise(layer, depth) * over_time * self.rate for layer in range(depth)]


def _rise(place: int, places: int) -> float:
    """exp(i·ln 2/(n − 1)) − 1: 0 at the first place, 1 at the last."""
    return math.expm1(place * math.log(2) / max(1, places - 1))


@dataclass(frozen=True)
class ExitLoss:
    """scale: e_scale. curriculum: C. every: R of "rotational", at most the depth."""

    scale: float
    curriculum: str = "rotational"
    every: int = 1

    def __post_init__(self) -> None:
        if not 0 < self.scale <= 1:
            raise ConfigError(f"exit_loss is {self.scale}", where="train.exit_loss", mend="give above 0, at most 1")
        if self.curriculum not in CURRICULA:
            raise ConfigError(
                f"unknown curriculum {self.curriculum!r}",
                where="train.exit_curriculum",
                mend=f"one of {', '.join(CURRICULA)}",
            )
        if self.every < 1:
            raise ConfigError(f"exit_every is {self.every}", where="train.exit_every", mend="give 1 or more")

    def weights(self, depth: int, step: int, steps: int) -> list[float]:
        """ẽ of the exits after each of `depth` layers in update `step` of `steps`; they sum to 1."""
        last = depth - 1
        counted = [
            self._counts(layer, depth, step, steps) * (self.scale * layer * (layer + 1) / 2) for layer in range(last)
        ]
        whole = last + self.scale * last * (last - 1) / 2
        total = sum(counted) + whole
        return [weight / total for weight in counted] + [whole / total] if total else [1.0]

    def _counts(self, layer: int, depth: int, step: int, steps: int) -> bool:
        if self.curriculum == "rotational":
            return (layer - step) % self.every == 0
        return self.curriculum == "none" or layer >= depth - 1 - step * 2 * depth // steps


def exit_flops(config: ModelConfig, exits: ExitLoss | None, steps: int, tokens: float) -> float:
    """What further exits add to a run over `tokens`: the head once more for each, 6 FLOPs a weight and token."""
    if exits is None:
        return 0.0
    counted = sum(weight > 0 for step in range(steps) for weight in exits.weights(config.depth, step, steps)[:-1])
    return 6.0 * config.vocab_size * config.width * tokens * counted / steps

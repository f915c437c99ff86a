"""Dropout whose rate follows the run: after the embedding and after each attention and feed-forward (1706.03762 §5.4).

Nothing of it is in the model. The copy of it that is stepped gets a hook behind those parts, so that what is evaluated
and what is saved never knows of dropout. The rate is a tensor: a compiled layer reads it and is not compiled anew.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lilliput.errors import ConfigError

SCHEDULES = ("constant", "cut-off", "linear-up", "linear-down", "triangular")
# The schedules that turn at a share of the run.
TURNING = ("cut-off", "triangular")


@dataclass(frozen=True)
class Dropout:
    """The rate of each step, from its place t in the run, 0 at the first update and 1 at the last.

    "constant": rate. "cut-off": rate up to t = turn, then 0 (early dropout, 2303.01500). "linear-up": t·rate.
    "linear-down": (1 − t)·rate. "triangular": up from 0 to rate at t = turn, and down to 0 at the end.
    """

    rate: float
    schedule: str = "constant"
    turn: float = 0.5

    def __post_init__(self) -> None:
        """Refuse what is no rate or no schedule."""
        if not 0 <= self.rate < 1:
            raise ConfigError(f"dropout is {self.rate}", where="train.dropout", mend="give 0 or more, below 1")
        if self.schedule not in SCHEDULES:
            raise ConfigError(
                f"unknown dropout schedule {self.schedule!r}",
                where="train.dropout_schedule",
                mend=f"one of {', '.join(SCHEDULES)}",
            )
        if not 0 < self.turn < 1:
            mend = "a share between 0 and 1"
            raise ConfigError(f"dropout_turn is {self.turn}", where="train.dropout_turn", mend=mend)

    def at(self, step: int, steps: int) -> float:
        """The rate of update `step` (0 is the first) of `steps`."""
        place = step / max(1, steps - 1)
        if self.schedule == "cut-off":
            return self.rate if place <= self.turn else 0.0
        if self.schedule == "triangular":
            return self.rate * min(place / self.turn, (1 - place) / (1 - self.turn))
        return self.rate * {"linear-up": place, "linear-down": 1 - place}.get(self.schedule, 1.0)


class Dropper:
    """Dropout in the copy of a decoder that is stepped."""

    def __init__(self, dropout: Dropout, steps: int, device: torch.device) -> None:
        self.dropout, self.steps = dropout, steps
        self.rate = torch.zeros((), device=device)

    def attach(self, decoder: nn.Module) -> None:
        """Set the hooks. decoder: a `Decoder`, or a sharded copy of one."""
        body: nn.Module = decoder.get_submodule("model")
        parts = [body.get_submodule("embed_tokens")]
        for layer in body.get_submodule("layers").children():
            parts += [layer.get_submodule("self_attn"), layer.get_submodule("mlp")]
        rate = self.rate

        def drop(module: nn.Module, args: object, out: Tensor) -> Tensor:
            kept = torch.rand_like(out, dtype=torch.float32) >= rate
            return out * (kept / (1 - rate)).to(out.dtype)

        # A part that several layers share has one hook.
        for part in dict.fromkeys(parts):
            part.register_forward_hook(drop)

    def begin(self, step: int) -> None:
        """Take the rate of update `step`."""
        self.rate.fill_(self.dropout.at(step, self.steps))

"""What is learned, and how its parameters are stepped: one loop serves every objective.

The loop calls, for each step, `begin`, then `loss` for each micro batch, then `updated` where the step was applied;
`figures` for each logged row. Whatever an objective does must follow from its own settings, the model's parameters and
buffers, the step and torch's generator (which the loop seeds for each step): then a resumed run is exact.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from lilliput.errors import CheckpointError
from lilliput.train.optimizer import default_groups

if TYPE_CHECKING:
    from lilliput.train.config import TrainConfig


def split(window_BT1: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(ids_BT, targets_BT) of windows, int64 (sequences, context + 1).

    A sequence of −100 pads a process's share: its ids are 0, and its targets, left at −100, weigh nothing.
    """
    return window_BT1[:, :-1].clamp(min=0), window_BT1[:, 1:].contiguous()


class Objective:
    """From windows of tokens to a summed loss, and how the parameters are stepped."""

    rises = False
    """Whether the loss rises by design, so that a step is not left out for a loss far above what was usual."""

    walks = False
    """Whether it goes through a decoder's layers in a way of its own, which may differ from step to step: then the
    layers are compiled, and never the whole."""

    def loss(self, model: nn.Module, windows_BT1: torch.Tensor) -> torch.Tensor:
        """Nats summed over this micro batch's targets (scalar, fp32); what belongs to no token is counted once for each
        target, since the loop divides by the global batch's targets. windows_BT1: see `split`."""
        raise NotImplementedError

    def groups(self, model: nn.Module, config: TrainConfig) -> list[dict[str, Any]]:
        """The optimizer's groups: "params", "weight_decay" and what else AdamW takes ("maximize").

        "rate": the group's own peak, in place of `config.lr`, which follows the schedule's shape; with "constant": True
        it does not follow it.
        """
        return default_groups(model, config)

    def begin(self, model: nn.Module, step: int) -> None:
        """Before the forward passes of update `step` (0 is the first), with the generator seeded for it."""

    def updated(self, model: nn.Module) -> None:
        """After each applied update."""

    def figures(self, model: nn.Module) -> dict[str, float]:
        """More numbers for a row of the metrics; called on every process, of the weights as they are."""
        return {}

    def identity(self) -> dict[str, Any]:
        """Settings (JSON values) that make another run of it: they go into each checkpoint, and a run is not resumed
        with others."""
        return {}


class Causal(Objective):
    """Predict each next token: cross-entropy."""

    def loss(self, model: nn.Module, windows_BT1: torch.Tensor) -> torch.Tensor:
        """Summed over the targets; `model` is called as `Decoder` is."""
        loss: torch.Tensor = model(*split(windows_BT1))
        return loss


def check_same(objective: Objective, begun: Mapping[str, Any], where: str) -> None:
    """CheckpointError where a run begun with the identity `begun`, as read from JSON, is to go on with another one."""
    asked = json.loads(json.dumps(objective.identity()))
    changed = [
        f"{name} {begun.get(name)!r} → {asked.get(name)!r}"
        for name in {**begun, **asked}
        if begun.get(name) != asked.get(name)
    ]
    if changed:
        raise CheckpointError(
            f"the run here was begun with other settings: {', '.join(changed)}",
            where=where,
            mend="give another --out, or remove the old run's folder",
        )


OBJECTIVES: dict[str, type[Objective]] = {"causal": Causal}

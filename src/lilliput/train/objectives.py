"""What is learned: from windows of tokens to a summed loss. One loop serves every objective."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

Objective = Callable[[nn.Module, torch.Tensor], torch.Tensor]


def causal(model: nn.Module, window_BT1: torch.Tensor) -> torch.Tensor:
    """Predict each next token: summed cross-entropy in nats (scalar, fp32).

    window_BT1: int64 (sequences, context + 1). A sequence of −100 pads a process's share: its positions are
    no targets, and weigh nothing.
    """
    ids_BT = window_BT1[:, :-1].clamp(min=0)
    targets_BT = window_BT1[:, 1:].contiguous()
    loss: torch.Tensor = model(ids_BT, targets_BT)
    return loss


OBJECTIVES: dict[str, Objective] = {"causal": causal}

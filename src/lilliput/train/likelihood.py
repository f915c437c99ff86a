"""How surprised a model is by windows of text: the loss of each, without gradients."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from lilliput.train.objectives import split

if TYPE_CHECKING:
    from torch import nn


def autocast(precision: str, device: torch.device) -> AbstractContextManager[Any]:
    """What a forward pass runs in: matrix products in bf16 where that is asked."""
    if precision == "bf16":
        return torch.autocast(device.type, dtype=torch.bfloat16)
    return nullcontext()


@torch.no_grad()
def window_losses(
    model: nn.Module, batch: NDArray[np.int64], precision: str, device: torch.device
) -> NDArray[np.float64]:
    """Cross-entropy of each window, nats a target. batch: (sequences, context + 1). model: called as `Decoder` is."""
    ids_BT, targets_BT = split(torch.from_numpy(batch).to(device))
    with autocast(precision, device):
        nats_BT = model(ids_BT, targets_BT, reduction="none")
    losses: NDArray[np.float64] = nats_BT.double().mean(1).cpu().numpy()
    return losses

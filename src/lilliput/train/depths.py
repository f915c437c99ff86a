"""Training a mixture of depths: routed layers choose by rank, and their predictors learn that choice."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from lilliput.model.depths import RoutedBlock
from lilliput.model.loss import IGNORE, cross_entropy
from lilliput.train.objectives import Objective, split

if TYPE_CHECKING:
    from lilliput.model.decoder import Decoder


class Routed(Objective):
    """Predict each next token with the layers' positions chosen by rank (model/depths.py).

    The loss is the text's, of a choice that knows the future, and lower than what evaluation finds. The predictors'
    cross-entropy gives gradients alone, to themselves alone.
    """

    walks = True

    def loss(self, model: nn.Module, windows_BT1: Tensor) -> Tensor:
        """Summed cross-entropy of the text, in nats."""
        loss: Tensor = model(*split(windows_BT1), walk=_walk)
        return loss


def _walk(decoder: Decoder, ids_BT: Tensor, targets_BT: Tensor) -> Tensor:
    body = decoder.model
    cos, sin = body.turns(ids_BT.shape[1])
    x_BTD = body.embed_tokens(ids_BT)
    missed = torch.zeros((), device=ids_BT.device)
    for layer in body.layers:
        if isinstance(layer, RoutedBlock):
            x_BTD, nats_BT = layer(x_BTD, cos, sin, by_rank=True)
            missed = missed + nats_BT[targets_BT != IGNORE].sum()
        else:
            x_BTD = layer(x_BTD, cos, sin)
    loss = cross_entropy(body.norm(x_BTD).flatten(0, 1), decoder.head_weight(), targets_BT.flatten())
    return loss + (missed - missed.detach())

"""Training a decoder whose layers need not all be run: layer dropout and a loss at every exit (exits.py)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from lilliput.model.loss import cross_entropy
from lilliput.train.exits import ExitLoss, LayerDropout
from lilliput.train.objectives import Objective, split

if TYPE_CHECKING:
    from lilliput.model.decoder import Decoder


class LayerSkip(Objective):
    """Predict each next token, with layers left out, from every exit, or both."""

    walks = True

    def __init__(self, steps: int, layers: LayerDropout | None, exits: ExitLoss | None) -> None:
        self.steps, self.layers, self.exits = steps, layers, exits
        self.rates: list[float] = []
        self.weights: list[float] = []

    def begin(self, model: nn.Module, step: int) -> None:
        """Settle which layers may be left out and which exits count in update `step`."""
        depth = _depth(model)
        self.rates = self.layers.at(depth, step, self.steps) if self.layers else [0.0] * depth
        self.weights = self.exits.weights(depth, step, self.steps) if self.exits else [0.0] * (depth - 1) + [1.0]

    def loss(self, model: nn.Module, windows_BT1: Tensor) -> Tensor:
        """Σ_l ẽ(t, l) · the summed cross-entropy at exit l. Draws, for each sequence, the layers it leaves out."""
        loss: Tensor = model(*split(windows_BT1), walk=self._walk)
        return loss

    def _walk(self, decoder: Decoder, ids_BT: Tensor, targets_BT: Tensor) -> Tensor:
        body, weight_VD, targets_N = decoder.model, decoder.head_weight(), targets_BT.flatten()
        cos, sin = body.turns(ids_BT.shape[1])
        x_BTD = body.embed_tokens(ids_BT)
        kept_LB = torch.rand(len(self.rates), len(ids_BT), device=ids_BT.device)
        total = torch.zeros((), device=ids_BT.device)
        for layer, rate, kept_B, share in zip(body.layers, self.rates, kept_LB, self.weights, strict=True):
            out_BTD = layer(x_BTD, cos, sin)
            x_BTD = torch.where((kept_B >= rate)[:, None, None], out_BTD, x_BTD) if rate else out_BTD
            if share:
                total = total + share * cross_entropy(body.norm(x_BTD).flatten(0, 1), weight_VD, targets_N)
        return total


def _depth(model: nn.Module) -> int:
    config: Any = model.config
    depth: int = config.depth
    return depth

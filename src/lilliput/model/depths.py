"""Mixture of depths: some layers run for a part of the positions alone (2404.02258).

In a routed layer (§3.2–3.4) a router weighs each position, r = w·x, and x' = x + r·f(X̃) for those that are chosen, x
for the others, where X̃ are the chosen ones alone: as queries, as keys and as values. f is what the layer's attention
and feed-forward add to the stream. Every `routed_every`-th layer is routed, the second first.

In training the chosen are the capacity·T of highest r in each sequence, which depends on later positions; a causal
model has no such choice (§3.5). So beside each router stands a predictor of the choice, a second router with a bias,
that reads the same x with its gradient stopped and learns by binary cross-entropy; r is linear in x and the choice a
threshold on it, so a linear predictor can express it. `Decoder`'s own pass, which evaluates and writes, asks the
predictor alone; the pass by rank is the objective's (train/depths.py).

Only the chosen positions are gathered, in their order and with their own rotary angles, and pass an ordinary layer.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lilliput.model.config import ModelConfig
from lilliput.model.layers import Block


class Router(nn.Module):
    """One number for each position. Vectors, as norms' scales are, so that no weight decay pulls at them."""

    def __init__(self, width: int, bias: bool) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(width))
        self.bias = nn.Parameter(torch.zeros(1)) if bias else None

    def forward(self, x_BTD: Tensor) -> Tensor:
        out_BT: Tensor = (x_BTD.float() * self.weight).sum(-1)
        return out_BT if self.bias is None else out_BT + self.bias


class RoutedBlock(Block):
    """A layer that runs for the positions that its predictor chooses, or by rank for a share of each sequence."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        self.router = Router(config.width, bias=False)
        self.predictor = Router(config.width, bias=True)
        self.capacity = config.capacity

    def chosen(self, x_BTD: Tensor) -> Tensor:
        """Which positions the predictor chooses: bool, of the shape without the last axis."""
        found: Tensor = self.predictor(x_BTD) > 0
        return found

    def forward(  # type: ignore[override]
        self, x_BTD: Tensor, cos_TE: Tensor, sin_TE: Tensor, by_rank: bool = False
    ) -> Tensor | tuple[Tensor, Tensor]:
        """The states after the layer; by rank also the predictor's cross-entropy (B, T), in nats."""
        if by_rank:
            return self._by_rank(x_BTD, cos_TE, sin_TE)
        chosen_BT = self.chosen(x_BTD)
        most = int(chosen_BT.sum(1).max())
        if not most:
            return x_BTD
        # The chosen first, in their order; what fills shorter rows comes after, where no chosen position sees it.
        order_BK = torch.argsort((~chosen_BT).byte(), dim=1, stable=True)[:, :most]
        return self._run(x_BTD, order_BK, chosen_BT.gather(1, order_BK), self.router(x_BTD), cos_TE, sin_TE)

    def _by_rank(self, x_BTD: Tensor, cos_TE: Tensor, sin_TE: Tensor) -> tuple[Tensor, Tensor]:
        weight_BT = self.router(x_BTD)
        order_BK = weight_BT.topk(taken(self.capacity, x_BTD.shape[1]), dim=1).indices.sort(dim=1).values
        chosen_BT = torch.zeros_like(weight_BT).scatter(1, order_BK, 1.0)
        nats_BT = F.binary_cross_entropy_with_logits(self.predictor(x_BTD.detach()), chosen_BT, reduction="none")
        everywhere_BK = torch.ones_like(order_BK, dtype=torch.bool)
        return self._run(x_BTD, order_BK, everywhere_BK, weight_BT, cos_TE, sin_TE), nats_BT

    def _run(
        self, x_BTD: Tensor, order_BK: Tensor, taken_BK: Tensor, weight_BT: Tensor, cos_TE: Tensor, sin_TE: Tensor
    ) -> Tensor:
        """x with r·f added at the positions `order_BK`, where taken."""
        index_BKD = order_BK[..., None].expand(-1, -1, x_BTD.shape[-1])
        picked_BKD = x_BTD.gather(1, index_BKD)
        added_BKD = super().forward(picked_BKD, cos_TE[order_BK], sin_TE[order_BK]) - picked_BKD
        scale_BK1 = (weight_BT.gather(1, order_BK) * taken_BK)[..., None]
        return x_BTD.scatter_add(1, index_BKD, added_BKD * scale_BK1.to(added_BKD.dtype))


def taken(capacity: float, length: int) -> int:
    """Positions of a sequence that a routed layer runs for: at least one."""
    return max(1, round(capacity * length))

"""Mixture of depths in writing: a token that a routed layer skips leaves no keys and values in it, for no later one.

The cache has a place for each position in every layer, and for each routed layer a note of which places count. In one
text a skipped token costs the layer's predictor alone; among several the layer runs where any of them is chosen.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from lilliput.model.depths import RoutedBlock
from lilliput.model.masked_attention import attend_masked

if TYPE_CHECKING:
    from lilliput.model.generate import Generator, _Layer
    from lilliput.model.tree import TreeReader


class Route:
    """What a prepared layer knows of its router."""

    def __init__(self, block: RoutedBlock) -> None:
        self.block = block

    def weigh(self, x_ND: Tensor) -> tuple[Tensor, Tensor]:
        """(r of each state, whether the predictor chooses it)."""
        return self.block.router(x_ND), self.block.chosen(x_ND)


def route_of(block: nn.Module) -> Route | None:
    """The router of a layer, where it has one."""
    return Route(block) if isinstance(block, RoutedBlock) else None


def routed(writer: Generator, x_ND: Tensor, layer: _Layer, route: Route, index: int) -> Tensor:
    """The states after a routed layer, of positions that follow the cached ones."""
    start, length = writer.position, x_ND.shape[0] // writer.batch
    end = start + length
    weight_N, chosen_N = route.weigh(x_ND)
    writer.counted[index, :, start:end] = chosen_N.view(writer.batch, length)
    if not bool(chosen_N.any()):
        return x_ND
    at_S = torch.arange(end, device=x_ND.device)
    at_T1 = at_S[start:, None]
    # A position that is not chosen sees itself, so that its numbers, which are dropped, are some.
    seen_BTS = (at_S <= at_T1) & (writer.counted[index, :, None, :end] | (at_S == at_T1))
    out_ND = attend_masked(writer, x_ND, layer, writer.cache[index], start, seen_BTS)
    return _joined(x_ND, writer._transform(out_ND, layer), weight_N, chosen_N)


def routed_tree(
    reader: TreeReader, x_ND: Tensor, layer: _Layer, route: Route, turn_BT1E: Tensor, mask_B1TT: Tensor
) -> Tensor:
    """The same for a tree of tokens: of those that a token sees, the chosen ones."""
    batch, length = mask_B1TT.shape[0], mask_B1TT.shape[-1]
    weight_N, chosen_N = route.weigh(x_ND)
    itself_TT = torch.eye(length, dtype=torch.bool, device=x_ND.device)
    seen_B1TT = chosen_N.view(batch, 1, 1, length) | itself_TT
    mask_B1TT = mask_B1TT.masked_fill(~seen_B1TT, -torch.inf)
    out_ND = reader._transform(reader._attend_tree(x_ND, layer, turn_BT1E, mask_B1TT), layer)
    return _joined(x_ND, out_ND, weight_N, chosen_N)


def _joined(x_ND: Tensor, out_ND: Tensor, weight_N: Tensor, chosen_N: Tensor) -> Tensor:
    """x + r·f where chosen, f being what the layer has added."""
    scale_N1 = (weight_N * chosen_N)[:, None].to(x_ND.dtype)
    return x_ND + (out_ND - x_ND) * scale_N1

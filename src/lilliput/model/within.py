"""Layers that work within units: each byte sees the bytes of its own unit alone.

Units have few bytes, of different number. So the bytes that there are stand one after the other, units of one length
together: products of matrices go over all of them at once, attention over each length by itself, and nothing is filled
up.

Shape suffixes: N units, P symbols of all units together, W byte_width, H heads, E channels of a head.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lilliput.model.layers import RMSNorm


class LocalLinear(nn.Linear):
    """A linear map without bias that starts at zero. Always by PyTorch's own product: each batch has another number of
    symbols, and oneDNN prepares a kernel for every number (gemm.py)."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs, bias=False)

    def reset_parameters(self) -> None:
        nn.init.zeros_(self.weight)


class Lengths:
    """Units sorted by their number of symbols. lengths_N: at least 1 each.

    order_N: where each of the sorted units stood. groups: (symbols of a unit, units) of each length. unit_P, place_P:
    of each symbol, its unit among the sorted ones and its place in it.
    """

    def __init__(self, lengths_N: Tensor) -> None:
        self.order_N = torch.argsort(lengths_N, stable=True)
        counts = torch.bincount(lengths_N).tolist()
        self.groups = [(length, count) for length, count in enumerate(counts) if length and count]
        device = lengths_N.device
        places = [torch.arange(length, device=device).repeat(count) for length, count in self.groups]
        self.place_P = torch.cat(places)
        self.unit_P = torch.repeat_interleave(torch.arange(len(lengths_N), device=device), lengths_N[self.order_N])

    def packed(self, sorted_NL: Tensor) -> Tensor:
        """The symbols that there are, (P,), of sorted rows."""
        parts = torch.split(sorted_NL, [count for _, count in self.groups])
        cut = [part[:, :length].reshape(-1) for part, (length, _) in zip(parts, self.groups, strict=True)]
        return torch.cat(cut)

    def by_length(self, x_PW: Tensor) -> list[Tensor]:
        """(units, symbols, W) of each length."""
        parts = torch.split(x_PW, [length * count for length, count in self.groups])
        return [part.view(count, length, -1) for part, (length, count) in zip(parts, self.groups, strict=True)]

    def back(self, x_N: Tensor) -> Tensor:
        """Values of the sorted units in the order that the units came in."""
        place_N = torch.empty_like(self.order_N)
        place_N[self.order_N] = torch.arange(len(place_N), device=place_N.device)
        return x_N[place_N]


class WithinAttention(nn.Module):
    """Attention within units; causal, or to both sides."""

    def __init__(self, width: int, heads: int, causal: bool) -> None:
        super().__init__()
        self.heads, self.causal = heads, causal
        self.qkv = LocalLinear(width, 3 * width)
        self.out = LocalLinear(width, width)

    def forward(self, x_PW: Tensor, lengths: Lengths) -> Tensor:
        parts = [self._attend(part) for part in lengths.by_length(self.qkv(x_PW))]
        return cast("Tensor", self.out(torch.cat(parts)))

    def _attend(self, qkv: Tensor) -> Tensor:
        count, length, wide = qkv.shape
        q, k, v = qkv.view(count, length, 3, self.heads, wide // 3 // self.heads).permute(2, 0, 3, 1, 4).unbind()
        out = F.scaled_dot_product_attention(q, k, v, is_causal=self.causal and length > 1)
        return out.transpose(1, 2).reshape(count * length, wide // 3)


class WithinBlock(nn.Module):
    """Attention and SwiGLU, each behind its norm and added to the stream."""

    def __init__(self, width: int, heads: int, ffn: int, eps: float, causal: bool) -> None:
        super().__init__()
        self.norm_1 = RMSNorm(width, eps)
        self.attention = WithinAttention(width, heads, causal)
        self.norm_2 = RMSNorm(width, eps)
        self.gate_up = LocalLinear(width, 2 * ffn)
        self.down = LocalLinear(ffn, width)

    def forward(self, x_PW: Tensor, lengths: Lengths) -> Tensor:
        x_PW = x_PW + self.attention(self.norm_1(x_PW), lengths)
        gate_PF, up_PF = self.gate_up(self.norm_2(x_PW)).chunk(2, dim=-1)
        return x_PW + cast("Tensor", self.down(F.silu(gate_PF) * up_PF))

"""PanGu-π blocks: two cheap additions of nonlinearity to a Llama-shaped layer (2312.17276).

Augmented shortcut (§4.1): beside attention and the identity runs a small map of each position,
    AugMSA(Z) = MSA(Z) + Z + T(Z),   T(Z) = GELU(Z·A)·B,   A of (width, shortcut), B of (shortcut, width).
The paper writes no norm. Here T reads what attention reads, the normed input, and the identity adds the input as it
is: so the formula has it (MSA and T have one argument), and so did its authors in their vision transformers
(2106.15941). T has no biases, as in the formula. One T; its default bottleneck is the paper's width / 32.

Series-informed activation (§4.2): the feed-forward's activation becomes a sum of activations, each with its own scale
and shift for every channel,
    σ_s(x) = Σ_i σ(a_i·x + b_i),   i ≤ n.
The paper's models have SwiGLU (§5), whose activation is the gate's: down(σ_s(gate(x)) · up(x)). §4.2 writes it for the
feed-forward with n matrices W1_i too; we take one W1 with n scales and shifts, as in the equation of the series, which
is what makes it nearly free. n = 2, in the paper the best for its cost; further terms would start alike and stay alike.

The exact start is ours: both begin as nothing and yet learn from the first step. B is zero while A is not; a_1 = 1, all
other scales and shifts are zero, where SiLU is zero and its slope 1/2.

Shape suffixes as in layers.py.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lilliput.model.config import ModelConfig
from lilliput.model.layers import MLP, Attention, Block, Linear, joined


class Shortcut(nn.Module):
    """T: width → shortcut → width, with GELU between and no biases."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.in_proj = Linear(config.width, config.shortcut, bias=False)
        self.out_proj = Linear(config.shortcut, config.width, bias=False)

    def forward(self, x_BTD: Tensor) -> Tensor:
        out_BTD: Tensor = self.out_proj(F.gelu(self.in_proj(x_BTD)))
        return out_BTD


class ShortcutAttention(Attention):
    """Attention plus T of the same input."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        self.shortcut = Shortcut(config)

    def forward(self, x_BTD: Tensor, cos_TE: Tensor, sin_TE: Tensor) -> Tensor:
        out_BTD: Tensor = super().forward(x_BTD, cos_TE, sin_TE) + self.shortcut(x_BTD)
        return out_BTD


class Series(nn.Module):
    """Σ SiLU(a_i·x + b_i) over two terms. Vectors, as norms' scales are, so that no weight decay pulls at them."""

    def __init__(self, ffn: int) -> None:
        super().__init__()
        self.scale_1 = nn.Parameter(torch.ones(ffn))
        self.shift_1 = nn.Parameter(torch.zeros(ffn))
        self.scale_2 = nn.Parameter(torch.zeros(ffn))
        self.shift_2 = nn.Parameter(torch.zeros(ffn))

    def forward(self, x_BTF: Tensor) -> Tensor:
        a_1, b_1, a_2, b_2 = (
            part.to(x_BTF.dtype) for part in (self.scale_1, self.shift_1, self.scale_2, self.shift_2)
        )
        return F.silu(torch.addcmul(b_1, x_BTF, a_1)) + F.silu(torch.addcmul(b_2, x_BTF, a_2))


class SeriesMLP(MLP):
    """SwiGLU whose gate has the series-informed activation: down(σ_s(gate(x)) · up(x))."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        self.act_fn = Series(config.ffn)

    def forward(self, x_BTD: Tensor) -> Tensor:
        gate_BTF, up_BTF = joined(x_BTD, self.gate_proj, self.up_proj).chunk(2, dim=-1)
        out_BTD: Tensor = self.down_proj(self.act_fn(gate_BTF) * up_BTF)
        return out_BTD


class PanguBlock(Block):
    """One layer with what `config` asks for: the shortcut, the series or both."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        if config.shortcut:
            self.self_attn = ShortcutAttention(config)
        if config.series > 1:
            self.mlp = SeriesMLP(config)

"""The parts of a decoder layer: norm, rotary positions, grouped attention, SwiGLU.

Shape suffixes: B sequences, T positions, D width, F feed-forward, H heads, K key-value heads, E head_dim.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lilliput.model.config import ModelConfig
from lilliput.model.gemm import linear


class Linear(nn.Linear):
    """A linear map that starts at zero: `initialise` or a file gives the weights, so the default random
    draws would only cost time and move the global generator."""

    def reset_parameters(self) -> None:
        nn.init.zeros_(self.weight)
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    @property
    def matrix(self) -> Tensor:
        """What x is multiplied with (outputs, inputs): the weight, where nothing is added to it (shared_block.py)."""
        return self.weight

    def forward(self, x: Tensor) -> Tensor:
        return linear(x, self.matrix, self.bias)


def joined(x: Tensor, *parts: Linear) -> Tensor:
    """The outputs of several maps of the same input, side by side, by one product: joining the weights costs
    a copy of them, far less than reading the input several times."""
    weight = torch.cat([part.matrix for part in parts])
    bias = None if parts[0].bias is None else torch.cat([part.bias for part in parts])
    return linear(x, weight, bias)


class RMSNorm(nn.Module):
    """x / rms(x) · weight, in fp32 whatever the input's type (Zhang & Sennrich, 1910.07467)."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, x_BTD: Tensor) -> Tensor:
        x = x_BTD.float()
        x = x * torch.rsqrt(x.square().mean(-1, keepdim=True) + self.eps)
        return self.weight * x.to(x_BTD.dtype)


def rope_table(context: int, head_dim: int, theta: float) -> tuple[Tensor, Tensor]:
    """cos and sin of position × theta^(−2i/head_dim), each (context, head_dim / 2), fp32 (2104.09864)."""
    frequency = 1.0 / (theta ** (torch.arange(0, head_dim, 2, dtype=torch.float32) / head_dim))
    angle_TE = torch.arange(context, dtype=torch.float32)[:, None] * frequency[None, :]
    return angle_TE.cos(), angle_TE.sin()


def rotate(x_BTHE: Tensor, cos_TE: Tensor, sin_TE: Tensor) -> Tensor:
    """Rotary positions in Hugging Face's convention: dimension i turns with i + head_dim/2. The angles may be
    (B, T, head_dim / 2), where the positions of the sequences differ."""
    first, second = x_BTHE.chunk(2, dim=-1)
    cos, sin = cos_TE.unsqueeze(-2).to(x_BTHE.dtype), sin_TE.unsqueeze(-2).to(x_BTHE.dtype)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)


class Attention(nn.Module):
    """Causal grouped-query attention with rotary positions, each query and key normed before where asked."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.heads, self.kv_heads, self.head_dim = config.heads, config.kv_heads, config.head_dim
        bias = config.attention_bias
        self.q_proj = Linear(config.width, config.heads * config.head_dim, bias=bias)
        self.k_proj = Linear(config.width, config.kv_heads * config.head_dim, bias=bias)
        self.v_proj = Linear(config.width, config.kv_heads * config.head_dim, bias=bias)
        self.o_proj = Linear(config.heads * config.head_dim, config.width, bias=config.has_output_bias())
        if config.qk_norm:
            self.q_norm = RMSNorm(config.head_dim, config.norm_eps)
            self.k_norm = RMSNorm(config.head_dim, config.norm_eps)
        self.qk_norm = config.qk_norm

    def forward(self, x_BTD: Tensor, cos_TE: Tensor, sin_TE: Tensor) -> Tensor:
        batch, length, _ = x_BTD.shape
        heads, kv_heads = self.heads, self.kv_heads
        qkv = joined(x_BTD, self.q_proj, self.k_proj, self.v_proj)
        qkv_BTHE = qkv.view(batch, length, heads + 2 * kv_heads, self.head_dim)
        qk_BTHE, v_BTKE = torch.split(qkv_BTHE, [heads + kv_heads, kv_heads], dim=2)
        if self.qk_norm:
            q_BTHE, k_BTKE = torch.split(qk_BTHE, [heads, kv_heads], dim=2)
            qk_BTHE = torch.cat((self.q_norm(q_BTHE), self.k_norm(k_BTKE)), dim=2).to(v_BTKE.dtype)
        q_BTHE, k_BTKE = torch.split(rotate(qk_BTHE, cos_TE, sin_TE), [heads, kv_heads], dim=2)
        out_BHTE = F.scaled_dot_product_attention(
            q_BTHE.transpose(1, 2),
            k_BTKE.transpose(1, 2),
            v_BTKE.transpose(1, 2),
            is_causal=True,
            enable_gqa=heads != kv_heads,
        )
        out_BTD: Tensor = self.o_proj(out_BHTE.transpose(1, 2).reshape(batch, length, -1))
        return out_BTD


class MLP(nn.Module):
    """SwiGLU: down(silu(gate(x)) · up(x)) (2002.05202)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.gate_proj = Linear(config.width, config.ffn, bias=config.mlp_bias)
        self.up_proj = Linear(config.width, config.ffn, bias=config.mlp_bias)
        self.down_proj = Linear(config.ffn, config.width, bias=config.mlp_bias)

    def forward(self, x_BTD: Tensor) -> Tensor:
        gate_BTF, up_BTF = joined(x_BTD, self.gate_proj, self.up_proj).chunk(2, dim=-1)
        out_BTD: Tensor = self.down_proj(F.silu(gate_BTF) * up_BTF)
        return out_BTD


class Block(nn.Module):
    """One layer: attention and feed-forward, each behind its norm and added to the residual stream."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.input_layernorm = RMSNorm(config.width, config.norm_eps)
        self.self_attn = Attention(config)
        self.post_attention_layernorm = RMSNorm(config.width, config.norm_eps)
        self.mlp = MLP(config)

    def forward(self, x_BTD: Tensor, cos_TE: Tensor, sin_TE: Tensor) -> Tensor:
        x_BTD = x_BTD + self.self_attn(self.input_layernorm(x_BTD), cos_TE, sin_TE)
        out_BTD: Tensor = x_BTD + self.mlp(self.post_attention_layernorm(x_BTD))
        return out_BTD

"""Masked models by hooks, which know nothing of how ours are made, and small text to learn masks on."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lilliput.inherit.fold import Gates
from lilliput.model import Decoder, ModelConfig
from lilliput.train.config import TrainConfig

CPU = torch.device("cpu")


def smaller(config: ModelConfig, **sizes: int) -> ModelConfig:
    """The shape of a child; kv_heads takes its query heads along."""
    if "kv_heads" in sizes:
        sizes["heads"] = sizes["kv_heads"] * (config.heads // config.kv_heads)
    return replace(config, **sizes)


class SurvivorNorm(nn.Module):
    """RMSNorm whose mean is over `kept` channels."""

    def __init__(self, norm: nn.Module, kept: int) -> None:
        super().__init__()
        self.weight, self.eps, self.kept = norm.weight, norm.eps, kept

    def forward(self, x: Tensor) -> Tensor:
        return self.weight * x * torch.rsqrt(x.square().sum(-1, keepdim=True) / self.kept + self.eps)


def hooked(parent: Decoder, gates: Gates) -> Decoder:
    """A copy of the parent whose activations are multiplied by the gates, each where its member gives something."""
    model, shape = deepcopy(parent), parent.config
    ones = {"hidden": (shape.width,), "layers": (shape.depth,)}
    ones |= {"ffn": (shape.depth, shape.ffn), "kv_head": (shape.depth, shape.kv_heads)}
    z: dict[str, Tensor] = {
        space: torch.ones(size) if getattr(gates, space) is None else getattr(gates, space).detach()
        for space, size in ones.items()
    }
    hidden, kept = z["hidden"], int((z["hidden"] > 0).sum())
    group = shape.heads // shape.kv_heads * shape.head_dim
    model.model.embed_tokens.register_forward_hook(lambda module, inputs, out: out * hidden)
    model.model.norm = SurvivorNorm(model.model.norm, kept)
    for index, layer in enumerate(model.model.layers):
        for name in ("input_layernorm", "post_attention_layernorm"):
            setattr(layer, name, SurvivorNorm(getattr(layer, name), kept))
        for writer in (layer.self_attn, layer.mlp):
            writer.register_forward_hook(lambda module, inputs, out, own=z["layers"][index]: out * hidden * own)
        heads, neurons = z["kv_head"][index].repeat_interleave(group), z["ffn"][index]
        layer.self_attn.o_proj.register_forward_pre_hook(lambda module, inputs, own=heads: (inputs[0] * own,))
        layer.mlp.down_proj.register_forward_pre_hook(lambda module, inputs, own=neurons: (inputs[0] * own,))
    return model


class Stream:
    """A packed corpus in memory: each token is, mostly, a function of the one before."""

    def __init__(self, length: int = 3000, vocab: int = 23, seed: int = 3) -> None:
        rng = np.random.default_rng(seed)
        self.tokens = np.zeros(length, dtype=np.int64)
        noise, draws = rng.random(length) < 0.1, rng.integers(0, vocab, length)
        for i in range(1, length):
            self.tokens[i] = draws[i] if noise[i] else (self.tokens[i - 1] * 5 + 7) % vocab

    def windows(self, context: int) -> int:
        return max(0, (len(self.tokens) - 1) // context)

    def batch(self, indices: np.ndarray, context: int) -> np.ndarray:
        return np.stack([self.tokens[i * context : i * context + context + 1] for i in indices])


def settings(**changes: Any) -> TrainConfig:
    base = TrainConfig(
        steps=12, batch_sequences=6, micro_sequences=4, context=16, lr=1e-2, min_lr=1e-3, warmup_steps=3,
        beta2=0.95, seed=7, save_every=5, threads=1,
    )  # fmt: skip
    return replace(base, **changes)

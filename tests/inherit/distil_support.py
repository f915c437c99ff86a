"""Tiny teachers, students and text for the tests of distillation."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lilliput.model import Decoder, ModelConfig, initialise
from lilliput.train.config import TrainConfig

CPU = torch.device("cpu")
VOCAB, CONTEXT = 48, 12
SHAPE = ModelConfig(
    vocab_size=VOCAB, depth=2, width=16, heads=2, kv_heads=1, head_dim=8, ffn=32, context=CONTEXT, bos_id=0, eos_id=1,
)  # fmt: skip


class Stream:
    """A packed corpus in memory: each token is, mostly, a function of the one before."""

    def __init__(self, length: int = 1200, vocab: int = VOCAB, seed: int = 3) -> None:
        rng = np.random.default_rng(seed)
        self.tokens = np.zeros(length, dtype=np.int64)
        noise, draws = rng.random(length) < 0.2, rng.integers(0, vocab, length)
        for i in range(1, length):
            self.tokens[i] = draws[i] if noise[i] else (self.tokens[i - 1] * 5 + 7) % vocab

    def windows(self, context: int) -> int:
        return (len(self.tokens) - 1) // context

    def batch(self, indices: np.ndarray, context: int) -> np.ndarray:
        return np.stack([self.tokens[i * context : i * context + context + 1] for i in indices])


def decoder(seed: int = 0, noise: float = 0.3, **changes: Any) -> Decoder:
    """A decoder far enough from its start to have opinions."""
    model = Decoder(replace(SHAPE, **changes))
    initialise(model, seed)
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=draw) * noise)
    return model


def settings(**changes: Any) -> TrainConfig:
    base = TrainConfig(
        steps=6, batch_sequences=4, micro_sequences=3, context=CONTEXT, lr=5e-3, min_lr=5e-4, warmup_steps=2, seed=11,
        save_every=3,
    )  # fmt: skip
    return replace(base, **changes)


def windows(rows: int = 5, vocab: int = VOCAB, seed: int = 0, context: int = CONTEXT) -> Tensor:
    """Random windows, the last of which is padding."""
    found = torch.randint(0, vocab, (rows, context + 1), generator=torch.Generator().manual_seed(seed))
    found[-1] = -100
    return found

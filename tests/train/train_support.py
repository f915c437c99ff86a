"""Tiny real models and data for the training tests."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lilliput.model.config import ModelConfig
from lilliput.model.decoder import Decoder
from lilliput.model.init import initialise
from lilliput.train.config import TrainConfig

CPU = torch.device("cpu")
SHAPE = ModelConfig(
    vocab_size=64,
    depth=2,
    width=16,
    heads=2,
    kv_heads=1,
    head_dim=8,
    ffn=32,
    context=16,
    bos_id=0,
    eos_id=1,
)

SHARED = {"depth": 4, "share": {"loops": 2, "ffn": "all", "lora": 2}}


class Stream:
    """A packed corpus in memory, cut as the shards on disk are: windows that overlap by one token."""

    def __init__(self, tokens: np.ndarray) -> None:
        self.tokens = tokens

    def windows(self, context: int) -> int:
        return max(0, (len(self.tokens) - 1) // context)

    def batch(self, indices: np.ndarray, context: int) -> np.ndarray:
        return np.stack([self.tokens[i * context : i * context + context + 1] for i in indices]).astype(np.int64)


def stream(length: int = 2000, vocab: int = 64, seed: int = 3) -> Stream:
    """Text with something to learn: each token is, mostly, a function of the one before."""
    rng = np.random.default_rng(seed)
    tokens = np.zeros(length, dtype=np.int64)
    noise = rng.random(length) < 0.2
    draws = rng.integers(0, vocab, length)
    for i in range(1, length):
        tokens[i] = draws[i] if noise[i] else (tokens[i - 1] * 5 + 7) % vocab
    return Stream(tokens)


def model(seed: int = 0, **changes: Any) -> Decoder:
    decoder = Decoder(replace(SHAPE, **changes))
    initialise(decoder, seed)
    return decoder


def settings(**changes: Any) -> TrainConfig:
    base = TrainConfig(
        steps=20,
        batch_sequences=6,
        micro_sequences=4,
        context=16,
        lr=5e-3,
        min_lr=5e-4,
        warmup_steps=3,
        beta2=0.99,
        seed=11,
        save_every=5,
        threads=1,
    )
    return replace(base, **changes)


def same(left: torch.nn.Module, right: torch.nn.Module) -> bool:
    """Whether two models are equal to the last bit."""
    other = right.state_dict()
    return all(torch.equal(tensor, other[name]) for name, tensor in left.state_dict().items())


def steps_in(folder: Path) -> list[str]:
    """The checkpoints' names in a run's folder."""
    return sorted(path.name for path in (folder / "checkpoints").iterdir())

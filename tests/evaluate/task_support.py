"""A tokenizer and a small model for the tests of tasks, and their numbers the slow and plain way."""

import json
from pathlib import Path
from typing import Any

import torch

from lilliput.model.config import ModelConfig
from lilliput.model.decoder import Decoder
from lilliput.model.init import initialise
from lilliput.tokenizer.load import Tokenizer
from lilliput.tokenizer.train import train_tokenizer

TEXTS = [
    "The cat that sat on the mats was asleep. The cats that sat on the mat were asleep.",
    "Question: what do plants need to grow? light and water. a hat. Grüße, 世界!",
    "Nobody has ever been there before, said the child who never saw the sea.",
]


def small_tokenizer() -> Tokenizer:
    """Byte-level, with a few merges."""
    return train_tokenizer(TEXTS * 4, 330)


def small_model(tokenizer: Tokenizer, context: int = 48, seed: int = 0) -> Decoder:
    """Random weights far enough from their start that its choices differ."""
    config = ModelConfig(
        vocab_size=tokenizer.vocab_size, depth=2, width=32, heads=4, kv_heads=2, head_dim=8, ffn=48, context=context,
        bos_id=tokenizer.bos_id, eos_id=tokenizer.eos_id,
    )  # fmt: skip
    model = Decoder(config)
    initialise(model, seed)
    noise = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=noise) * 0.15)
    return model.eval()


def plainly(model: Decoder, sequence: list[int], scored: int) -> tuple[float, bool]:
    """(Σ log p of the last `scored` ids, whether all are the likeliest), by the decoder on this sequence alone."""
    targets_T = torch.tensor(sequence[1:])
    # Filled up at the end, which nothing before it sees: kernels are prepared for each length that occurs.
    filled = sequence[:-1] + [0] * (model.config.context - len(sequence) + 1)
    with torch.no_grad():
        log_p_TV = torch.log_softmax(model(torch.tensor([filled]))[0, : len(targets_T)].double(), -1)
    first = len(targets_T) - scored
    picked_T = log_p_TV.gather(1, targets_T[:, None])[first:, 0]
    return float(picked_T.sum()), bool((log_p_TV.argmax(1) == targets_T)[first:].all())


def write_rows(file: Path, rows: list[dict[str, Any]]) -> Path:
    """The rows as JSONL."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return file

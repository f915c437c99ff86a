"""What a calibration times: real generators and real training steps of a few shapes.

The fastest of many short stretches counts, not their mean: what else the machine does can only slow a stretch down.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from lilliput.model import Decoder, ModelConfig, initialise
from lilliput.model.generate import Generator
from lilliput.train.config import TrainConfig
from lilliput.train.engine import Engine
from lilliput.train.parallel import World

# Depth, width, heads, key-value heads, FFN, vocabulary: together they span the cost of a layer's calls, of the head, of
# weights that fit each level of cache and of those that do not, of a cache that grows, of heads and of shared heads.
DECODE_SHAPES = (
    (2, 32, 2, 2, 88, 512),
    (12, 32, 2, 1, 88, 512),
    (1, 64, 2, 2, 176, 24_576),
    (4, 128, 4, 4, 352, 2048),
    (8, 96, 3, 3, 256, 1024),
    (16, 192, 6, 6, 512, 2048),
    (6, 256, 4, 4, 704, 4096),
    (2, 512, 8, 8, 1408, 8192),
    (6, 512, 8, 2, 1408, 1024),
    (1, 1024, 16, 4, 2816, 16_384),
    (2, 1024, 16, 16, 2816, 2048),
)
# The larger a probe, the fewer batches: 20 texts at once on the largest would take the time of all the others.
BATCHES = ((2_000_000, (1, 4, 20)), (20_000_000, (1, 20)), (10**12, (1, 6)))
POSITIONS = (6, 160, 480)
CONTEXT = 512
# Depth, width, heads, FFN, vocabulary, windows of TRAIN_CONTEXT: the first is so small that a layer's calls show.
TRAIN_CONTEXT = 128
TRAIN_SHAPES = {
    "cpu": (
        (4, 64, 2, 176, 256, 1),
        (4, 64, 2, 176, 1024, 16),
        (2, 256, 4, 704, 2048, 16),
        (1, 768, 12, 2048, 2048, 8),
    ),
    "cuda": (
        (4, 64, 2, 176, 256, 1),
        (4, 256, 4, 704, 2048, 64),
        (4, 768, 12, 2048, 4096, 64),
        (2, 2048, 16, 5504, 8192, 64),
    ),
}
_STRETCH, _POINT, _STEPS = 0.006, 0.09, 0.8


@dataclass(frozen=True)
class Point:
    """One timed decoding step: `seconds` for one further id of `batch` texts after `position` others."""

    shape: ModelConfig
    batch: int
    position: float
    seconds: float


@dataclass(frozen=True)
class Step:
    """One timed training step of a single micro batch."""

    shape: ModelConfig
    windows: int
    seconds: float


def decode_shapes() -> list[ModelConfig]:
    """The shapes of the decoding probes."""
    return [
        _shape(depth, width, heads, kv_heads, ffn, vocab, CONTEXT)
        for depth, width, heads, kv_heads, ffn, vocab in DECODE_SHAPES
    ]


def decode_points(shape: ModelConfig, device: torch.device, dtype: torch.dtype) -> Iterator[Point]:
    """Time a shape at several batches and positions."""
    model = Decoder(shape).to(device, dtype)
    for batch in next(batches for limit, batches in BATCHES if shape.parameters() <= limit):
        writer = Generator(model, batch)
        with torch.inference_mode():
            # Fresh zeros are one page of memory however often they stand there; a written cache is not.
            writer.cache.fill_(0.01)
        for position in POSITIONS:
            ids = torch.zeros(batch, 1, dtype=torch.long, device=device)
            seconds, steps = _decode_step(writer, ids, position, device)
            yield Point(shape, batch, position + (steps - 1) / 2, seconds)


def _decode_step(writer: Generator, ids_B1: torch.Tensor, position: int, device: torch.device) -> tuple[float, int]:
    """(seconds of a step, steps of a stretch)."""

    def stretch(steps: int) -> None:
        writer.position = position
        fed_B1 = ids_B1
        for _ in range(steps):
            fed_B1 = writer.feed(fed_B1).argmax(-1)[:, None]

    with torch.inference_mode():
        stretch(1)
        once = _timed(lambda: stretch(1), device)
        steps = max(1, min(32, round(_STRETCH / once)))
        return _fastest(lambda: stretch(steps), device, _POINT) / steps, steps


def train_steps(device: torch.device, threads: int) -> Iterator[Step]:
    """Time one training step, not compiled, of each training probe."""
    for depth, width, heads, ffn, vocab, windows in TRAIN_SHAPES[device.type]:
        shape = _shape(depth, width, heads, heads, ffn, vocab, TRAIN_CONTEXT)
        step = _train_step(shape, windows, device, threads)
        step()
        yield Step(shape, windows, _fastest(step, device, _STEPS))


def _train_step(shape: ModelConfig, windows: int, device: torch.device, threads: int) -> Callable[[], None]:
    settings = TrainConfig(
        steps=1000,
        batch_sequences=windows,
        micro_sequences=windows,
        context=shape.context,
        lr=1e-4,
        min_lr=1e-5,
        warmup_steps=0,
        precision="bf16" if device.type == "cuda" else "fp32",
        threads=threads,
    )
    model = Decoder(shape)
    initialise(model, 0)
    engine = Engine(model, settings, device, World())
    data = np.random.default_rng(0).integers(0, shape.vocab_size, (windows, shape.context + 1))

    def step() -> None:
        _, norm, _ = engine.gradients(data, 0, lambda: False)
        engine.update(settings.lr, norm)
        engine.clear()

    return step


def _shape(depth: int, width: int, heads: int, kv_heads: int, ffn: int, vocab: int, context: int) -> ModelConfig:
    return ModelConfig(
        vocab_size=vocab, depth=depth, width=width, heads=heads, kv_heads=kv_heads, head_dim=width // heads, ffn=ffn,
        bos_id=0, eos_id=0, context=context,
    )  # fmt: skip


def _timed(work: Callable[[], None], device: torch.device) -> float:
    begin = _now(device)
    work()
    return _now(device) - begin


def _fastest(work: Callable[[], None], device: torch.device, seconds: float) -> float:
    """The shortest of the calls that fit in `seconds`, at least three."""
    taken: list[float] = []
    while len(taken) < 3 or sum(taken) < seconds:
        taken.append(_timed(work, device))
    return min(taken)


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def probes_in_all(shapes: Sequence[ModelConfig], device: torch.device) -> int:
    """How many shapes a calibration times."""
    return len(shapes) + len(TRAIN_SHAPES[device.type])

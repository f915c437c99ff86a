"""What a calibration times: real generators and real training steps of a few shapes.

Of many short stretches the lower quartile counts: what else a machine does slows some of them down, and the very
fastest is faster than a whole run ever is.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
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
    (1, 32, 2, 2, 88, 40_960),
    (4, 128, 4, 4, 352, 2048),
    (8, 96, 3, 3, 256, 1024),
    (16, 192, 6, 6, 512, 2048),
    (6, 192, 6, 3, 512, 2048),
    (6, 256, 4, 4, 704, 4096),
    (10, 320, 10, 5, 832, 4096),
    (2, 512, 8, 8, 1408, 8192),
    (6, 512, 8, 2, 1408, 1024),
    (1, 1024, 16, 4, 2816, 16_384),
    (2, 1024, 16, 16, 2816, 2048),
)
# The larger a probe, the fewer batches: 20 texts at once on the largest would take the time of all the others.
BATCHES = ((2_000_000, (1, 4, 20)), (20_000_000, (1, 20)), (10**12, (1, 6)))
POSITIONS = (6, 48, 160, 480)
CONTEXT = 512
# Depth, width, heads, FFN, vocabulary, windows of TRAIN_CONTEXT: about as many tokens as runs put into a micro batch,
# of the context that small ones have. The first two are of one width, and the first is so small that a layer's calls
# show.
TRAIN_SHAPES = (
    (4, 64, 2, 176, 256, 1),
    (4, 64, 2, 176, 1024, 16),
    (2, 256, 4, 704, 2048, 16),
    (1, 768, 12, 2048, 2048, 4),
)
TRAIN_SHAPES_GPU = (
    (4, 64, 2, 176, 256, 1),
    (4, 64, 2, 176, 1024, 64),
    (4, 768, 12, 2048, 4096, 64),
    (2, 2048, 16, 5504, 8192, 64),
)
TRAIN_CONTEXT = 256
# Seconds of a stretch, and its steps at most.
_STRETCH, _LONGEST = 0.006, 32


@dataclass(frozen=True)
class Probes:
    """What a calibration times.

    decode: depth, width, heads, key-value heads, FFN and vocabulary of each shape that writes. train: depth, width,
    heads, FFN, vocabulary and windows of each training step, the first two of one width. point, step: seconds for each
    decoding step (a shape at a batch and a position), and for each training step. limit: seconds after which each of
    those left is timed once only, for on a busy or slow machine all of it would take minutes.
    """

    decode: tuple[tuple[int, int, int, int, int, int], ...] = DECODE_SHAPES
    train: tuple[tuple[int, int, int, int, int, int], ...] = TRAIN_SHAPES
    point: float = 0.08
    step: float = 0.7
    limit: float = 25.0

    def __len__(self) -> int:
        return len(self.decode) + len(self.train)


def usual_probes(device: torch.device) -> Probes:
    """The probes for a kind of device."""
    return Probes(train=TRAIN_SHAPES_GPU) if device.type == "cuda" else Probes()


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


def decode_points(
    probes: Probes, device: torch.device, dtype: torch.dtype, until: float
) -> Iterator[list[Point]]:
    """Time each shape that writes, at several batches and positions. until: when `limit` is up (time.monotonic)."""
    for depth, width, heads, kv_heads, ffn, vocab in probes.decode:
        shape = _shape(depth, width, heads, kv_heads, ffn, vocab, CONTEXT)
        model = Decoder(shape).to(device, dtype)
        batches = next(batches for limit, batches in BATCHES if shape.parameters() <= limit)
        yield [point for batch in batches for point in _points(model, batch, probes.point, until)]


def _points(model: Decoder, batch: int, seconds: float, until: float) -> Iterator[Point]:
    writer = Generator(model, batch)
    with torch.inference_mode():
        # Fresh zeros are one page of memory however often they stand there; a written cache is not.
        writer.cache.fill_(0.01)
        for position in POSITIONS:
            taken, steps = _decode_step(writer, position, seconds, until)
            yield Point(model.config, batch, position + (steps - 1) / 2, taken)


def _decode_step(writer: Generator, position: int, seconds: float, until: float) -> tuple[float, int]:
    """(seconds of a step, steps of a stretch)."""
    device = writer.cache.device
    ids_BT = torch.zeros(writer.batch, _LONGEST + 1, dtype=torch.long, device=device)

    def stretch(steps: int) -> None:
        writer.position = position
        for step in range(steps):
            ids_BT[:, step + 1] = writer.feed(ids_BT[:, step : step + 1]).argmax(-1)

    stretch(1)
    once = _timed(lambda: stretch(1), device)
    if time.monotonic() > until:
        return once, 1
    steps = max(1, min(_LONGEST, round(_STRETCH / once)))
    return _quartile(lambda: stretch(steps), device, seconds) / steps, steps


def train_steps(probes: Probes, device: torch.device, threads: int, until: float) -> Iterator[Step]:
    """Time one training step, not compiled, of each shape that trains. until: as for `decode_points`."""
    for depth, width, heads, ffn, vocab, windows in probes.train:
        shape = _shape(depth, width, heads, heads, ffn, vocab, TRAIN_CONTEXT)
        step = _train_step(shape, windows, device, threads)
        first = _timed(step, device)
        late = time.monotonic() > until
        yield Step(shape, windows, first if late else _quartile(step, device, probes.step, least=1))


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


def _quartile(work: Callable[[], None], device: torch.device, seconds: float, least: int = 3) -> float:
    """The lower quartile of the seconds of the calls that fit in `seconds`, but of so many at least."""
    taken: list[float] = []
    while len(taken) < least or sum(taken) < seconds:
        taken.append(_timed(work, device))
    return sorted(taken)[len(taken) // 4]


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


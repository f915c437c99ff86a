"""An encoder's run settled from its shape and its text, as `derive` does for a decoder.

Positions of padding are never counted as tokens: horizon and cost are of tokens, the loop's batches of windows.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch

from lilliput.device import threads
from lilliput.errors import ConfigError
from lilliput.progress import count
from lilliput.train.config import TrainConfig
from lilliput.train.derive import (
    CPU_RATE,
    CPU_WIDTH,
    EPOCHS_TO_WARN,
    GPU_RATE,
    GPU_WIDTH,
    ROWS,
    Notes,
    activation_room,
    beta2_of,
    horizon,
    intervals_of,
    precision_of,
    value_of,
    warmup_of,
)

if TYPE_CHECKING:
    from lilliput.model.encoder_config import EncoderConfig
    from lilliput.recipe import TrainSettings
    from lilliput.train.further import Trained

# The peak of pre-training falls with the width, as μP has it (2203.03466). [D] Our own constant: it gives 4e-4 at
# RoBERTa's width of 768 (6e-4 there, 1907.11692) and 3e-3 at 96, where that came further in 600 steps than 1e-3 (one
# seed, docs/encoders.md).
PRETRAIN_LR, MAX_PRETRAIN_LR = 0.3, 3e-3
# Fine-tuning's falls faster: measured at 96 (docs/encoders.md), and at 768 about the 5e-5 that BERT and the TLM paper
# take.
MAX_TUNE_LR, TUNE_WIDTH, TUNE_POWER = 1e-3, 96, 1.5
BATCH = 32
# A masked pass teaches less of a text than a causal one, and the masks are drawn anew each time.
REPEATS = 10


def tuning_rate(width: int) -> float:
    """The peak learning rate of fine-tuning an encoder of this width."""
    return MAX_TUNE_LR * math.pow(min(1.0, TUNE_WIDTH / width), TUNE_POWER)


def row_bytes(shape: EncoderConfig) -> int:
    """What one window keeps for the backward pass, about, in fp32: streams, projections, attention's weights, which
    dropout makes stand whole, the feed-forward, and the images of a front end."""
    positions = shape.context
    layer = 14 * shape.width + 3 * shape.ffn + 4 * shape.heads * positions
    front = (4 * shape.conv * shape.channels + 4) * shape.width if shape.conv else 0
    return 4 * positions * (shape.depth * layer + 4 * shape.width + front)


def derive_masked(
    train: TrainSettings,
    shape: EncoderConfig,
    windows: int,
    tokens: int,
    size: int,
    rate: float,
    seed: int,
    device: torch.device,
    before: Trained | None = None,
) -> tuple[TrainConfig, list[str]]:
    """Settle a masked run: (settings, one printable line for each value and where it came from).

    windows, tokens, size: of one epoch; tokens without padding, size in UTF-8 bytes. rate: share of masked tokens.
    before: what the weights that it begins with have seen, None for fresh ones. Raises ConfigError for a request that
    cannot be met.
    """
    notes = Notes()
    precision = precision_of(train, device.type == "cuda", notes)
    length = horizon(train, shape.parameters(), tokens, size)
    batch, micro = batch_of(train, shape, device, notes)
    epochs = length.tokens / tokens
    steps = max(1, round(epochs * windows / batch))
    epochs = steps * batch / windows
    notes.derived(
        "tokens", count(epochs * tokens), f"{length.why}; {steps} steps, {epochs:.2f} epochs of {count(tokens)} tokens "
        f"in {windows:,} windows"
    )  # fmt: skip
    if epochs > EPOCHS_TO_WARN * REPEATS:
        notes.append(f"warning: {epochs:.0f} epochs; more text would teach more")
    lr = rate_of(train, shape, notes, before, epochs * tokens)
    flops = shape.step_flops(epochs * tokens, rate * epochs * tokens)
    save_every, eval_every = intervals_of(train, flops / _nominal(shape, device), steps, notes)
    return TrainConfig(
        steps=steps,
        batch_sequences=batch,
        micro_sequences=micro,
        context=shape.context,
        lr=lr,
        min_lr=lr * train.min_lr,
        warmup_steps=warmup_of(train, steps, notes),
        schedule=train.schedule,
        decay_steps=max(1, round(train.decay * steps)) if train.schedule == "wsd" else 0,
        weight_decay=train.weight_decay,
        beta1=train.beta1,
        beta2=beta2_of(train, batch * shape.context, notes),
        clip=train.clip,
        seed=seed,
        objective="masked",
        compile=train.compile is True,
        precision=precision,
        threads=value_of("threads", train.threads, threads(), "the cores of this machine, or OMP_NUM_THREADS", notes),
        save_every=save_every,
        eval_every=eval_every,
        log_every=max(1, steps // ROWS),
        tensorboard=train.tensorboard,
    ), list(notes)


def batch_of(train: TrainSettings, shape: EncoderConfig, device: torch.device, notes: Notes) -> tuple[int, int]:
    """(windows in the global batch, windows in a micro batch)."""
    if train.batch_tokens is not None:
        batch = train.batch_tokens // shape.context
        if batch < 1:
            raise ConfigError(
                f"a batch of {train.batch_tokens} tokens holds no window of {shape.context}",
                where="train.batch_tokens",
                mend=f"give at least {shape.context}, or a smaller model.context",
            )
        notes.given("batch", f"{batch} windows of {shape.context}")
    else:
        batch = BATCH
        notes.derived("batch", f"{batch} windows of up to {shape.context} tokens", "usual for encoders of this size")
    fit = max(1, int(activation_room(device) / row_bytes(shape)))
    micro = math.ceil(batch / math.ceil(batch / fit))
    micro = value_of("micro batch", train.micro_batch, micro, f"activations of {fit} windows fit", notes)
    return batch, min(micro, batch)


def rate_of(
    train: TrainSettings, shape: EncoderConfig, notes: Notes, before: Trained | None, tokens: float
) -> float:
    """The peak rate, noted."""
    if train.lr is not None:
        notes.given("lr", f"{train.lr:.3g}")
        return train.lr
    lr = min(MAX_PRETRAIN_LR, PRETRAIN_LR / shape.width)
    formula = f"{PRETRAIN_LR:g}/width, at most {MAX_PRETRAIN_LR:g} (our own, docs/encoders.md)"
    if before is not None:
        lr *= before.share(tokens)
        formula = f"{before.told(tokens)}; the whole would be {formula}"
    notes.derived("lr", f"{lr:.3g}", formula)
    return lr


def _nominal(shape: EncoderConfig, device: torch.device) -> float:
    full, width = (GPU_RATE, GPU_WIDTH) if device.type == "cuda" else (CPU_RATE, CPU_WIDTH)
    return full * min(1.0, shape.width / width)

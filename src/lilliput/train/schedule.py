"""The learning rate of each step."""

from __future__ import annotations

import math

from lilliput.train.config import TrainConfig


def learning_rate(config: TrainConfig, step: int) -> float:
    """The rate of update `step` (0 is the first).

    Linear warm-up to `lr`; then cosine to `min_lr`; or constant with a linear decay to `min_lr` over the last
    `decay_steps` (wsd, MiniCPM 2404.06395 §4, with a linear tail); or constant.
    """
    if step < config.warmup_steps:
        return config.lr * (step + 1) / config.warmup_steps
    if config.schedule == "constant":
        return config.lr
    if config.schedule == "wsd":
        begin = config.steps - config.decay_steps
        if step < begin:
            return config.lr
        done = (step + 1 - begin) / max(1, config.decay_steps)
        return config.lr + (config.min_lr - config.lr) * min(1.0, done)
    done = (step - config.warmup_steps) / max(1, config.steps - 1 - config.warmup_steps)
    return config.min_lr + 0.5 * (config.lr - config.min_lr) * (1 + math.cos(math.pi * min(1.0, done)))

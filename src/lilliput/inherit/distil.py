"""Distillation: the student learns the text and, beside it, what a teacher says of it (1503.02531).

The loss of a target is (1 − share) · cross-entropy + share · T² · KL(teacher ‖ student); distil_loss.py derives it for
a student whose vocabulary is only a part of the teacher's.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule

from lilliput.errors import ConfigError
from lilliput.inherit.distil_loss import Mix, mixed_loss
from lilliput.inherit.teacher_logits import Answering, Live, map_hash, too_long
from lilliput.model.decoder import Decoder
from lilliput.model.loss import chunk_rows
from lilliput.plan.cost import decode_flops
from lilliput.train.objectives import Causal, split

if TYPE_CHECKING:
    from lilliput.model.config import ModelConfig


class Distil(Causal):
    """Predict each next token, and how likely a teacher holds each piece there.

    teacher: a model whose answers are computed on the way, or a teacher made before, such as `teacher_cache.Cached`.
    share: of the teacher in the loss, 0 (the text alone: exactly `Causal`) to 1. temperature: T. ids: (n,) int64, the
    teacher's number of each of the student's pieces, where a compaction numbered them anew (`id_map.common_ids`).
    Runs in one process. Raises ConfigError for a share, temperature or map that cannot be.
    """

    def __init__(
        self, teacher: Decoder | Answering, *, share: float, temperature: float = 1.0, ids: Tensor | None = None
    ) -> None:
        if not 0 <= share <= 1:
            raise ConfigError(f"the teacher's share is {share:g}", where="share", mend="give 0 to 1")
        if not (temperature > 0 and math.isfinite(temperature)):
            raise ConfigError(f"the temperature is {temperature:g}", where="temperature", mend="give 1, or 1 to 4")
        if isinstance(teacher, Decoder):
            teacher = Live(teacher, temperature=temperature, ids=ids)
        if teacher.temperature != temperature:
            reason = f"the teacher's answers were taken at temperature {teacher.temperature:g}, not {temperature:g}"
            raise ConfigError(reason, where="temperature", mend=f"set {teacher.temperature:g}, or take them again")
        if teacher.mapped != map_hash(ids):
            reason = "the teacher's answers were taken with another id map"
            raise ConfigError(reason, where="ids", mend="give the id map they were taken with, or take them again")
        self.teacher, self.mix = teacher, Mix(share, temperature)
        self._sums: dict[str, Tensor] = {}

    def check(self, student: ModelConfig, context: int) -> None:
        """Raise ConfigError where `student` cannot learn from this teacher in windows of `context` tokens."""
        if context > self.teacher.context:
            raise too_long(context, self.teacher.context)
        if self.teacher.pieces > student.vocab_size:
            raise ConfigError(
                f"the teacher answers for {self.teacher.pieces} pieces, the student has {student.vocab_size} rows",
                where="teacher",
                mend="give the id map of the compaction that made the student's tokenizer",
            )

    def loss(self, model: nn.Module, windows_BT1: Tensor) -> Tensor:
        """Summed over the targets. model: a `Decoder` of one process. Raises ConfigError as `check` does."""
        if self.mix.share == 0:
            return super().loss(model, windows_BT1)
        if isinstance(model, FSDPModule) or not isinstance(model, Decoder):
            raise ConfigError("distillation runs in one process", where="torchrun", mend="start it without torchrun")
        ids_BT, targets_BT = split(windows_BT1)
        self.check(model.config, ids_BT.shape[1])
        view = self.teacher(ids_BT)
        x_ND = model.model(ids_BT).flatten(0, 1)
        found = mixed_loss(x_ND, model.head_weight(), targets_BT.flatten(), view, self.mix)
        for name, value in (
            ("cross_entropy", found.cross_entropy),
            ("divergence", found.divergence),
            ("targets", (targets_BT >= 0).sum()),
        ):
            self._sums[name] = self._sums.get(name, 0) + value
        return found.mixed

    def begin(self, model: nn.Module, step: int) -> None:
        """The figures are those of one step, so that a resumed run gives the same."""
        super().begin(model, step)
        self._sums = {}

    def figures(self, model: nn.Module) -> dict[str, float]:
        """The last step's two parts of the loss, nats a target."""
        if not self._sums:
            return {}
        targets = max(1.0, float(self._sums["targets"]))
        return {name: float(self._sums[name]) / targets for name in ("cross_entropy", "divergence")}

    def identity(self) -> dict[str, Any]:
        """Settings that make another run of it."""
        if self.mix.share == 0:
            return {}
        return {"kind": "distil", "share": self.mix.share, **self.teacher.identity()}


def step_cost(student: ModelConfig, teacher: ModelConfig, context: int) -> float:
    """FLOPs of a step with a live teacher over those without: 1 + forward(teacher) / (3 · forward(student)).

    Forward and backward of the student are three forward passes; attention looks back over half the window on average.
    """
    half = context // 2
    return 1 + decode_flops(teacher, half) / (3 * decode_flops(student, half))


def live_bytes(student: ModelConfig, teacher: ModelConfig, tokens: int) -> int:
    """Memory in bytes that a live teacher takes on a CPU beside a step's own (`train.memory.step_bytes`), for micro
    batches of `tokens` positions: its weights, what one layer works with, and of one chunk of positions what the loss
    makes of both models' logits. Measured growth of three pairs lay within 15 %.
    """
    rows = min(tokens, chunk_rows(max(student.vocab_size, teacher.vocab_size), torch.device("cpu")))
    chunk = rows * (4 * teacher.vocab_size + 2 * student.vocab_size)
    return 4 * (teacher.parameters() + tokens * (4 * teacher.width + 3 * teacher.ffn) + chunk)

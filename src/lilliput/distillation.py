"""Distillation in `make`: the objective that a recipe's `inherit.distil` asks for, its teacher live or from disk."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from lilliput.export.compacted import ID_MAP
from lilliput.inherit.distil import Distil, live_bytes, step_cost
from lilliput.inherit.id_map import common_ids, read_ids
from lilliput.inherit.teacher_cache import Cached, cache
from lilliput.inherit.teacher_logits import Live
from lilliput.lineage import teacher_of
from lilliput.model.config import ModelConfig
from lilliput.progress import count, say
from lilliput.recipe import Recipe
from lilliput.tokenizer.load import Tokenizer
from lilliput.train.config import TrainConfig
from lilliput.train.derive import flops
from lilliput.train.order import Windows


def distillation(recipe: Recipe) -> dict[str, Any] | None:
    """What of distillation decides the weights; None where none is asked."""
    asked = recipe.inherit
    return {"share": asked.distil, "temperature": asked.temperature, "top": asked.top} if asked.distil else None


def teacher_flops(recipe: Recipe, config: TrainConfig) -> float:
    """What the teacher's answers cost: a forward pass, a third of a step, over all tokens; 0 where none is asked."""
    return flops(teacher_of(recipe).config, config.tokens) / 3 if recipe.inherit.distil else 0.0


def distil_objective(
    recipe: Recipe,
    tokenizer: Tokenizer,
    shape: ModelConfig,
    config: TrainConfig,
    shards: Windows,
    compacted: Path | None,
    work: Path,
    device: torch.device,
) -> Distil | None:
    """Learn from text and teacher together; None where that is not asked.

    compacted: the folder of the tokenizer's compaction, if it was cut down; the whole teacher is asked all the same,
    through the id map. work: where answers that are kept on disk (`inherit.top`) lie. Raises ConfigError where the
    student cannot learn from this teacher.
    """
    asked = recipe.inherit
    if not asked.distil:
        return None
    teacher = teacher_of(recipe)
    ids = common_ids(
        tokenizer,
        teacher.tokenizer,
        read_ids(compacted / ID_MAP) if compacted else None,
        where=f"inherit.teacher={asked.teacher}",
    )
    live = Live(teacher.model(device), temperature=asked.temperature, ids=ids)
    if asked.top is not None:
        cache(work, live, shards, config, vocab=shape.vocab_size, k=asked.top, device=device)
        answers: Live | Cached = Cached(work)
    else:
        cost = step_cost(shape, teacher.config, config.context)
        more = count(live_bytes(shape, teacher.config, config.micro_sequences * config.context))
        say(f"           the teacher answers on the way: a step takes {cost:.1f} times as long and {more}B more memory")
        answers = live
    objective = Distil(answers, share=asked.distil, temperature=asked.temperature, ids=ids)
    objective.check(shape, config.context)
    return objective

"""Which teacher a recipe names, and which child it asks to carve out of it."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

from lilliput.errors import ConfigError
from lilliput.evaluate.task import Task
from lilliput.export.teacher import Teacher, open_teacher
from lilliput.inherit.judging import open_tasks
from lilliput.inherit.layers import BITS, choose_layers, measured_by
from lilliput.model.config import ModelConfig
from lilliput.plan.child import Target, child_shape
from lilliput.plan.rules import rule_size
from lilliput.progress import warn
from lilliput.recipe import InheritSettings, ModelSettings, Recipe

# Keys of `model` that say what a child's shape shall be.
_TARGET = ("depth", "width", "heads", "kv_heads", "expansion", "ffn")
# What plan/child.py calls them.
_KEYS = {
    "layers": "model.depth", "hidden": "model.width", "heads": "model.heads", "kv_heads": "model.kv_heads",
    "ffn": "model.ffn", "params": "budget.params",
}  # fmt: skip
_WORD = re.compile(rf"\b({'|'.join(_KEYS)})\b(?==| is |$)")
_ROUNDS = 8


def teacher_of(recipe: Recipe, place: Path | None = None) -> Teacher:
    """The teacher that a recipe names, or the one at `place` that was cut down from it."""
    if place is not None:
        return open_teacher(place)
    named = recipe.inherit.tokenizer
    return open_teacher(teacher_place(str(recipe.inherit.teacher)), Path(named).expanduser() if named else None)


def teacher_place(named: str) -> Path:
    """Where a teacher lies: what is named, or the model in it where that is a run's folder."""
    place = Path(named).expanduser()
    inside = place / "model"
    return inside if not (place / "config.json").exists() and (inside / "config.json").is_file() else place


def child_of(recipe: Recipe, teacher: ModelConfig) -> ModelConfig:
    """The shape that a recipe asks to carve out of `teacher`; ConfigError names the nearest that can be."""
    asked = recipe.model
    ffn = asked.ffn or (asked.expansion and max(1, round(asked.expansion * (asked.width or teacher.width)))) or None
    named = recipe.inherit.layers or ""
    target = Target(
        # Layers that are named say how many there are.
        layers=asked.depth or (named.count(",") + 1 if named.startswith("keep=") else None),
        hidden=asked.width,
        heads=asked.heads,
        kv_heads=asked.kv_heads,
        ffn=ffn,
        # A ceiling: a teacher below it may stay as large as it is.
        params=recipe.budget.params if (recipe.budget.params or 0) < teacher.parameters() else None,
    )
    try:
        return child_shape(teacher, target)
    except ConfigError as error:
        where, mend = _keyed(error.where or ""), _keyed(error.mend or "")
        raise ConfigError(_keyed(error.message), where=where, mend=mend) from None


def _keyed(text: str) -> str:
    """The dimensions in a message by their keys in a recipe."""
    return _WORD.sub(lambda found: _KEYS[found[0]], text)


def child_vocabulary(recipe: Recipe, teacher: ModelConfig) -> int:
    """The largest vocabulary, a multiple of 64, that takes below 20 % of the child it leaves room for (PanGu-π Pro
    §2.1)."""
    vocab = teacher.vocab_size
    for _ in range(_ROUNDS):
        shape = child_of(recipe, replace(teacher, vocab_size=vocab))
        row = shape.width * (1 if shape.tied else 2)
        found = min(teacher.vocab_size, rule_size(row, shape.parameters() - vocab * row))
        if found == vocab:
            break
        vocab = found
    return vocab


def check_inherit(recipe: Recipe) -> None:
    """Refuse an inheritance that cannot be, before any work. Raises UserError."""
    where = f"inherit.teacher={recipe.inherit.teacher}"
    if recipe.source is not None:
        raise ConfigError("a model is inherited or trained further, not both", where=where, mend="leave out from")
    ignored = [
        *(
            f"model.{name}"
            for name, value in recipe.model
            if name not in _TARGET and value != ModelSettings.model_fields[name].default
        ),
        *(["tokenizer.vocab_size"] if recipe.tokenizer.vocab_size else []),
        *(["tokenizer.from"] if recipe.tokenizer.source else []),
    ]
    if ignored:
        mend = f"leave out {' and '.join(ignored)}"
        raise ConfigError(f"a child has its teacher's; {', '.join(ignored)} cannot be set", where=where, mend=mend)
    if recipe.budget.bytes is not None or recipe.budget.speed is not None:
        mend = "give budget.params, or the dimensions under model"
        raise ConfigError("a child's size is asked in parameters or dimensions", where="budget", mend=mend)
    teacher, compact = teacher_of(recipe).config, recipe.tokenizer.compact
    vocab = compact if isinstance(compact, int) else teacher.vocab_size
    child = child_of(recipe, replace(teacher, vocab_size=vocab))
    check_choice(recipe, teacher, child)
    if (recipe.budget.params or 0) >= teacher.parameters() and child.parameters() == teacher.parameters():
        warn(f"the teacher has {teacher.parameters():,} parameters: nothing has to be cut for {recipe.budget.params:,}")


def check_choice(recipe: Recipe, teacher: ModelConfig, child: ModelConfig) -> None:
    """Refuse a way of choosing parts that cannot make `child` of `teacher`, whose weights need not be there yet. Raises
    UserError."""
    if recipe.inherit.layers == "learned" and recipe.inherit.neurons != "learned":
        mend = "inherit.neurons=learned, or another way to choose layers"
        raise ConfigError("layers are learned together with neurons or not at all", where="inherit.layers", mend=mend)
    if recipe.inherit.top is not None and not recipe.inherit.distil:
        mend = "inherit.distil=0.5, or leave out inherit.top"
        raise ConfigError("there is no distillation to keep answers for", where="inherit.top", mend=mend)
    how = layers_how(recipe.inherit)
    if how != "learned":
        choose_layers(how, teacher.depth, child.depth, (0.0,) * teacher.depth)
    tasks_of(recipe, teacher)


def tasks_of(recipe: Recipe, teacher: ModelConfig) -> list[Task]:
    """The tasks that layers are judged by beside bits per byte; none as a rule. Raises UserError where one of them
    cannot be had."""
    asked = recipe.inherit
    measure = measured_by(layers_how(asked))
    names = [*asked.tasks, *([measure] if measure not in (None, BITS) else [])]
    if names and measure is None:
        mend = "inherit.layers=importance, or leave out inherit.tasks"
        raise ConfigError("tasks judge layers that are chosen by importance", where="inherit.tasks", mend=mend)
    return open_tasks(names, Path(asked.data).expanduser() if asked.data else None, teacher)


def layers_how(how: InheritSettings) -> str:
    """How layers are chosen: by the masks where those are learned and nothing else is asked, else by importance."""
    return how.layers or ("learned" if how.neurons == "learned" else "importance")

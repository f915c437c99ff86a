"""The shapes of a ladder's arms at equal parameters: the paper's base scaled down, the planned shape, and a teacher
that holds it.

PanGu-π Pro (arXiv 2402.02791): the 1B base is 12 layers × 2048 with 100,883 pieces, whose tables take 36.8 % of it; the
final one 21 layers × 1792 with 48,000 (§2.1, §2.2, Table 9).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any

from lilliput.errors import ConfigError, UserError
from lilliput.model.config import BY_FAMILY, ModelConfig
from lilliput.plan.rules import BLOCKED, EXPANSION, table_share, usual_head_dim
from lilliput.plan.search import derive_shape, search
from lilliput.recipe import ModelSettings, Recipe

# Share of the tables in the base (§2.1), and the largest share that a tokenizer is taken whole at.
BASE_SHARE, MOST_SHARE = 0.37, 0.45
# Arms differ by less than this from the planned number of parameters.
TOLERANCE = 0.01
_EXPANSIONS = (1.0, 8.0)
# The smallest budget that the planner knows.
_LEAST = 20_000
_STEPS = (32, 16, 8, 4, 2, 1)
_PIECES = 16
# The compact tokenizer has at most this share of the big one's pieces (the paper's has 48 %).
SMALLER = 0.85
_DIMENSIONS = ("depth", "width", "heads", "kv_heads", "head_dim", "expansion", "ffn")


def planning(recipe: Recipe, **changes: Any) -> Recipe:
    """`recipe` for the planner: without teacher, rounds and tokenizer, `model` and `budget` as they are but for
    `changes` of the two, `{"budget": {"params": …}}`."""
    values = recipe.to_dict()
    for name in ("tokenizer", "inherit", "rounds"):
        values.pop(name, None)
    for part, given in changes.items():
        values[part] = {**values[part], **given}
    return Recipe.model_validate(values)


def planned_shape(recipe: Recipe, vocab_size: int | None) -> ModelConfig:
    """The shape of the rung `+ architecture`: the planner's best for the recipe's budget and what it fixes.

    Raises ConfigError where none fits, where it is tiny, or where it has one layer, which leaves none to halve.
    """
    shape = derive_shape(planning(recipe), vocab_size)
    if shape.parameters() < _LEAST:
        reason = f"the planned shape has {shape.parameters():,} parameters; a ladder has {_LEAST:,} at least"
        raise ConfigError(reason, where="budget.params", mend="give a larger budget.params, or free a dimension")
    if shape.depth < 2:
        mend = "give a larger budget.params, or model.depth=2"
        reason = "the planned shape has one layer, and the base has half its depth"
        raise ConfigError(reason, where="model.depth", mend=mend)
    return shape


def best_shape(recipe: Recipe, planned: ModelConfig, pieces: int) -> ModelConfig:
    """The planner's best at the parameters of `planned` if no dimension were fixed, with a vocabulary of its own where
    none is asked (at most `pieces`, else the planned one); `planned` itself where the recipe fixes nothing."""
    free = dict.fromkeys(_DIMENSIONS)
    if all(getattr(recipe.model, name) is None for name in _DIMENSIONS):
        return planned
    asked = planning(recipe, model={**free, "context": planned.context}, budget={"params": planned.parameters()})
    best = derive_shape(asked, compact_size(recipe))
    return best if best.vocab_size <= pieces else derive_shape(asked, planned.vocab_size)


def compact_size(recipe: Recipe) -> int | None:
    """The pieces that are asked of the compact tokenizer; None where the planner chooses them with the shape, by the
    rule (tables below 20 %), or where the text decides (a coverage)."""
    asked = recipe.tokenizer
    return asked.compact if isinstance(asked.compact, int) else asked.vocab_size


def half(depth: int) -> int:
    """Half the depth, rounded up: 21 layers → 11 (the paper has 12)."""
    return (depth + 1) // 2


def base_shape(planned: ModelConfig, pieces: int | None, whole: bool = False) -> ModelConfig:
    """The base: half of the planned depth, as wide as gives equal parameters, and a big vocabulary whose tables take
    37 % of them.

    pieces: those there are, None where a tokenizer can be trained to any size. whole: take all of them where that
    leaves the tables at 45 % or less. Raises ConfigError where no such shape has the parameters.
    """
    depth, tables = half(planned.depth), 1 if planned.tied else 2
    if pieces is not None and whole and SMALLER * pieces >= planned.vocab_size:
        most = MOST_SHARE * planned.parameters() / (tables * pieces)
        found = fitted(planned, depth, lambda width: pieces if width <= most else 0)
        if found is not None and table_share(found) <= MOST_SHARE:
            return found

    def at_share(width: int, spare: float) -> int:
        """The pieces at a width; 0 where they are no more than the compact tokenizer's, or far more than there are."""
        size = int(BASE_SHARE * planned.parameters() / (tables * width)) // _PIECES * _PIECES
        if pieces is not None:
            size = min(size, pieces) if size <= spare * pieces else 0
        return size if SMALLER * size >= planned.vocab_size else 0

    for spare in (1.1, math.inf):
        if (found := fitted(planned, depth, partial(at_share, spare=spare))) is not None:
            return found
    least = math.ceil(planned.vocab_size / SMALLER)
    has = "" if pieces is None or pieces >= least else f"; the tokenizer has {pieces:,}"
    raise ConfigError(
        f"no shape of {depth} layers with {planned.parameters():,} parameters, {BASE_SHARE:.0%} of them in tables, "
        f"has {least:,} pieces or more, well above the compact tokenizer's {planned.vocab_size:,}{has}",
        where="budget.params",
        mend="give a larger budget.params, a smaller tokenizer.compact" + (", or another tokenizer" if has else ""),
    )


def shallow_shape(planned: ModelConfig, depth: int) -> ModelConfig:
    """The rung `+ compact tokenizer`: the base's depth with the planned vocabulary. Errors as for `base_shape`."""
    found = fitted(planned, depth, lambda _: planned.vocab_size)
    if found is None:
        reason = f"no shape of {depth} layers has {planned.parameters():,} parameters within {TOLERANCE:.0%}"
        raise ConfigError(reason, where="budget.params", mend="give a larger budget.params, or another model.depth")
    return found


def fitted(like: ModelConfig, depth: int, vocab: Callable[[int], int]) -> ModelConfig | None:
    """The shape of `depth` layers with the parameters of `like` (within 1 %) whose expansion is nearest to the usual
    one, the width free; None if none has. vocab: the vocabulary at a width."""
    return min(_fitting(like, depth, vocab), key=_departure, default=None)


def _departure(shape: ModelConfig) -> tuple[float, int]:
    return round(abs(math.log(shape.ffn / shape.width / EXPANSION)), 6), shape.width


def _fitting(like: ModelConfig, depth: int, vocab: Callable[[int], int]) -> Iterator[ModelConfig]:
    target, group = like.parameters(), like.heads // like.kv_heads
    step = 32 if target >= BLOCKED else 16
    for width in range(step, int(target**0.5) + step, step):
        size = like.head_dim if width % like.head_dim == 0 else usual_head_dim(width)
        heads = width // size
        if heads % group or vocab(width) < 1:
            continue
        frame = replace(
            like,
            depth=depth,
            width=width,
            heads=heads,
            kv_heads=heads // group,
            head_dim=size,
            vocab_size=vocab(width),
            shortcut=BY_FAMILY if like.shortcut else like.shortcut,
            ffn=1,
        )
        shape = _filled(frame, target)
        if shape is not None:
            yield shape


def _filled(frame: ModelConfig, target: int) -> ModelConfig | None:
    """`frame` with the feed-forward that comes nearest to `target` parameters: a multiple of the largest step that
    keeps within the tolerance; None where the expansion would be far from usual."""
    least = frame.parameters()
    each = replace(frame, ffn=2).parameters() - least
    step = next((size for size in _STEPS if each * size <= TOLERANCE * target), 1)
    ffn = round((target - least + each) / each / step) * step
    low, high = (bound * frame.width for bound in _EXPANSIONS)
    if not low <= ffn <= high:
        return None
    shape = replace(frame, ffn=ffn)
    return shape if abs(shape.parameters() - target) <= TOLERANCE * target else None


def teacher_shape(recipe: Recipe, child: ModelConfig, times: float) -> ModelConfig:
    """The planner's best of about `times` the parameters that holds `child`: at least as deep and as wide, the same
    head dimension, vocabulary, tying and groups of heads."""
    group = child.heads // child.kv_heads
    same = {"head_dim": child.head_dim, "tied": child.tied, "context": child.context}
    free = dict.fromkeys((*_DIMENSIONS, *same)) | same
    budget = {**dict.fromkeys(dict(recipe.budget)), "params": round(times * child.parameters())}
    asked = planning(recipe, model=free, budget=budget)
    try:
        shapes = [one.shape for one in search(asked, child.vocab_size)]
    except UserError:
        shapes = []
    for shape in shapes:
        if shape.heads % group == 0 and holds(grouped := replace(shape, kv_heads=shape.heads // group), child):
            return grouped
    # No usual shape does: twice as wide in everything.
    return replace(
        child, width=2 * child.width, heads=2 * child.heads, kv_heads=2 * child.kv_heads, ffn=2 * child.ffn
    )


def holds(teacher: ModelConfig, child: ModelConfig) -> bool:
    """Whether `child` can be carved out of `teacher`."""
    larger = all(
        getattr(teacher, name) >= getattr(child, name) for name in ("depth", "width", "heads", "kv_heads", "ffn")
    )
    return larger and (teacher.head_dim, teacher.tied) == (child.head_dim, child.tied)


def dimensions(shape: ModelConfig, asked: ModelSettings) -> dict[str, Any]:
    """`shape` as settings of a recipe's `model`, with what else the recipe asks of it."""
    names = ("depth", "width", "heads", "kv_heads", "head_dim", "ffn", "tied", "context")
    rest = {
        name: value
        for name, value in asked
        if name not in (*names, "expansion") and value != ModelSettings.model_fields[name].default
    }
    return {f"model.{name}": getattr(shape, name) for name in names} | {f"model.{name}": rest[name] for name in rest}

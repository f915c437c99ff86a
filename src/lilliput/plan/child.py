"""The shape of a child: what is asked of it, and what can be carved out of a teacher.

A carve keeps whole members of each space (model/carve.py): no dimension grows, head_dim stays, and a key-value head
stays or goes with all of its query heads. So `heads` counts whole groups, and the key-value heads follow from it.
Asking for fewer `kv_heads` than follow means grouped-query conversion after the carve (model/group.py), which leaves
the query heads alone; `before_grouping` is the shape that the carve itself then makes.

What is not named follows the teacher; under a number of parameters it is searched, by the same walk and the same prior
as `lilliput plan`, and of what can be carved only.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from functools import partial
from pathlib import Path

from lilliput.errors import ConfigError
from lilliput.model.architectures import ARCHITECTURES
from lilliput.model.config import ModelConfig
from lilliput.plan.limits import Limit
from lilliput.plan.prior import Prior, shipped_prior
from lilliput.plan.rules import EXPANSION_RANGE, ffn_step
from lilliput.plan.search import fill, rank
from lilliput.recipe import ShareSettings, load_recipe

# Multiples that widths should have, the best first: quantised formats want 32.
_STEPS = (32, 16, 8, 1)
_SMALL = 300_000
# From here on widths are looked at in larger steps.
_WIDE, _WIDE_STEP = 1024, 128
# As few widths are no choice: smaller steps are taken.
_FEW = 3


@dataclass(frozen=True)
class Target:
    """What is asked of a child. A dimension that is None follows the teacher, or is searched where `params`, the most
    parameters that it may have, is given."""

    layers: int | None = None
    hidden: int | None = None
    heads: int | None = None
    kv_heads: int | None = None
    ffn: int | None = None
    params: int | None = None

    def settings(self) -> str:
        """What is asked as people write it: `layers=6 hidden=192`."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return " ".join(f"{name}={value}" for name, value in values.items() if value is not None)


def child_shape(teacher: ModelConfig, target: Target, prior: Prior | None = None) -> ModelConfig:
    """The exact shape of the child of `teacher` that `target` asks for.

    Under `params`: the shape that is best by `prior` (None: that of the runs that ship), of those with at most so many
    parameters; where what is not named can follow the teacher, it does. Heads that are free there keep the teacher's
    ratio of heads to width, and nothing is grouped that was not asked to be.
    Raises ConfigError for what cannot be carved; it names the dimension, why, and the nearest target that can.
    """
    near, faults = _nearest(teacher, target)
    if faults:
        mend = f"the nearest that can be carved: {near.settings()}"
        raise ConfigError("; ".join(faults.values()), where=next(iter(faults)), mend=mend)
    if target.params is None:
        return _following(teacher, target)
    return rank(list(_candidates(teacher, target, target.params)), prior or shipped_prior())[0].shape


def before_grouping(teacher: ModelConfig, child: ModelConfig) -> ModelConfig:
    """The shape that is carved on the way to `child`: its own, but with the key-value heads that its query heads have
    in the teacher. Equal to `child` where no heads are grouped."""
    return replace(child, kv_heads=child.heads // _group(teacher))


def target_of_plan(file: Path, teacher: ModelConfig) -> Target:
    """The shape that a plan (`plan.yaml` of `lilliput plan --out`, or its folder) asks of a child.

    The context is the teacher's whatever the plan says. Raises ConfigError where the file is no plan, and where it is
    for another head_dim, vocabulary, tying or family than the teacher's, which a carve cannot change.
    """
    file = file / "plan.yaml" if file.is_dir() else file
    if not file.is_file():
        raise ConfigError("there is no such plan", where=str(file), mend="name what `lilliput plan --out DIR` wrote")
    recipe = load_recipe(str(file))
    asked, vocab = recipe.model, recipe.tokenizer.vocab_size
    if not (asked.depth and asked.width and asked.heads and asked.expansion):
        names = [name for name in ("depth", "width", "heads", "expansion") if not getattr(asked, name)]
        reason = f"this is no plan: {', '.join(f'model.{name}' for name in names)} is left open"
        raise ConfigError(reason, where=str(file), mend="name what `lilliput plan --out DIR` wrote")
    fixed = [
        ("--head-dim", asked.head_dim, teacher.head_dim, "channels a head"),
        ("--vocab", vocab, teacher.vocab_size, "pieces"),
        ("--family", asked.family, teacher.family, "for a family"),
    ]
    others = [(option, plan, own, what) for option, plan, own, what in fixed if plan is not None and plan != own]
    wrong = [f"{plan} {what}, not {own}" for _, plan, own, what in others]
    again = [f"{option} {own}" for option, _, own, _ in others]
    if asked.share != ShareSettings():
        mend = "plan again without --share"
        raise ConfigError("layers of a carved model share no weights, and the plan's do", where=str(file), mend=mend)
    if asked.tied is not None and asked.tied != teacher.tied:
        wrong.append(f"{'tied' if asked.tied else 'untied'} tables")
        again.append("--tied" if teacher.tied else "--untied")
    if wrong:
        compact = f", or compact the teacher to {vocab} pieces first" if vocab and vocab < teacher.vocab_size else ""
        raise ConfigError(
            f"the plan does not fit the teacher: {'; '.join(wrong)}",
            where=str(file),
            mend=f"plan again: lilliput plan {' '.join(again)}{compact}",
        )
    ffn = max(1, round(asked.width * asked.expansion))
    return Target(asked.depth, asked.width, asked.heads, asked.kv_heads, ffn)


def _group(teacher: ModelConfig) -> int:
    """Query heads of a key-value head."""
    return teacher.heads // teacher.kv_heads


def _following(teacher: ModelConfig, target: Target) -> ModelConfig:
    """The shape whose dimensions are the teacher's where they are not named."""
    heads = target.heads or teacher.heads
    return replace(
        teacher,
        depth=target.layers or teacher.depth,
        width=target.hidden or teacher.width,
        heads=heads,
        kv_heads=target.kv_heads or heads // _group(teacher),
        ffn=target.ffn or teacher.ffn,
    )


def _together(teacher: ModelConfig, target: Target, free: int) -> int:
    """The query heads that the width is shared among: those named, under `params` those of the key-value heads named,
    or else `free`."""
    if target.heads is not None:
        return target.heads
    grouped = target.kv_heads is not None and target.params is not None
    return (target.kv_heads or 0) * _group(teacher) if grouped else free


def _nearest(teacher: ModelConfig, target: Target) -> tuple[Target, dict[str, str]]:
    """The nearest target that can be carved, and what is wrong with this one, by dimension; nothing where it can."""
    faults: dict[str, str] = {}

    def near(name: str, allowed: Iterable[int], most: int, why: str = "") -> None:
        """Move one dimension to the nearest of `allowed`. why: it is not among them although it is at most `most`."""
        nonlocal target
        asked = getattr(target, name)
        found = min(allowed, key=lambda one: abs(one - asked))
        if found != asked:
            faults[name] = f"{name} is {asked}: {why if 1 <= asked <= most else f'it can be 1 to {most}'}"
            target = replace(target, **{name: found})

    group, searched = _group(teacher), target.params is not None
    whole = ARCHITECTURES[teacher.model_type].whole_heads
    if target.layers is not None:
        near("layers", range(1, teacher.depth + 1), teacher.depth)
    if target.ffn is not None:
        near("ffn", range(1, teacher.ffn + 1), teacher.ffn)
    if target.heads is not None:
        # The width that is not to be changed, if there is one: every number divides 0.
        width = teacher.width if whole and target.hidden is None and not searched else 0
        fitting = [heads for heads in range(group, teacher.heads + 1, group) if width % heads == 0]
        why = f"query heads go in groups of {group}" if target.heads % group else f"it does not divide hidden={width}"
        near("heads", fitting, teacher.heads, why)
    if target.kv_heads is not None:
        free = target.heads is None and searched
        there = teacher.kv_heads if target.heads is None else target.heads // group
        fitting = [number for number in range(1, there + 1) if free or there % number == 0]
        near("kv_heads", fitting, there, f"{there} key-value heads make no such number of groups of one size")
    if target.hidden is not None:
        heads = _together(teacher, target, group if searched else teacher.heads) if whole else 1
        why = f"{heads} heads do not divide it, and transformers refuses that"
        near("hidden", range(heads, teacher.width + 1, heads), teacher.width, why)
    if target.params is not None:
        target = _nearest_params(teacher, target, target.params, faults)
    return target, faults


def _nearest_params(teacher: ModelConfig, target: Target, params: int, faults: dict[str, str]) -> Target:
    """`target`, otherwise good, with a number of parameters that a child can have; what was wrong goes to `faults`."""
    if params > teacher.parameters():
        faults["params"] = f"params is {params:,}: the teacher itself has {teacher.parameters():,}"
        return replace(target, params=teacher.parameters())
    least, smallest = params, _smallest(teacher, target, params)
    # Larger models are looked at in larger steps: the smallest at one size may be passed over at its own.
    while smallest.parameters() > least:
        least = smallest.parameters()
        smallest = _smallest(teacher, target, least)
    if least > params:
        table = smallest.vocab_size * smallest.width * (1 if smallest.tied else 2)
        named = replace(target, params=None).settings()
        faults["params"] = (
            f"params is {params:,}: the smallest child of usual proportions{' with ' if named else ''}{named} has "
            f"{least:,}, and its vocabulary of {smallest.vocab_size:,} pieces takes {table:,} of them"
        )
    return replace(target, params=least)


def _smallest(teacher: ModelConfig, target: Target, budget: int) -> ModelConfig:
    """The smallest shape that is looked at in a search under `budget`."""
    shapes = [shape(target.layers or 1, sizes[0]) for shape, sizes in _frames(teacher, target, budget)]
    return min(shapes, key=lambda shape: shape.parameters())


def _candidates(teacher: ModelConfig, target: Target, budget: int) -> Iterator[ModelConfig]:
    """The children that use a budget of parameters up."""
    limits = [
        Limit("params", budget, lambda shape: shape.parameters()),
        Limit("layers", teacher.depth, lambda shape: shape.depth),
    ]
    whole = _uncut(teacher, target)
    if whole is not None and all(limit.holds(whole) for limit in limits):
        # It fits without a cut that was not asked for.
        yield whole
        return
    for shape, sizes in _frames(teacher, target, budget):
        yield from fill(shape, sizes, limits, target.layers)


def _uncut(teacher: ModelConfig, target: Target) -> ModelConfig | None:
    """The shape whose dimensions follow the teacher where they are not named, heads that are free the key-value heads;
    None where these would not divide the width."""
    heads = _together(teacher, target, teacher.heads)
    if _divides(teacher, heads, target.hidden or teacher.width):
        return _following(teacher, replace(target, heads=heads))
    return None


_Frame = tuple[Callable[[int, int], ModelConfig], Sequence[int]]


def _frames(teacher: ModelConfig, target: Target, budget: int) -> Iterator[_Frame]:
    """For each width: the shape of a depth and a feed-forward size, and the sizes that this may have, rising."""
    for width in _widths(teacher, target, budget):
        if (heads := _heads(teacher, target, width)) is not None:
            kv_heads = target.kv_heads or heads // _group(teacher)
            shape = partial(_shape, teacher, width, heads, kv_heads)
            yield shape, _ffn_sizes(teacher, target, width, budget)


def _shape(teacher: ModelConfig, width: int, heads: int, kv_heads: int, depth: int, ffn: int) -> ModelConfig:
    return replace(teacher, depth=depth, width=width, heads=heads, kv_heads=kv_heads, ffn=ffn)


def _widths(teacher: ModelConfig, target: Target, budget: int) -> Sequence[int]:
    """The widths to look at: the one named, or multiples that quantised formats want and the heads divide, and the
    teacher's own."""
    if target.hidden is not None:
        return [target.hidden]
    heads = _together(teacher, target, _group(teacher)) if ARCHITECTURES[teacher.model_type].whole_heads else 1
    found: list[int] = []
    for step in _STEPS[1:] if budget < _SMALL else _STEPS:
        stride = math.lcm(step, heads)
        found = [
            width for width in range(stride, teacher.width + 1, stride) if width <= _WIDE or width % _WIDE_STEP == 0
        ]
        if len(found) >= _FEW:
            break
    return sorted({*found, *([teacher.width] if teacher.width % heads == 0 else [])})


def _heads(teacher: ModelConfig, target: Target, width: int) -> int | None:
    """The query heads of a child of this width: as named, or whole groups that are the nearest to the teacher's ratio
    of heads to width; None where none divide it."""
    group = _group(teacher)
    named = _together(teacher, target, 0)
    choice = [named] if named else range(group, teacher.heads + 1, group)
    fitting = [heads for heads in choice if _divides(teacher, heads, width)]
    wanted = teacher.heads * width / teacher.width
    return min(fitting, key=lambda heads: abs(math.log(heads / wanted)), default=None)


def _divides(teacher: ModelConfig, heads: int, width: int) -> bool:
    """Whether a model may have these heads: transformers' Llama refuses a width that they do not divide."""
    return not ARCHITECTURES[teacher.model_type].whole_heads or width % heads == 0


def _ffn_sizes(teacher: ModelConfig, target: Target, width: int, budget: int) -> Sequence[int]:
    """The feed-forward sizes of a width: the one named, or those of the usual expansions, and of the teacher's where
    it has another, as far as the teacher goes."""
    if target.ffn is not None:
        return [target.ffn]
    low, high = EXPANSION_RANGE
    own, step = teacher.ffn / teacher.width, ffn_step(budget, width)
    least = max(1, math.ceil(min(low, own) * width / step)) * step
    most = min(teacher.ffn, math.floor(max(high, own) * width))
    return sorted({*range(least, most + 1, step), *([most] if most == teacher.ffn or least > most else [])})

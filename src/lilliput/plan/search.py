"""The shapes that keep a budget, best first.

For each width: the depths that use the budget up within the usual expansions, each with the largest feed-forward
that fits. They are ranked by what runs have shown (`prior`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial

from lilliput.errors import ConfigError, UserError
from lilliput.model.config import ModelConfig
from lilliput.plan.calibration import rate_here
from lilliput.plan.limits import Limit, Rate, limits_of, parameters_within
from lilliput.plan.prior import Prior, shipped_prior
from lilliput.plan.rules import BLOCKED, DEFAULT_PARAMS, MAX_SHARE, QUANTISED, rule_size, usual_size
from lilliput.plan.shapes import Frame, check_dimensions
from lilliput.recipe import Recipe

_MAX_DEPTH, _MAX_WIDTH = 512, 16_384
_HEAD_DIMS = (16, 32, 64, 128)
# Half a per cent of bits per byte: as much is given up for rows that divide by 256, since budgets are bytes in the end.
_DETOUR = 0.005
# Rows that do not even divide by 32 stay at 16 bits.
_LONG_DETOUR = 0.02
# Shares of the greatest depth that are looked at besides, for the front of speed against quality.
_SHALLOWER = (0.75, 0.5, 0.33, 0.2, 0.1)


@dataclass(frozen=True)
class Ranked:
    """A shape and what is expected of it: `loss`, the logarithm of bits per byte up to a constant (lower is better)."""

    shape: ModelConfig
    loss: float


def derive_shape(recipe: Recipe, vocab_size: int | None = None, rate: Rate | None = None) -> ModelConfig:
    """The best shape for a recipe; its dimensions are checked before any work.

    vocab_size: the tokenizer's length once it is known (else the vocabulary is derived too). rate: the speed of a
    shape on this machine, measured where the budget needs it and none is given. Raises ConfigError where nothing
    fits, naming what binds and the nearest that does.
    """
    return search(recipe, vocab_size, rate)[0].shape


def search(
    recipe: Recipe, vocab_size: int | None = None, rate: Rate | None = None, prior: Prior | None = None
) -> list[Ranked]:
    """Every shape that keeps the budget and uses it up, best first. Arguments and errors as for `derive_shape`."""
    check_dimensions(recipe)
    vocab = vocab_size or recipe.tokenizer.vocab_size
    limits = _limits(recipe, rate)
    found = list(_candidates(recipe, limits, vocab))
    if not found:
        _blame_rank(recipe, limits, vocab)
        raise _nothing_fits(recipe, limits, vocab)
    return rank(found, prior or shipped_prior())


def rank(shapes: Sequence[ModelConfig], prior: Prior) -> list[Ranked]:
    """Best first; of equals the smaller first, so that the order is the same everywhere."""

    def place(one: Ranked) -> tuple[float, int, int, int]:
        shape = one.shape
        return one.loss + _detour(shape), shape.parameters(), shape.width, shape.heads

    return sorted((Ranked(shape, round(prior.loss(shape), 4)) for shape in shapes), key=place)


def _detour(shape: ModelConfig) -> float:
    """What a shape that is worth quantising loses in the order where the quantiser has to fall back."""
    size = shape.parameters()
    if size >= BLOCKED and (shape.width % 32 or shape.ffn % 32):
        return _LONG_DETOUR
    return _DETOUR if size >= QUANTISED and (shape.width % 256 or shape.ffn % 256) else 0.0


def explore(recipe: Recipe, found: Sequence[Ranked], prior: Prior) -> list[Ranked]:
    """Shallower shapes beside those found: they keep the budget without using it up, and are faster."""
    deepest: dict[int, ModelConfig] = {}
    for one in found:
        known = deepest.get(one.shape.width)
        if known is None or one.shape.depth > known.depth:
            deepest[one.shape.width] = one.shape
    if recipe.model.depth:
        return []
    depths = [(shape, max(1, round(share * shape.depth))) for shape in deepest.values() for share in _SHALLOWER]
    more = {replace(shape, depth=depth) for shape, depth in depths if shape.share is None or shape.share.fits(depth)}
    return rank(sorted(more - {one.shape for one in found}, key=repr), prior)


def rule_vocabulary(recipe: Recipe) -> int:
    """`rule_size` for the shape that `recipe` asks for, before its vocabulary is known."""
    shape = derive_shape(recipe)
    tables = 1 if shape.tied else 2
    budget = recipe.budget.params
    # Under a budget the body is what the vocabulary leaves of it; else it is as given.
    body = (1 - MAX_SHARE) * budget if budget else shape.parameters() - tables * shape.vocab_size * shape.width
    return rule_size(tables * shape.width, int(body))


def _limits(recipe: Recipe, rate: Rate | None) -> list[Limit]:
    """The recipe's limits; the usual size where it has none and leaves the shape open."""
    budget, asked = recipe.budget, recipe.model
    if budget.speed is not None and rate is None:
        rate = rate_here()
    limits = limits_of(budget, rate)
    if limits or (asked.width and asked.depth):
        return limits
    return limits_of(budget.model_copy(update={"params": DEFAULT_PARAMS}), None)


def _candidates(recipe: Recipe, limits: Sequence[Limit], vocab: int | None) -> Iterator[ModelConfig]:
    room = _room(recipe, limits)
    for width in _widths(recipe, room):
        frames = _frames(recipe, width, _size(width, room, limits), vocab)
        shapes = [shape for frame in frames for shape in _filled(frame, limits)]
        if shapes and vocab is None and (_slow(limits) or recipe.budget.bits == 4):
            # A speed may leave the model far smaller than its width suggests, and so may 4 bits where the quantiser
            # has to fall back: its own size then tells the vocabulary.
            frames = _frames(recipe, width, max(shape.parameters() for shape in shapes), None)
            shapes = [shape for frame in frames for shape in _filled(frame, limits)]
        if frames and not shapes and not recipe.model.width and width % 256 == 0 and not recipe.model.expansion:
            # What does not fit in one layer of this width fits in no wider one: rows of such a width take the fewest
            # bits a weight. Others do not tell: 512 takes fewer bytes at 4 bits than 480, and an expansion that is
            # asked may fill blocks only in a wider one.
            return
        yield from shapes


def _room(recipe: Recipe, limits: Sequence[Limit]) -> int | None:
    """About the parameters that the model may have; None where only its speed is limited."""
    asked = recipe.model
    if not limits and asked.width and asked.depth:
        return round(12 * asked.width**2 * asked.depth / (1 - MAX_SHARE))
    return parameters_within(limits, recipe.budget.bits or 16)


def _size(width: int, room: int | None, limits: Sequence[Limit]) -> int:
    """About the parameters of a model of this width: it fills its room, unless a speed may keep it smaller."""
    if room is not None and not _slow(limits):
        return room
    return min(room or usual_size(width), usual_size(width))


def _slow(limits: Sequence[Limit]) -> bool:
    """Whether a speed is asked."""
    return any(limit.key == "budget.speed" for limit in limits)


def _widths(recipe: Recipe, room: int | None) -> Iterator[int]:
    if recipe.model.width:
        yield recipe.model.width
        return
    limit = _MAX_WIDTH if room is None else int(room**0.5)
    step = 16 if room and room < BLOCKED else 32
    if heads := recipe.model.heads:
        # Quantised formats want multiples of 32; where heads leave room for few such widths, any that divides will do.
        both = math.lcm(step, 2 * heads)
        roomy = 3 * both <= limit if room is None else usual_size(both) <= room
        step = both if roomy else 2 * heads
    limit = max(step, limit)
    width = step
    while width <= limit:
        yield width
        width += step if width < 1024 else max(step, 128 // step * step)


def _frames(recipe: Recipe, width: int, size: int, vocab: int | None) -> list[Frame]:
    """A frame, and where speed counts also those with fewer key-value heads; none where the heads do not divide."""
    try:
        plain = Frame(recipe, width, size=size, vocab=vocab)
    except UserError:
        if recipe.model.width:
            raise
        return []
    if recipe.budget.speed is None or recipe.model.kv_heads:
        return [plain]
    fewer = [plain.heads // group for group in (2, 4, 8) if plain.heads % group == 0]
    return [plain, *(Frame(recipe, width, size=size, vocab=vocab, kv_heads=kv_heads) for kv_heads in fewer)]


def _filled(frame: Frame, limits: Sequence[Limit]) -> Iterator[ModelConfig]:
    """The shapes of a frame that use the budget up, deepest first; heads of other sizes among them."""
    fixed = frame.recipe.model.depth
    if not limits:
        yield frame.shape(fixed or 1, frame.usual_ffn())
        return
    share = frame.share
    if share is None or fixed:
        shapes = fill(frame.shape, frame.ffn_sizes(), limits, fixed)
    else:
        # Only some depths can share as asked: the search goes over these.
        depths = [depth for depth in range(1, _MAX_DEPTH + 1) if share.fits(depth)]
        shapes = fill(lambda at, ffn: frame.shape(depths[at - 1], ffn), frame.ffn_sizes(), limits, most=len(depths))
    for shape in shapes:
        yield from (other for other in _with_heads(frame, shape) if all(limit.holds(other) for limit in limits))


def fill(
    shape: Callable[[int, int], ModelConfig],
    sizes: Sequence[int],
    limits: Sequence[Limit],
    depth: int | None = None,
    most: int = _MAX_DEPTH,
) -> Iterator[ModelConfig]:
    """The shapes that use the limits up, deepest first: for each depth the largest feed-forward that keeps them.

    shape: of a depth and a feed-forward size. sizes: the feed-forward's, smallest first. depth: the only one, if fixed,
    else they are 1 to `most`.
    """

    def fits(depth: int, ffn: int) -> bool:
        return all(limit.holds(shape(depth, ffn)) for limit in limits)

    kinds = _kinds(sizes)
    widest = max(alike[-1] for alike in kinds)

    def fits_at_all(depth: int) -> bool:
        return any(fits(depth, alike[0]) for alike in kinds)

    here = (depth if fits_at_all(depth) else 0) if depth else _largest(most, fits_at_all)
    while here >= 1:
        best = max(_widest(alike, partial(fits, here)) for alike in kinds)
        yield shape(here, best)
        if depth or best == widest:
            return  # a shallower one would leave a part of the budget unused
        here -= 1


def _kinds(sizes: Sequence[int]) -> list[list[int]]:
    """Feed-forward sizes by the blocks that their rows fill: only among those alike does a larger one always take more
    bytes. At 4 bits a multiple of 256 may take fewer than the multiple of 32 before it."""
    alike: dict[int, list[int]] = {}
    for size in sizes:
        alike.setdefault(256 if size % 256 == 0 else 32 if size % 32 == 0 else 1, []).append(size)
    return list(alike.values())


def _widest(sizes: Sequence[int], fits: Callable[[int], bool]) -> int:
    """The largest size that fits, 0 if none does."""
    count = _largest(len(sizes), lambda place: fits(sizes[place - 1]))
    return sizes[count - 1] if count else 0


def _with_heads(frame: Frame, shape: ModelConfig) -> Iterator[ModelConfig]:
    """The shape, and with heads of other usual sizes where that is free (all else stays as it is)."""
    yield shape
    asked = frame.recipe.model
    if asked.heads or asked.head_dim or asked.kv_heads or shape.kv_heads != shape.heads:
        return
    for size in _HEAD_DIMS:
        if size != shape.head_dim and shape.width % size == 0 and size < shape.width:
            heads = shape.width // size
            yield replace(shape, heads=heads, kv_heads=heads, head_dim=size)


def _largest(high: int, holds: Callable[[int], bool]) -> int:
    """The largest n in 1 … high that holds, 0 if not even 1 does; what holds for n holds for all below."""
    low = 0
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if holds(middle) else (low, middle - 1)
    return low


def _blame_rank(recipe: Recipe, limits: Sequence[Limit], vocab: int | None) -> None:
    """Raise ConfigError where nothing fits only because a LoRA is larger than the matrices that it is for."""
    share = recipe.model.share
    if not isinstance(share.lora, int):
        return
    smaller = recipe.model.model_copy(update={"share": share.model_copy(update={"lora": 1})})
    fits = [shape.width for shape in _candidates(recipe.model_copy(update={"model": smaller}), limits, vocab)]
    if fits:
        raise ConfigError(
            f"a LoRA of rank {share.lora} is larger than the matrices of any shape that fits",
            where="model.share.lora",
            mend=f"at most {max(fits)}, or model.share.lora=auto",
        )


def _nothing_fits(recipe: Recipe, limits: Sequence[Limit], vocab: int | None) -> ConfigError:
    """Say which limit binds and the nearest one that would do."""
    asked = recipe.model
    names = ("width", "depth", "heads", "kv_heads", "head_dim", "expansion")
    fixed = [f"model.{name}" for name in names if getattr(asked, name)]
    fixed += ["tokenizer.vocab_size"] if vocab else []
    blame = f" with {', '.join(fixed)} as given" if fixed else ""
    eased = [(index, least) for index in range(len(limits)) if (least := _eased(recipe, limits, index, vocab))]
    if not eased:
        said = " and ".join(limit.said() for limit in limits)
        together = _eased_together(recipe, limits, vocab)
        mend = f"together {', '.join(limit.setting() for limit in together)} do" if together else "ease them all"
        free = ", or free a dimension" if fixed else ""
        at_once = " together" if len(limits) > 1 else ""
        return ConfigError(f"no shape{blame} keeps {said}{at_once}", where=limits[0].key, mend=mend + free)
    index, least = min(eased, key=lambda one: one[1].ceiling / limits[one[0]].ceiling)
    others = [limit for other, limit in enumerate(limits) if other != index]
    beside = f" and {' and '.join(limit.said() for limit in others)}" if others else ""
    return ConfigError(
        f"no shape{blame} keeps {limits[index].said()}{beside}",
        where=limits[index].key,
        mend=f"{least.setting()} does, or free a dimension" if fixed else f"{least.setting()} does",
    )


def _eased(recipe: Recipe, limits: Sequence[Limit], index: int, vocab: int | None) -> Limit | None:
    """The limit at `index` eased just so far, within 1 %, that a shape fits beside the others; None if even 1,000
    times does not help."""

    def fits(factor: float) -> bool:
        tried = [limit.at(limit.ceiling * (factor if place == index else 1)) for place, limit in enumerate(limits)]
        return next(_candidates(recipe, tried, vocab), None) is not None

    factor = _least_factor(fits)
    return limits[index].at(limits[index].ceiling * factor) if factor else None


def _eased_together(recipe: Recipe, limits: Sequence[Limit], vocab: int | None) -> list[Limit]:
    """All limits eased by one factor until a shape fits, then each drawn back as far as the others let it; none if
    even 1,000 times does not help."""

    def fits(factor: float) -> bool:
        tried = [limit.at(limit.ceiling * factor) for limit in limits]
        return next(_candidates(recipe, tried, vocab), None) is not None

    factor = _least_factor(fits)
    if not factor:
        return []
    found = [limit.at(limit.ceiling * factor) for limit in limits]
    for place, limit in enumerate(limits):
        back = [limit if other == place else kept for other, kept in enumerate(found)]
        found[place] = _eased(recipe, back, place, vocab) or found[place]
    return found


def _least_factor(fits: Callable[[float], bool]) -> float | None:
    """The least factor above 1, within 1 %, that fits; None if even 1,000 does not."""
    low, high = 1.0, 2.0
    while not fits(high):
        low, high = high, 2 * high
        if high > 1000:
            return None
    while high - low > 0.01 * high:
        middle = (low + high) / 2
        low, high = (low, middle) if fits(middle) else (middle, high)
    return high

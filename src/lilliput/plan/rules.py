"""The shape that fits a budget, by rules.

What a person fixes stays; the rest follows from three rules:
- vocabulary: the largest whose table stays below 20 % of the parameters (PanGu-π Pro §2.1: share < 20 %);
- depth against width: width/depth ≈ 20·(N/1M)^0.21, the line through the small models that train well (about
  20 at 1M, 85 at 1B where PanGu-π Pro §2.2 takes 1792 × 21);
- expansion near 2.77 (§2.2, Table 3), moved within [2, 3.5] to use the budget up.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace

from lilliput.errors import ConfigError, UserError
from lilliput.model.config import ModelConfig
from lilliput.recipe import Recipe, Size

DEFAULT_PARAMS = 1_000_000
MAX_SHARE = 0.20
EXPANSION = 2.77
_EXPANSION_RANGE = (2.0, 3.5)
_MIN_VOCAB = 320
_VOCABULARIES = (_MIN_VOCAB, *(k * 256 for k in (2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192)))
# From here on the widths that k-quants need (multiples of 256) are worth a small detour.
_QUANTISED = 5_000_000


def aspect(params: int) -> float:
    """Width over depth that suits a model of `params` parameters."""
    return 20.0 * math.pow(params / 1e6, 0.21)


def derive_shape(recipe: Recipe, vocab_size: int | None = None) -> ModelConfig:
    """The shape for a recipe; its dimensions are checked before any work.

    vocab_size: the tokenizer's length once it is known (else the vocabulary is derived too).
    Raises ConfigError where nothing fits, naming what binds and the nearest that does.
    """
    asked = recipe.model
    budget = recipe.budget.params
    _check_heads(recipe)
    vocab = vocab_size or recipe.tokenizer.vocab_size
    if budget is None and asked.width and asked.depth:
        return _candidate(recipe, asked.width, vocab or 4096, asked.depth, None)
    target = budget or DEFAULT_PARAMS
    best = min(_candidates(recipe, target, vocab), key=lambda shape: _score(shape, target), default=None)
    if best is None:
        raise _nothing_fits(recipe, target, vocab)
    return best


def _check_heads(recipe: Recipe) -> None:
    asked = recipe.model
    if asked.width and asked.heads and asked.width % asked.heads:
        fits = [heads for heads in range(1, asked.width + 1) if asked.width % heads == 0]
        near = min(fits, key=lambda heads: abs(heads - (asked.heads or 1)))
        raise ConfigError(
            f"width {asked.width} does not divide into {asked.heads} heads",
            where="model.heads",
            mend=f"for example model.heads={near}",
        )
    if asked.heads and asked.kv_heads and asked.heads % asked.kv_heads:
        raise ConfigError(
            f"{asked.kv_heads} key/value heads do not divide {asked.heads} heads",
            where="model.kv_heads",
            mend=f"for example model.kv_heads={math.gcd(asked.heads, asked.kv_heads)}",
        )
    if asked.head_dim and asked.head_dim % 2:
        raise ConfigError(
            f"head_dim {asked.head_dim} is odd; rotary positions turn pairs of channels",
            where="model.head_dim",
            mend=f"model.head_dim={asked.head_dim + 1}",
        )


def _candidates(recipe: Recipe, target: int, vocab: int | None) -> Iterator[ModelConfig]:
    for width in _widths(recipe, target):
        size = vocab or _vocabulary(width, target, bool(_tied(recipe, target)))
        try:
            one = _candidate(recipe, width, size, 1, target)
        except UserError:
            # Heads that a person fixed do not divide this width; if the width is fixed too, that is the answer.
            if recipe.model.width:
                raise
            continue
        per_layer = _candidate(recipe, width, size, 2, target).parameters() - one.parameters()
        depth = recipe.model.depth or 1 + (target - one.parameters()) // per_layer
        if depth < 1:
            continue
        shape = _candidate(recipe, width, size, min(depth, 512), target)
        if recipe.model.expansion is None:
            shape = _fill(shape, target)
        if shape.parameters() <= target:
            yield shape


def _widths(recipe: Recipe, target: int) -> Iterator[int]:
    if recipe.model.width:
        yield recipe.model.width
        return
    step = recipe.model.heads * 2 if recipe.model.heads else 16 if target < 300_000 else 32
    limit = math.isqrt(target)
    width = step
    while width <= max(limit, step):
        yield width
        width += step if width < 1024 else math.lcm(step, 128)


def _vocabulary(width: int, target: int, tied: bool) -> int:
    tables = 1 if tied else 2
    fits = [size for size in _VOCABULARIES if tables * size * width <= MAX_SHARE * target]
    return fits[-1] if fits else _MIN_VOCAB


def rule_size(row: int, body: int) -> int:
    """The largest vocabulary, a multiple of 64, whose embedding and head stay below 20 % of all parameters
    (PanGu-π Pro §2.1). row, body: as in `share`. At least 64."""
    # V·row < s·(V·row + body)  ⇔  V < s/(1−s) · body/row
    limit = MAX_SHARE / (1 - MAX_SHARE) * body / row
    return max(64, (math.ceil(limit) - 1) // 64 * 64)


def rule_vocabulary(recipe: Recipe) -> int:
    """`rule_size` for the shape that `recipe` asks for, before its vocabulary is known."""
    shape = derive_shape(recipe)
    tables = 1 if shape.tied else 2
    budget = recipe.budget.params
    # Under a budget the body is what the vocabulary leaves of it; else it is as given.
    body = (1 - MAX_SHARE) * budget if budget else shape.parameters() - tables * shape.vocab_size * shape.width
    return rule_size(tables * shape.width, int(body))


def share(vocab_size: int, row: int, body: int) -> float:
    """Embedding and head over all parameters: V·d/(V·d + body), untied 2·V·d/(2·V·d + body) (PanGu-π Pro §2.1).

    row: parameters that each piece takes (d, untied 2·d). body: all other parameters.
    """
    return vocab_size * row / (vocab_size * row + body)


def _tied(recipe: Recipe, target: int) -> bool:
    return recipe.model.tied if recipe.model.tied is not None else target < 1_000_000_000


def _head_dim(width: int) -> int:
    """The even divisor of `width` nearest to the head size usual at that width."""
    usual = 128 if width >= 1536 else 64 if width >= 512 else 32 if width >= 64 else 16
    even = [size for size in range(2, width + 1, 2) if width % size == 0]
    return min(even, key=lambda size: abs(math.log(size / usual)), default=width)


def _candidate(recipe: Recipe, width: int, vocab: int, depth: int, target: int | None) -> ModelConfig:
    asked = recipe.model
    params = target or 12 * width * width * depth + vocab * width
    heads = asked.heads or width // (asked.head_dim or _head_dim(width)) or 1
    head_dim = asked.head_dim or width // heads
    if head_dim % 2 or width % heads:
        raise ConfigError(
            f"width {width} with {heads} heads leaves no even number of channels a head",
            where="model.width",
            mend=f"for example model.width={math.ceil(width / (2 * heads)) * 2 * heads}",
        )
    expansion = asked.expansion or EXPANSION
    step = _ffn_step(params)
    ffn = round(width * expansion) if asked.expansion else max(step, round(width * expansion / step) * step)
    return ModelConfig(
        vocab_size=vocab, depth=depth, width=width, heads=heads, kv_heads=asked.kv_heads or heads,
        head_dim=head_dim, ffn=max(1, ffn), bos_id=0, eos_id=0, tied=_tied(recipe, params),
        context=asked.context or default_context(params), rope_theta=asked.rope_theta,
        attention_bias=asked.biases, init=asked.init,
    )  # fmt: skip


def _ffn_step(params: int) -> int:
    return 256 if params >= _QUANTISED else 32 if params >= 300_000 else 8


def default_context(params: Size) -> int:
    """Positions a model of `params` parameters is trained on: what it can use and a CPU can afford."""
    return 256 if params < 3_000_000 else 512 if params < 30_000_000 else 1024


def _fill(shape: ModelConfig, target: int) -> ModelConfig:
    """Use the rest of the budget, or come back under it, by the expansion (it hardly matters in [2, 4])."""
    step = _ffn_step(target)
    room = (target - shape.parameters()) // (3 * shape.width * shape.depth * step)
    low, high = (bound * shape.width for bound in _EXPANSION_RANGE)
    ffn = shape.ffn + room * step
    while ffn > high and ffn - step > 0:
        ffn -= step
    return replace(shape, ffn=ffn) if ffn >= low else shape


def _score(shape: ModelConfig, target: int) -> float:
    """Smaller is better: distance from the aspect, budget left unused, share over the rule, odd widths."""
    used = shape.parameters()
    share = shape.vocab_size * shape.width * (1 if shape.tied else 2) / used
    score = abs(math.log(shape.width / shape.depth / aspect(target)))
    score += 2.0 * (1 - used / target) + 4.0 * max(0.0, share - MAX_SHARE)
    if target >= _QUANTISED and shape.width % 256:
        score += 0.3
    return score


def _least_budget(recipe: Recipe, target: int, vocab: int | None) -> int | None:
    """The smallest budget above `target` that some shape fits, within 1 %; None if even 100 times is short."""

    def fits(budget: int) -> bool:
        return next(_candidates(recipe, budget, vocab), None) is not None

    low, high = target, 2 * target
    while not fits(high):
        low, high = high, 2 * high
        if high > 100 * target:
            return None
    while high - low > 0.01 * high:
        middle = (low + high) // 2
        low, high = (low, middle) if fits(middle) else (middle, high)
    return high


def _nothing_fits(recipe: Recipe, target: int, vocab: int | None) -> ConfigError:
    asked = recipe.model
    fixed = [f"model.{name}" for name in ("width", "depth", "heads", "expansion") if getattr(asked, name)]
    fixed += ["tokenizer.vocab_size"] if vocab else []
    blame = f" with {', '.join(fixed)} as given" if fixed else ""
    least = _least_budget(recipe, target, vocab)
    return ConfigError(
        f"no shape{blame} fits {target:,} parameters",
        where="budget.params",
        mend=f"budget.params={least} does, or free a dimension" if least else "free a dimension",
    )


def describe(shape: ModelConfig) -> str:
    """One line for people: `7 layers × 96, 3 heads × 32, FFN 256, vocabulary 2,048 (20 %), context 256`."""
    share = shape.vocab_size * shape.width * (1 if shape.tied else 2) / shape.parameters()
    grouped = f" ({shape.kv_heads} for keys and values)" if shape.kv_heads != shape.heads else ""
    return (
        f"{shape.depth} layers × {shape.width}, {shape.heads} heads × {shape.head_dim}{grouped}, "
        f"FFN {shape.ffn}, "
        f"vocabulary {shape.vocab_size:,} ({share:.0%} of {shape.parameters():,} parameters), "
        f"{'tied' if shape.tied else 'untied'}, context {shape.context}"
    )

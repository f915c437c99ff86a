"""The shape of an encoder from what its recipe fixes.

What is open follows BERT and its miniatures (1908.08962): width 64 a layer, feed-forward four times the width, heads of
64 channels (of 32 below a width of 128), 128 positions. Half of a budget goes to the layers, half to the vocabulary, up
to BERT's 30,522 pieces: our own rule; in the published miniatures the table takes from a tenth to nine tenths.
"""

from __future__ import annotations

import math

from lilliput.errors import ConfigError
from lilliput.model.encoder_config import ENCODER_INITS, EncoderConfig
from lilliput.plan.rules import DEFAULT_PARAMS
from lilliput.recipe import ModelSettings, Recipe, ShareSettings

CONTEXT = 128
DROPOUT = 0.1
LARGEST_VOCAB, LEAST_VOCAB = 30_522, 512
_STEP = 32
_WIDTH_A_LAYER = 64


def encoder_shape(recipe: Recipe, vocab_size: int | None = None) -> EncoderConfig:
    """The encoder that a recipe asks for. vocab_size: the tokenizer's length once it is known, else it is derived too.
    Special tokens are those of a WordPiece of ours; the caller puts in the tokenizer's own. Raises ConfigError."""
    vocab = vocab_size or recipe.tokenizer.vocab_size
    budget = recipe.budget.params
    if recipe.model.width and vocab and not budget:
        return _shape(recipe, recipe.model.width, vocab)
    budget = budget or DEFAULT_PARAMS
    widths = [recipe.model.width] if recipe.model.width else list(_widths(recipe, budget))
    fitting = [shape for width in widths if (shape := _filled(recipe, width, vocab, budget)) is not None]
    if not fitting:
        smallest = _shape(recipe, widths[0] if widths else _unit(recipe), vocab or LEAST_VOCAB)
        raise ConfigError(
            f"no encoder as asked keeps {budget:,} parameters",
            where="budget.params",
            mend=f"budget.params={smallest.parameters()} does, or free a dimension",
        )
    return max(fitting, key=lambda shape: (shape.width, shape.vocab_size))


def check_encoder_keys(recipe: Recipe) -> None:
    """Refuse keys of a decoder. Raises ConfigError."""
    asked, budget = recipe.model, recipe.budget
    strange = {
        "model.kv_heads": asked.kv_heads and asked.kv_heads != asked.heads,
        "model.shortcut": asked.shortcut,
        "model.series": asked.series,
        "model.share": asked.share != ShareSettings(),
        "model.tied": asked.tied is False,
        "model.rope_theta": asked.rope_theta != ModelSettings.model_fields["rope_theta"].default,
        "budget.bytes": budget.bytes,
        "budget.speed": budget.speed,
        "inherit.teacher": recipe.inherit.teacher,
        "tokenizer.compact": recipe.tokenizer.compact,
        "evaluate.prompts": recipe.evaluate.prompts,
        "rounds.count": recipe.rounds.count > 1,
        "train.lr_law": recipe.train.lr_law.lr,
    }
    if names := [name for name, value in strange.items() if value]:
        raise ConfigError(
            f"an encoder has no {', '.join(names)}", where="objective=masked", mend=f"leave out {' and '.join(names)}"
        )
    if asked.init not in ENCODER_INITS:
        known = ", ".join(ENCODER_INITS)
        raise ConfigError(f"encoders have no start {asked.init}", where="model.init", mend=f"one of {known}")


def _unit(recipe: Recipe) -> int:
    """What a width is a multiple of."""
    heads, channels = recipe.model.heads, recipe.model.head_dim
    if heads and channels:
        return heads * channels
    return math.lcm(_STEP, heads or channels or 1)


def _widths(recipe: Recipe, budget: int) -> list[int]:
    unit = _unit(recipe)
    if recipe.model.heads and recipe.model.head_dim:
        return [unit]
    return list(range(unit, max(unit, math.isqrt(budget)) + 1, unit))


def _filled(recipe: Recipe, width: int, vocab: int | None, budget: int) -> EncoderConfig | None:
    """The largest encoder of this width that keeps the budget; None where there is none, or where its layers take more
    than half of it although the vocabulary could use more."""
    least = _shape(recipe, width, vocab or LEAST_VOCAB)
    if least.parameters() > budget:
        return None
    if vocab:
        return least
    row = width + 1
    found = min(LARGEST_VOCAB, LEAST_VOCAB + (budget - least.parameters()) // row)
    shape = _shape(recipe, width, found // 64 * 64 if found < LARGEST_VOCAB else found)
    if recipe.model.width is None and found < LARGEST_VOCAB and shape.body_parameters() > budget / 2:
        return None
    return shape


def _shape(recipe: Recipe, width: int, vocab: int) -> EncoderConfig:
    asked = recipe.model
    heads = asked.heads or width // (asked.head_dim or (64 if width >= 128 and width % 64 == 0 else 32)) or 1
    if asked.head_dim and heads * asked.head_dim != width:
        raise ConfigError(
            f"{heads} heads of {asked.head_dim} channels make no width of {width}; BERT's heads share the width out",
            where="model.head_dim",
            mend=f"model.width={heads * asked.head_dim}, or leave one of the three out",
        )
    return EncoderConfig(
        vocab_size=vocab,
        depth=asked.depth or max(1, round(width / _WIDTH_A_LAYER)),
        width=width,
        heads=heads,
        ffn=asked.ffn or max(1, round((asked.expansion or 4) * width)),
        context=asked.context or CONTEXT,
        dropout=DROPOUT if asked.dropout is None else asked.dropout,
        conv=asked.conv or 0,
        channels=asked.channels or 64,
        init=asked.init,
        pad_id=0,
        cls_id=2,
        sep_id=3,
        mask_id=4,
    )

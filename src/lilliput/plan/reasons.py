"""Why a shape is as it is: which rule of PanGu-π Pro each dimension follows, and where a small model departs."""

from __future__ import annotations

from lilliput.model.byte_pool_config import NOMINAL_SYMBOLS, REPLACED_VOCAB, BytePoolConfig
from lilliput.model.config import ModelConfig
from lilliput.model.sharing import unrolled
from lilliput.plan.rules import (
    EXPANSION,
    EXPANSION_RANGE,
    MAX_SHARE,
    aspect,
    counted,
    table_share,
    usually_tied,
    wanted_head_dim,
)

# The paper's 1B model (Tables 2, 3, 12).
_DEPTH, _WIDTH, _HEAD_DIM = 20, 1792, 128


def reasons(shape: ModelConfig) -> list[str]:
    """One sentence a dimension, with the section or table it goes back to."""
    return [_depth(shape), _expansion(shape), _heads(shape), _share(shape), *_tied(shape), *_common(shape)]


def _depth(shape: ModelConfig) -> str:
    params = shape.parameters()
    usual, ratio = aspect(params), shape.width / shape.depth
    text = (
        f"depth: {counted(shape.depth, 'layer')} of width {shape.width}, a ratio of {ratio:.0f}. The paper finds depth "
        f"to matter most and takes about {_DEPTH} layers × {_WIDTH} at 1B, a ratio of {_WIDTH / _DEPTH:.0f} (§2.2, "
        "Table 2)"
    )
    if params >= 500_000_000:
        return f"{text}."
    shallow, deep = ratio > 1.15 * usual, ratio < usual / 1.15
    side = "this is wider and shallower" if shallow else "this is deeper" if deep else "as here"
    return f"{text}; small models have fewer layers: the usual ratio at {params:,} parameters is {usual:.0f}, {side}."


def _expansion(shape: ModelConfig) -> str:
    expansion = shape.ffn / shape.width
    low, high = EXPANSION_RANGE
    text = f"expansion: {expansion:.2f}; the paper's best is {EXPANSION}, [{low:g}, {high:g}] hardly differs (Table 3)"
    if low <= expansion <= high:
        return f"{text}, so it goes by the budget."
    return f"{text}: this is outside."


def _heads(shape: ModelConfig) -> str:
    text = f"heads: {shape.heads} of {shape.head_dim} channels; the paper has {_HEAD_DIM} at width {_WIDTH} (Table 12)"
    if shape.head_dim < _HEAD_DIM:
        few, usual = max(1, shape.width // _HEAD_DIM), wanted_head_dim(shape.width)
        text += f", which at width {shape.width} would leave {few}: {usual} are usual here"
    grouped = shape.heads // shape.kv_heads
    shared = f" {grouped} heads share each key and value: faster, a smaller cache." if grouped > 1 else ""
    return f"{text}.{shared}"


def _share(shape: ModelConfig) -> str:
    share = table_share(shape)
    if isinstance(shape, BytePoolConfig):
        return (
            f"vocabulary: none; the local layers take {share:.1%} of the parameters, {shape.replaced_share():.1%} of "
            f"two tables of {REPLACED_VOCAB:,} pieces. Speeds, hours and the loss are not predicted for byte-pool; "
            f"FLOPs reckoned with {NOMINAL_SYMBOLS:g} symbols a unit, memory without the local layers."
        )
    text = f"vocabulary: {shape.vocab_size:,} pieces, whose tables take {share:.1%} of the parameters"
    if share < MAX_SHARE:
        return f"{text}; below {MAX_SHARE:.0%}, as the paper asks (§2.1)."
    return f"{text}: more than the {MAX_SHARE:.0%} that the paper allows (§2.1)."


def _common(shape: ModelConfig) -> list[str]:
    """Said of layers that share weights."""
    if shape.share is None:
        return []
    return [
        f"shared weights: {shape.share.told()}. {shape.parameters():,} stored parameters compute as many FLOPs as "
        f"{unrolled(shape).parameters():,} would; the runs behind the order share none, so depth and size are judged "
        "as theirs."
    ]


def _tied(shape: ModelConfig) -> list[str]:
    """Said where it departs from the paper, whose two tables are apart."""
    params = shape.parameters()
    if isinstance(shape, BytePoolConfig):
        return []
    if shape.tied:
        twice = 2 * shape.vocab_size * shape.width
        apart = twice / (params + twice / 2)
        return [f"tied: embedding and head are one table, unlike the paper's at 1B; apart they would take {apart:.0%}."]
    if usually_tied(params):
        return ["untied: two tables as in the paper; at this size one would leave more to the layers."]
    return ["untied: two tables, as in the paper."]

"""Rules of thumb: the dimensions that follow from others, each with where it is from.

- vocabulary: the largest whose table stays below 20 % of the parameters (PanGu-π Pro §2.1: share < 20 %);
- depth against width: width/depth ≈ 20·(N/1M)^0.21, the line through the small models that train well (about
  20 at 1M, 85 at 1B where PanGu-π Pro §2.2 takes 1792 × 21);
- expansion near 2.77 (§2.2, Table 3), moved within [2, 4], where it hardly matters, to use the budget up.
"""

from __future__ import annotations

import math

from lilliput.model.byte_pool_config import REPLACED_VOCAB, BytePoolConfig
from lilliput.model.config import ModelConfig
from lilliput.model.sharing import unrolled

DEFAULT_PARAMS = 1_000_000
MAX_SHARE = 0.20
EXPANSION = 2.77
EXPANSION_RANGE = (2.0, 4.0)
# PanGu-π Pro's Table 3 ends at 1, by far the worst; a quarter of that is taken for a slip.
LEAST_EXPANSION = 0.25
MIN_VOCAB = 320
_VOCABULARIES = (MIN_VOCAB, *(k * 256 for k in (2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192)))
# From here on the sizes that k-quants need (multiples of 256) are worth a small detour.
QUANTISED = 5_000_000
# From here on the blocks of 32 that every quantised format has.
BLOCKED = 300_000
_UNTIED = 1_000_000_000


def aspect(params: float) -> float:
    """Width over depth that suits a model of `params` parameters."""
    return 20.0 * math.pow(params / 1e6, 0.21)


def usual_size(width: int) -> int:
    """Parameters of a model of this width whose depth is on the line of `aspect`.

    A layer has about 12·width² parameters and the tables a fifth of the whole, so N = 15·width²·depth with
    depth = width / aspect(N), solved for N.
    """
    return round(math.pow(15 * width**3 / 20.0 * 1e6**0.21, 1 / 1.21))


def rule_size(row: int, body: int) -> int:
    """The largest vocabulary, a multiple of 64, whose embedding and head stay below 20 % of all parameters
    (PanGu-π Pro §2.1). row, body: as in `share`. At least 64."""
    # V·row < s·(V·row + body)  ⇔  V < s/(1−s) · body/row
    limit = MAX_SHARE / (1 - MAX_SHARE) * body / row
    return max(64, (math.ceil(limit) - 1) // 64 * 64)


def share(vocab_size: int, row: int, body: int) -> float:
    """Embedding and head over all parameters: V·d/(V·d + body), untied 2·V·d/(2·V·d + body) (PanGu-π Pro §2.1).

    row: parameters that each piece takes (d, untied 2·d). body: all other parameters.
    """
    return vocab_size * row / (vocab_size * row + body)


def usual_vocabulary(width: int, params: int, tied: bool) -> int:
    """The largest of the usual sizes that keeps to the share rule in a model of `params` parameters."""
    tables = 1 if tied else 2
    fits = [size for size in _VOCABULARIES if tables * size * width <= MAX_SHARE * params]
    return fits[-1] if fits else MIN_VOCAB


def usually_tied(params: int) -> bool:
    """Whether embedding and head are one table: below a billion parameters two would cost too much."""
    return params < _UNTIED


def usual_head_dim(width: int) -> int:
    """The even divisor of `width` nearest to the head size usual at that width."""
    even = [size for size in range(2, width + 1, 2) if width % size == 0]
    return min(even, key=lambda size: abs(math.log(size / wanted_head_dim(width))), default=width)


def wanted_head_dim(width: int) -> int:
    """Channels a head: 128 in large models (PanGu-π Pro Table 12), fewer where the width has no room for several."""
    return 128 if width >= 1536 else 64 if width >= 512 else 32 if width >= 64 else 16


def ffn_step(params: int, width: int) -> int:
    """The feed-forward size is a multiple of this: what k-quants need where a model is worth quantising and so wide
    that such a multiple is among the usual expansions."""
    step = 256 if params >= QUANTISED else 32 if params >= BLOCKED else 8
    return step if step <= EXPANSION_RANGE[1] * width else 32


def default_context(params: int) -> int:
    """Positions a model of `params` parameters is trained on: what it can use and a CPU can afford."""
    return 256 if params < 3_000_000 else 512 if params < 30_000_000 else 1024


def counted(number: int, thing: str) -> str:
    """`1 head`, `2 heads`."""
    return f"{number:,} {thing}{'' if number == 1 else 's'}"


def table_share(shape: ModelConfig) -> float:
    """`share` of a shape: embedding and head, or what stands for them, over all parameters."""
    if isinstance(shape, BytePoolConfig):
        return shape.local_parameters() / shape.parameters()
    tables = shape.vocab_size * shape.width * (1 if shape.tied else 2)
    return tables / shape.parameters()


def describe(shape: ModelConfig) -> str:
    """One line for people: `7 layers × 96, 3 heads × 32, FFN 256, vocabulary 2,048 (20 %), context 256`."""
    grouped = f" ({shape.kv_heads} for keys and values)" if shape.kv_heads != shape.heads else ""
    core = (
        f"{counted(shape.depth, 'layer')} × {shape.width}, {counted(shape.heads, 'head')} × {shape.head_dim}{grouped}, "
        f"FFN {shape.ffn}, "
    )
    if isinstance(shape, BytePoolConfig):
        return core + (
            f"units of {shape.unit} bytes, local layers {shape.encoder_depth} + {shape.decoder_depth} × "
            f"{shape.byte_width} ({table_share(shape):.0%} of {shape.parameters():,} parameters, "
            f"{shape.replaced_share():.1%} of the tables of {REPLACED_VOCAB:,} pieces), context {shape.context}"
        )
    return core + (
        f"vocabulary {shape.vocab_size:,} ({table_share(shape):.0%} of {shape.parameters():,} parameters), "
        f"{'tied' if shape.tied else 'untied'}, context {shape.context}"
        f"{f', {shape.share.told()}: computes as {unrolled(shape).parameters():,} parameters' if shape.share else ''}"
    )

"""Which space each dimension of each tensor lives in.

Cutting a vocabulary, a width, heads, neurons or layers must touch every tensor that has that space and no
other; so the spaces are declared here as data, once, and no operation ever names a layer. The table is also
what a loaded file is checked against: it implies every tensor's name and shape.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lilliput.model.byte_pool_config import BytePoolConfig
from lilliput.model.config import ModelConfig

if TYPE_CHECKING:
    from lilliput.model.decoder import Decoder

SPACES = ("vocab", "hidden", "ffn", "head", "kv_head", "bottleneck", "rank", "channel", "bias", "layer")
# A channel is one place in a head, of head_dim: all heads have the same ones, and none is ever cut. Nor is a rank.

_LAYER = "model.layers.{layer}."

# A query head belongs to one key-value head: cutting kv_head cuts its `heads / kv_heads` query heads.
PARENT = {"head": "kv_head"}


# Of a mixture of depths; only routed layers have them (`layers_of`).
_ROUTED = (_LAYER + "router.", _LAYER + "predictor.")


@dataclass(frozen=True)
class Axis:
    """One axis of a tensor.

    space: one of SPACES. inner: consecutive elements that belong to one member of the space (head_dim for
    heads, whose rotary order must survive a cut). at: not a dimension of the array; the tensor as a whole
    belongs to this member of the space (the layer's index).
    """

    space: str
    inner: int = 1
    at: int | None = None


def sizes(config: ModelConfig) -> dict[str, int]:
    """Members of each space."""
    local = config.local_sizes() if isinstance(config, BytePoolConfig) else {}
    return {
        **local,
        "vocab": config.vocab_size,
        "hidden": config.width,
        "ffn": config.ffn,
        "head": config.heads,
        "kv_head": config.kv_heads,
        "bottleneck": config.shortcut,
        "rank": config.share.lora if config.share else 0,
        "channel": config.head_dim,
        "bias": 1,
        "layer": config.depth,
    }


def templates(config: ModelConfig) -> dict[str, tuple[Axis, ...]]:
    """Tensor names with `{layer}` in place of the index, and the axes of their dimensions."""
    vocab, hidden, ffn = Axis("vocab"), Axis("hidden"), Axis("ffn")
    head, kv_head = Axis("head", inner=config.head_dim), Axis("kv_head", inner=config.head_dim)
    attention, mlp = "model.layers.{layer}.self_attn.", "model.layers.{layer}.mlp."
    table = {
        "model.embed_tokens.weight": (vocab, hidden),
        "model.layers.{layer}.input_layernorm.weight": (hidden,),
        attention + "q_proj.weight": (head, hidden),
        attention + "k_proj.weight": (kv_head, hidden),
        attention + "v_proj.weight": (kv_head, hidden),
        attention + "o_proj.weight": (hidden, head),
        "model.layers.{layer}.post_attention_layernorm.weight": (hidden,),
        mlp + "gate_proj.weight": (ffn, hidden),
        mlp + "up_proj.weight": (ffn, hidden),
        mlp + "down_proj.weight": (hidden, ffn),
        "model.norm.weight": (hidden,),
    }
    if config.attention_bias:
        table |= {attention + "q_proj.bias": (head,)}
        table |= {attention + "k_proj.bias": (kv_head,), attention + "v_proj.bias": (kv_head,)}
    if config.has_output_bias():
        table[attention + "o_proj.bias"] = (hidden,)
    if config.qk_norm:
        table |= {attention + "q_norm.weight": (Axis("channel"),), attention + "k_norm.weight": (Axis("channel"),)}
    if config.mlp_bias:
        table |= {
            mlp + "gate_proj.bias": (ffn,),
            mlp + "up_proj.bias": (ffn,),
            mlp + "down_proj.bias": (hidden,),
        }
    if config.shortcut:
        bottleneck = Axis("bottleneck")
        table[attention + "shortcut.in_proj.weight"] = (bottleneck, hidden)
        table[attention + "shortcut.out_proj.weight"] = (hidden, bottleneck)
    for term in range(1, config.series + 1) if config.series > 1 else ():
        table |= {mlp + f"act_fn.scale_{term}": (ffn,), mlp + f"act_fn.shift_{term}": (ffn,)}
    if config.share is not None:
        table |= _loras(config, table)
    if config.capacity:
        table[_LAYER + "router.weight"] = (hidden,)
        table |= {_LAYER + "predictor.weight": (hidden,), _LAYER + "predictor.bias": (Axis("bias"),)}
    if isinstance(config, BytePoolConfig):
        del table["model.embed_tokens.weight"]
        return table | {name: tuple(map(Axis, axes)) for name, axes in config.local_tensors().items()}
    if not config.tied:
        table["lm_head.weight"] = (vocab, hidden)
    return table


def _loras(config: ModelConfig, table: Mapping[str, tuple[Axis, ...]]) -> dict[str, tuple[Axis, ...]]:
    """The two matrices of each LoRA beside the shared one that it is added to."""
    found: dict[str, tuple[Axis, ...]] = {}
    for name, axes in table.items():
        part, _, kind = name.removeprefix(_LAYER).rpartition(".")
        if config.share is not None and kind == "weight" and config.share.adapted(part, config.depth):
            outputs, inputs = axes
            found[f"{_LAYER}{part}.lora_A.weight"] = (Axis("rank"), inputs)
            found[f"{_LAYER}{part}.lora_B.weight"] = (outputs, Axis("rank"))
    return found


def layers_of(template: str, config: ModelConfig) -> Sequence[int]:
    """The layers that store a tensor by this template: all, or where layers share it the first that uses it; of a
    mixture of depths' routers the routed ones."""
    if template.startswith(_ROUTED):
        return config.routed_layers()
    if config.share is None:
        return range(config.depth)
    return config.share.stored(template.removeprefix(_LAYER), config.depth)


def declared(config: ModelConfig) -> dict[str, tuple[Axis, ...]]:
    """Every tensor of a model of this shape: its name and its axes. A tensor of a layer begins with
    `Axis("layer", at=index)`, which takes no dimension."""
    table: dict[str, tuple[Axis, ...]] = {}
    for template, axes in templates(config).items():
        if "{layer}" not in template:
            table[template] = axes
            continue
        for index in layers_of(template, config):
            table[template.format(layer=index)] = (Axis("layer", at=index), *axes)
    return table


def spaces(model: Decoder) -> dict[str, tuple[Axis, ...]]:
    """`declared` for a model at hand."""
    return declared(model.config)


def shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """The shape that its axes imply, for every tensor."""
    size = sizes(config)
    return {
        name: tuple(size[axis.space] * axis.inner for axis in axes if axis.at is None)
        for name, axes in declared(config).items()
    }

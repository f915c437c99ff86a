"""What a shape costs: bytes on the device, cache, arithmetic.

Everything is counted from the tensors that `model.spaces` declares, so it is exact for every family. Bytes are
those of llama.cpp's file format: the types per tensor are the choice that `llama_tensor_get_type_impl` and
`tensor_type_fallback` make (llama.cpp, src/llama-quant.cpp) for a file in F16 and the mixture
Q4_K_M, F32 for what has one axis. Of the file, the header and the padding of each tensor to 32 bytes are not counted.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

from lilliput.errors import ConfigError
from lilliput.model.byte_pool_config import BytePoolConfig
from lilliput.model.config import ModelConfig
from lilliput.model.sharing import unrolled
from lilliput.model.spaces import layers_of, sizes, templates

BITS = (16, 8, 4)

# Weights in a block and the bytes it takes (ggml-common.h). A row is cut into whole blocks.
_BLOCKS = {
    "F32": (1, 4),
    "F16": (1, 2),
    "Q8_0": (32, 34),
    "Q5_0": (32, 22),
    "Q5_1": (32, 24),
    "Q4_K": (256, 144),
    "Q5_K": (256, 176),
    "Q6_K": (256, 210),
}
_BASE = {16: "F16", 8: "Q8_0", 4: "Q4_K"}
# What takes the place of a type whose blocks do not fill the row.
_SECOND = {"Q4_K": "Q5_0", "Q5_K": "Q5_1", "Q6_K": "Q8_0"}
_EMBEDDING, _HEAD = "model.embed_tokens.weight", "lm_head.weight"
_VALUE, _DOWN = "self_attn.v_proj.weight", "mlp.down_proj.weight"


@dataclass(frozen=True)
class Fallback:
    """A tensor stored in another type than its bit width asks for, over all layers where that is so.

    tensor: name with `{layer}` for the index; `*` for a note on all of them. wanted, taken: ggml's types.
    extra_bytes: what this costs beside the wanted type at its own bits a weight.
    """

    tensor: str
    wanted: str
    taken: str
    why: str
    extra_bytes: int


@dataclass(frozen=True)
class _Stored:
    """Tensors of one name, shape and type, `copies` of them. layers: those that hold them; none for a table."""

    template: str
    shape: tuple[int, ...]
    copies: int
    layers: tuple[int, ...]
    wanted: str
    taken: str

    @property
    def elements(self) -> int:
        return self.copies * math.prod(self.shape)

    def bytes(self) -> int:
        weights, size = _BLOCKS[self.taken]
        return self.elements // weights * size

    def wanted_bytes(self) -> int:
        weights, size = _BLOCKS[self.wanted]
        return math.ceil(self.elements / weights * size)


def weight_bytes(shape: ModelConfig, bits: int) -> int:
    """Bytes of all stored tensors at 16 (F16), 8 (Q8_0) or 4 bits (Q4_K_M), a tied head once.

    Norms and biases stay in F32; rows that do not fill the type's blocks fall back as `fallbacks` tells.
    Raises ConfigError for other bits.
    """
    return sum(tensor.bytes() for tensor in _stored(shape, bits))


def fallbacks(shape: ModelConfig, bits: int) -> tuple[Fallback, ...]:
    """The tensors that cannot have the type they should, and what that costs; empty where all fit.

    A family without a GGUF architecture begins with a note (tensor `*`): its bytes follow the same types, but no
    such file can be run yet. Raises ConfigError for bits other than 16, 8 and 4.
    """
    found = [
        Fallback(tensor.template, tensor.wanted, tensor.taken, _why(tensor, bits), _extra(tensor))
        for tensor in _stored(shape, bits)
        if tensor.taken != tensor.wanted
    ]
    if shape.family != "llama":
        why = f"llama.cpp has no architecture for {shape.family} blocks: the bytes are what the same types would take"
        found.insert(0, Fallback("*", "GGUF", "none", why, 0))
    return tuple(found)


def kv_cache_bytes(shape: ModelConfig, positions: int | None = None, itemsize: int = 2) -> int:
    """Bytes of one sequence's keys and values: 2 · depth · kv_heads · head_dim a position.

    positions: None for the whole context. itemsize: bytes of a cached number (2: fp16).
    """
    cached = shape.context if positions is None else positions
    return 2 * shape.depth * shape.kv_heads * shape.head_dim * cached * itemsize


def decode_flops(shape: ModelConfig, positions: int) -> float:
    """FLOPs of one new token after `positions` others: 2 for each weight of a matrix (the head's too, not the
    look-up's) and 4 · depth · heads · head_dim for each of the positions + 1 attended to. What layers share counts for
    each of them; their LoRAs are added to it once, before anything is written (model/shared_block.py)."""
    if isinstance(shape, BytePoolConfig):
        matrices = shape.matrix_parameters()  # of a unit: the local layers' are used for each of its bytes
    else:
        plain = unrolled(shape)
        each = (tensor for tensor in _tensors(plain) if _multiplied(tensor.template, tensor.shape, plain))
        matrices = sum(tensor.elements for tensor in each)
    skipped = shape.skipped_parameters()
    attention = 2.0 * shape.depth * shape.heads * shape.head_dim * (positions + 1)
    return 2.0 * (matrices - skipped + attention)


def _tensors(shape: ModelConfig) -> Iterator[_Stored]:
    """Every stored tensor, layers together, all in F32."""
    size = sizes(shape)
    for template, axes in templates(shape).items():
        dimensions = tuple(size[axis.space] * axis.inner for axis in axes)
        layers = tuple(layers_of(template, shape)) if "{layer}" in template else ()
        yield _Stored(template, dimensions, len(layers) or 1, layers, "F32", "F32")


def _multiplied(template: str, dimensions: tuple[int, ...], shape: ModelConfig) -> bool:
    """Whether every token is multiplied with this tensor; a table that is only looked up is not."""
    if template == _EMBEDDING:
        return shape.tied
    return _is_matrix(template, dimensions)


def _is_matrix(template: str, dimensions: tuple[int, ...]) -> bool:
    return template.endswith(".weight") and len(dimensions) >= 2


def _stored(shape: ModelConfig, bits: int) -> Iterator[_Stored]:
    if bits not in _BASE:
        raise ConfigError(f"no weights of {bits} bits are reckoned with", where="bits", mend="16, 8 or 4")
    for tensor in _tensors(shape):
        if len(tensor.shape) < 2:
            yield tensor
            continue
        # One row counts as one axis, and other names than `.weight` are left alone (tensor_allows_quantization).
        if bits == 16 or not _is_matrix(tensor.template, tensor.shape) or math.prod(tensor.shape[:-1]) == 1:
            yield replace(tensor, wanted="F16", taken="F16")
            continue
        for wanted, copies in _wanted(tensor, bits, shape).items():
            taken = _fitting(wanted, tensor.shape[-1])
            yield replace(tensor, copies=copies, wanted=wanted, taken=taken)


def _wanted(tensor: _Stored, bits: int, shape: ModelConfig) -> dict[str, int]:
    """The types that the mixture gives to this tensor's copies, each with their number."""
    if bits != 4:
        return {_BASE[bits]: tensor.copies}
    if tensor.template == (_EMBEDDING if shape.tied else _HEAD):
        return {"Q6_K": 1}
    if not tensor.template.endswith((_VALUE, _DOWN)):
        return {"Q4_K": tensor.copies}
    more = sum(_more_bits(layer, shape.depth) for layer in tensor.layers)
    # llama.cpp takes 80 layers with grouped queries for Llama 2 70B, whose values get a better type.
    large = tensor.template.endswith(_VALUE) and shape.depth == 80 and shape.heads != shape.kv_heads
    rest = "Q5_K" if large else "Q4_K"
    return {kind: copies for kind, copies in (("Q6_K", more), (rest, tensor.copies - more)) if copies}


def _more_bits(layer: int, depth: int) -> bool:
    """Whether this layer's values and last feed-forward matrix get more bits (`use_more_bits`): the first
    and last eighth of the layers, and every third between."""
    eighth = depth // 8
    return layer < eighth or layer >= 7 * depth // 8 or (layer - eighth) % 3 == 2


def _fitting(wanted: str, row: int) -> str:
    """The type a row of this length can have."""
    if row % _BLOCKS[wanted][0] == 0:
        return wanted
    second = _SECOND.get(wanted, "F16")
    return second if row % _BLOCKS[second][0] == 0 else "F16"


def _why(tensor: _Stored, bits: int) -> str:
    row = tensor.shape[-1]
    why = f"rows of {row} are no multiple of {_BLOCKS[tensor.wanted][0]}"
    if tensor.taken == "F16" and bits == 4:
        why += " nor of 32"
        if tensor.template in (_EMBEDDING, _HEAD) and tensor.wanted == "Q6_K":
            why += "; llama-quantize refuses such a head, F16 is what it would take"
    return why


def _extra(tensor: _Stored) -> int:
    return tensor.bytes() - tensor.wanted_bytes()

"""What a shape costs, against built models, the gguf package's own tables and torch's count of operations."""

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from lilliput.errors import ConfigError
from lilliput.model import Decoder, ModelConfig, gemm, initialise
from lilliput.model.generate import Generator
from lilliput.plan.cost import decode_flops, fallbacks, kv_cache_bytes, weight_bytes
from lilliput.plan.rules import table_share
from lilliput.train.derive import flops

# Two named shapes: rows that fill every block, and the demo's, whose width is no multiple of 256.
ROUND = ModelConfig(
    vocab_size=4096, depth=24, width=512, heads=8, kv_heads=2, head_dim=64, ffn=1536, bos_id=0, eos_id=1
)
SMALL = replace(ROUND, vocab_size=1024, depth=7, width=96, heads=3, kv_heads=3, head_dim=32, ffn=256)


@st.composite
def shapes(draw: st.DrawFn) -> ModelConfig:
    """Small shapes of both families, widths that divide by 256, by 32 and by neither, with and without biases."""
    heads = draw(st.sampled_from([1, 2, 3, 4, 8]))
    width = heads * draw(st.sampled_from([1, 5, 8, 12, 32, 64, 256 // math.gcd(heads, 256)]))
    assume(width <= 768)
    pangu = draw(st.booleans())
    return ModelConfig(
        vocab_size=draw(st.integers(1, 300)),
        depth=draw(st.integers(1, 17)),
        width=width,
        heads=heads,
        kv_heads=draw(st.sampled_from([k for k in range(1, heads + 1) if heads % k == 0])),
        head_dim=draw(st.sampled_from([2, 8, 16, 32, 64])),
        ffn=draw(st.sampled_from([1, 7, 32, 70, 96, 256, 512])),
        bos_id=0,
        eos_id=0,
        tied=draw(st.booleans()),
        context=draw(st.sampled_from([1, 16, 33])),
        attention_bias=draw(st.booleans()),
        mlp_bias=draw(st.booleans()),
        family="pangu" if pangu else "llama",
        shortcut=draw(st.sampled_from([2, 6, 32])) if pangu else 0,
        series=draw(st.sampled_from([1, 2])) if pangu else 1,
    )


def meta(shape: ModelConfig) -> Decoder:
    """The real model, its tensors without memory."""
    with torch.device("meta"):
        return Decoder(shape)


def gguf_bytes(shape: ModelConfig, bits: int) -> int:
    """The same bytes, tensor by tensor from the model's own state, with gguf's table of blocks: Q4_K_M is applied as
    the quantiser goes through a file, layer after layer."""
    gguf = pytest.importorskip("gguf")
    kinds = gguf.GGMLQuantizationType
    state = meta(shape).state_dict()
    has_head = "lm_head.weight" in state
    total = 0
    for name, tensor in state.items():
        dims = list(tensor.shape)
        if len(dims) == 1:
            kind = kinds.F32
        elif bits == 16 or dims[0] == 1:
            kind = kinds.F16
        elif bits == 8:
            kind = kinds.Q8_0
        else:
            kind = kinds.Q4_K
            if name == "lm_head.weight" or (name == "model.embed_tokens.weight" and not has_head):
                kind = kinds.Q6_K if dims[1] % 256 == 0 else kinds.Q8_0
            elif "v_proj" in name or "down_proj" in name:
                layer, depth = int(name.split(".")[2]), shape.depth
                if layer < depth // 8 or layer >= 7 * depth // 8 or (layer - depth // 8) % 3 == 2:
                    kind = kinds.Q6_K
        second = {kinds.Q4_K: kinds.Q5_0, kinds.Q6_K: kinds.Q8_0}
        if dims[-1] % gguf.GGML_QUANT_SIZES[kind][0]:
            kind = second.get(kind, kinds.F16)
        if dims[-1] % gguf.GGML_QUANT_SIZES[kind][0]:
            kind = kinds.F16
        block, size = gguf.GGML_QUANT_SIZES[kind]
        total += tensor.numel() // block * size
    return total


@given(shape=shapes())
@settings(max_examples=40, deadline=None)
def test_parameters_and_bytes_are_those_of_the_built_model(shape: ModelConfig) -> None:
    state = meta(shape).state_dict()
    assert shape.parameters() == sum(tensor.numel() for tensor in state.values())
    tables = [name for name in state if "embed_tokens" in name or "lm_head" in name]
    assert table_share(shape) == sum(state[name].numel() for name in tables) / shape.parameters()
    for bits in (16, 8, 4):
        assert weight_bytes(shape, bits) == gguf_bytes(shape, bits)


@given(shape=shapes(), bits=st.sampled_from([16, 8, 4]))
@settings(max_examples=30, deadline=None)
def test_fallbacks_are_named_where_rows_do_not_fill_blocks_and_nowhere_else(shape: ModelConfig, bits: int) -> None:
    found = fallbacks(shape, bits)
    odd = {
        name.replace(f".{name.split('.')[2]}.", ".{layer}.") if ".layers." in name else name
        for name, tensor in meta(shape).state_dict().items()
        if bits < 16 and tensor.dim() == 2 and tensor.shape[0] > 1 and tensor.shape[1] % (32 if bits == 8 else 256)
    }
    assert {one.tensor for one in found if one.tensor != "*"} == odd
    assert any(one.tensor == "*" for one in found) == (shape.family == "pangu")
    for one in found:
        assert one.why
        assert one.taken != one.wanted
        assert one.extra_bytes >= 0
    if bits == 16:
        assert weight_bytes(shape, 16) >= 2 * shape.parameters()


def test_a_shape_of_full_blocks_needs_no_fallback() -> None:
    assert fallbacks(ROUND, 8) == fallbacks(ROUND, 4) == ()
    per_weight = {bits: 8 * weight_bytes(ROUND, bits) / ROUND.parameters() for bits in (16, 8, 4)}
    assert per_weight[16] == pytest.approx(16, rel=1e-3)
    assert per_weight[8] == pytest.approx(8.5, rel=2e-3)
    assert 4.5 < per_weight[4] < 5.1


def test_fallbacks_tell_what_they_cost() -> None:
    found = {(one.tensor, one.wanted): one for one in fallbacks(SMALL, 4)}
    gate = found["model.layers.{layer}.mlp.gate_proj.weight", "Q4_K"]
    assert gate.taken == "Q5_0"
    assert "rows of 96" in gate.why
    assert gate.extra_bytes == 7 * 96 * 256 * 22 // 32 - 7 * 96 * 256 * 144 // 256
    assert found["model.embed_tokens.weight", "Q6_K"].taken == "Q8_0"
    values = {wanted: taken for (name, wanted), taken in found.items() if "v_proj" in name}
    assert set(values) == {"Q4_K", "Q6_K"}
    # The rows of the last feed-forward matrix are its 256 inputs: they fill a block.
    assert not [name for name, _ in found if "down_proj" in name]


def test_a_head_whose_rows_fill_no_block_is_said_to_be_refused() -> None:
    tied = replace(SMALL, width=40, heads=5, kv_heads=5, head_dim=8)
    assert any("refuses" in one.why and one.taken == "F16" for one in fallbacks(tied, 4))
    assert not any("refuses" in one.why for one in fallbacks(tied, 8))


def test_eighty_grouped_layers_are_taken_for_the_70b_model() -> None:
    deep = replace(ROUND, depth=80)
    plain = replace(deep, kv_heads=8)
    rows = 64 * deep.kv_heads * 512  # weights of one layer's values
    more = sum(layer < 10 or layer >= 70 or (layer - 10) % 3 == 2 for layer in range(80))
    values = more * rows * 210 // 256 + (80 - more) * rows * 176 // 256
    usual = more * rows * 210 // 256 + (80 - more) * rows * 144 // 256
    assert weight_bytes(plain, 4) == gguf_bytes(plain, 4)
    assert weight_bytes(deep, 4) == gguf_bytes(deep, 4) - usual + values


@given(shape=shapes(), batch=st.integers(1, 3))
@settings(max_examples=15, deadline=None)
def test_cache_bytes_are_the_generators(shape: ModelConfig, batch: int) -> None:
    cache = Generator(Decoder(shape), batch).cache
    assert batch * kv_cache_bytes(shape, itemsize=cache.element_size()) == cache.numel() * cache.element_size()
    assert kv_cache_bytes(shape, positions=2 * shape.context) == cache.numel() // batch * 4


@given(shape=shapes(), positions=st.integers(0, 40))
@settings(max_examples=20, deadline=None)
def test_flops_are_those_of_a_real_pass(shape: ModelConfig, positions: int) -> None:
    shape = replace(shape, context=64)
    model = Decoder(shape)
    initialise(model, 0)
    # What torch counts: matrix products by its own operators, attention by its written-out form.
    with pytest.MonkeyPatch.context() as patch, sdpa_kernel(SDPBackend.MATH):
        patch.setattr(gemm, "ONEDNN", False)
        writer = Generator(model, 1)
        if positions:
            writer.feed(torch.zeros(1, positions, dtype=torch.int64))
        with FlopCounterMode(display=False) as counter:
            writer.feed(torch.zeros(1, 1, dtype=torch.int64))
    assert decode_flops(shape, positions) == counter.get_total_flops()


def test_training_flops_are_three_passes_without_attention() -> None:
    attention = decode_flops(ROUND, 100) - decode_flops(ROUND, 99)
    pass_ = decode_flops(ROUND, 0) - attention
    one_axis = sum(tensor.numel() for tensor in meta(ROUND).state_dict().values() if tensor.dim() == 1)
    assert flops(ROUND, 10) == 10 * (3 * pass_ + 6 * one_axis)


def test_other_bits_are_refused() -> None:
    with pytest.raises(ConfigError, match="5 bits"):
        weight_bytes(ROUND, 5)

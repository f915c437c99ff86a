"""Layers that share weights against the same network unrolled: function, gradients, counts, steps, cuts, refusals."""

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from model_support import SHARES, config, decoder, ids
from test_carve import check_equal

from lilliput.errors import ModelError
from lilliput.model import Decoder, ModelConfig, initialise
from lilliput.model.carve import Kept, carve_model, whole
from lilliput.model.shared_block import uses_of
from lilliput.model.sharing import Sharing, default_rank, unrolled
from lilliput.model.spaces import shapes
from lilliput.train.config import TrainConfig
from lilliput.train.optimizer import build_optimizer, set_learning_rate

SHAPE = {"depth": 6, "heads": 4, "kv_heads": 2, "width": 40, "head_dim": 10, "attention_bias": True, "mlp_bias": True}
EACH = pytest.mark.parametrize("share", SHARES.values(), ids=SHARES)
RUN = TrainConfig(steps=6, batch_sequences=4, micro_sequences=2, context=16, lr=5e-3, min_lr=5e-4, warmup_steps=1)


def shared(share: dict[str, object], **changes: object) -> Decoder:
    return decoder(share=share, **{**SHAPE, **changes})


def copied(model: Decoder) -> Decoder:
    """The plain network, each layer with a copy of what it uses."""
    plain = Decoder(unrolled(model.config))
    with torch.no_grad():
        for name, tensor in plain.state_dict().items():
            module, _, kind = name.rpartition(".")
            tensor.copy_(getattr(model.get_submodule(module), "matrix" if name.endswith("_proj.weight") else kind))
    return plain


def source(name: str, model: Decoder) -> str:
    """The tensor that a plain network's `name` is a copy of, found by what is the same memory or was added to it."""
    module, _, kind = name.rpartition(".")
    found = model.get_submodule(module)
    owner = getattr(found, "_first", (found,))[0]
    return next(f"{path}.{kind}" for path, one in model.named_modules() if one is owner)


@EACH
def test_it_computes_what_the_unshared_network_with_copied_weights_does(share):
    model = shared(share)
    torch.testing.assert_close(model(ids(3, 33)), copied(model)(ids(3, 33)), atol=1e-5, rtol=1e-5)


@EACH
def test_with_b_at_zero_a_lora_changes_nothing(share):
    shape = config(**SHAPE, share={**share, "lora": 3})
    with_lora, without = Decoder(shape), Decoder(replace(shape, share=replace(shape.share, lora=0)))
    for model in (with_lora, without):
        initialise(model, 4)
    loras = {name: tensor for name, tensor in with_lora.state_dict().items() if ".lora_" in name}
    assert loras
    assert all(bool(tensor.any()) == name.endswith("lora_A.weight") for name, tensor in loras.items())
    assert all(torch.equal(tensor, with_lora.state_dict()[name]) for name, tensor in without.state_dict().items())
    assert torch.equal(with_lora(ids(2, 20)), without(ids(2, 20)))
    # The unshared network whose layers all start as the first of those that share.
    assert torch.equal(with_lora(ids(2, 20)), copied(without)(ids(2, 20)))


@pytest.mark.parametrize("looped", ["all", "interior"])
def test_looped_n_times_is_the_block_run_n_times(looped):
    model = shared({"loops": 2, "looped": looped})
    body, x_BTD = model.model, model.model.embed_tokens(ids(2, 20))
    first, last = (0, 6) if looped == "all" else (1, 5)
    layers = [*body.layers[:first], *(2 * [*body.layers[first : (first + last) // 2]]), *body.layers[last:]]
    assert len(layers) == 6
    for layer in layers:
        x_BTD = layer(x_BTD, body.cos[:20], body.sin[:20])
    logits = body.norm(x_BTD) @ model.head_weight().T
    torch.testing.assert_close(model(ids(2, 20)), logits, atol=1e-5, rtol=1e-5)


@EACH
def test_a_gradient_is_the_sum_over_the_uses(share):
    model = shared(share)
    plain = copied(model)
    for net in (model, plain):
        net(ids(3, 33), ids(3, 33, seed=1)).backward()
    sums = {name: torch.zeros_like(p) for name, p in model.named_parameters()}
    for name, parameter in plain.named_parameters():
        sums[source(name, model)] += parameter.grad
        if f"{name.removesuffix('weight')}lora_A.weight" in sums:
            a, b = (f"{name.removesuffix('weight')}lora_{which}.weight" for which in "AB")
            sums[a] += model.get_parameter(b).T @ parameter.grad
            sums[b] += parameter.grad @ model.get_parameter(a).T
    for name, parameter in model.named_parameters():
        scale = sums[name].abs().max()
        assert (parameter.grad - sums[name]).abs().max() <= 1e-4 * scale, name


SPANS = st.sampled_from(["all", "interior", "0-1", "1-3", "2-5"])


@settings(max_examples=60, deadline=None)
@given(
    depth=st.integers(1, 8), ffn=SPANS | st.none(), output=SPANS | st.none(), loops=st.integers(1, 4), looped=SPANS,
    lora=st.integers(0, 9), head_dim=st.integers(1, 4), kv_heads=st.integers(1, 2), groups=st.integers(1, 2),
    factor=st.integers(1, 4), neurons=st.integers(1, 30), tied=st.booleans(), attention_bias=st.booleans(),
    mlp_bias=st.booleans(),
)  # fmt: skip
def test_parameters_are_the_built_models_or_the_shape_is_refused(
    ffn, output, loops, looped, lora, head_dim, kv_heads, groups, factor, neurons, **sizes
):
    heads = kv_heads * groups
    share = {"ffn": ffn, "attention_output": output, "loops": loops, "lora": lora}
    sizes |= {"head_dim": 2 * head_dim, "heads": heads, "kv_heads": kv_heads, "width": heads * factor, "ffn": neurons}
    share["looped"] = looped if loops > 1 else None
    try:
        shape = config(context=8, share=share, **sizes)
    except ModelError as error:
        refused = error
    else:
        refused = None
    if refused is not None:
        assert refused.where.startswith("model.share")
        assert refused.mend
        return
    model = Decoder(shape)
    state = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    assert shape.parameters() == sum(math.prod(dims) for dims in state.values())
    assert state == shapes(shape) == {name: tuple(p.shape) for name, p in model.named_parameters()}
    assert len({tensor.data_ptr() for tensor in model.state_dict().values()}) == len(state)
    assert ModelConfig.from_hf(shape.to_hf()) == shape
    assert unrolled(shape).parameters() == sum(p.numel() for p in copied(model).parameters())


def test_what_is_saved_is_what_sharing_saves():
    """The feed-forward of six layers: one is left, and each layer has three LoRAs."""
    shape = config(depth=6, share={"ffn": "all", "lora": 3})
    assert unrolled(shape).parameters() - shape.parameters() == 5 * 3 * 40 * 70 - 6 * 3 * 3 * (40 + 70)
    looped = config(depth=6, share={"loops": 3})
    assert looped.parameters() == config(depth=2).parameters()


@EACH
def test_a_shared_tensor_is_stepped_and_decayed_once(share):
    model = shared(share)
    optimizer = build_optimizer(model, RUN)
    placed = [(id(p), group) for group in optimizer.param_groups for p in group["params"]]
    assert len({found for found, _ in placed}) == len(placed) == len(list(model.parameters()))
    groups, plain, uses = dict(placed), dict(copied(model).named_parameters()), uses_of(model)
    counted = [source(name, model) for name in plain]
    set_learning_rate(optimizer, 2e-3, RUN.lr)
    for name, parameter in model.named_parameters():
        times = counted.count(name) if ".lora_" not in name else 1
        assert uses.get(name, 1) == times
        assert groups[id(parameter)]["lr"] == pytest.approx(2e-3 / math.sqrt(times)), name
        assert groups[id(parameter)]["weight_decay"] == (RUN.weight_decay if parameter.dim() > 1 else 0)
    assert max(uses.values()) > 1


def test_scaled_gradients_would_not_slow_adam_and_the_rate_does():
    model = shared({"ffn": "all"})
    optimizer = build_optimizer(model, replace(RUN, weight_decay=0.0))
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    model(ids(3, 33), ids(3, 33, seed=1)).backward()
    optimizer_rate = RUN.lr
    set_learning_rate(optimizer, optimizer_rate, RUN.lr)
    optimizer.step()
    # Adam's first step is the rate, whatever the gradient's size.
    for name, uses in (("self_attn.q_proj", 1), ("mlp.up_proj", 6)):
        path = f"model.layers.0.{name}.weight"
        moved = (model.get_parameter(path) - before[path]).abs().median().item()
        assert moved == pytest.approx(optimizer_rate / math.sqrt(uses), rel=1e-3)


def test_a_plain_model_has_the_two_groups_it_had():
    plain = decoder()
    assert uses_of(plain) == {}
    decaying, resting = build_optimizer(plain, RUN).param_groups
    assert decaying["weight_decay"] > 0 == resting["weight_decay"]
    assert not {"rate"} & {*decaying, *resting}


@EACH
def test_a_masked_network_is_the_carved_one_and_what_is_shared_is_cut_once(share):
    parent = shared({**share, "lora": 2 if share.get("lora") else 0}, context=20)
    kept = Kept(
        layers=tuple(range(6)), hidden=tuple(range(1, 40, 2)), ffn=(tuple(range(0, 70, 3)),) * 6, kv_head=((1,),) * 6,
        vocab=tuple(range(50)),
    )  # fmt: skip
    check_equal(parent, kept)
    child = carve_model(parent, kept)
    assert child.config.share == parent.config.share
    assert set(child.state_dict()) == set(parent.state_dict())


def test_cuts_that_tear_what_is_shared_apart_are_refused():
    parent = shared({"ffn": "interior"})
    all_of_it = whole(parent.config)
    fewer = replace(all_of_it, layers=(0, 1), ffn=all_of_it.ffn[:2], kv_head=all_of_it.kv_head[:2])
    with pytest.raises(ModelError, match="cannot be left out"):
        carve_model(parent, fewer)
    ffn = (*((tuple(range(35)),) * 3), tuple(range(1, 36)), *((tuple(range(35)),) * 2))
    with pytest.raises(ModelError, match=r"keeps others than layer 1.*ffn of layer 3"):
        carve_model(parent, replace(all_of_it, ffn=ffn))
    # The first layer has a feed-forward of its own.
    own = (tuple(range(35, 70)), *((tuple(range(35)),) * 4), tuple(range(2, 37)))
    check_equal(parent, replace(all_of_it, ffn=own))
    with pytest.raises(ModelError, match="rank 9 is larger"):
        carve_model(shared({"ffn": "all", "lora": 9}), replace(all_of_it, ffn=((1, 2),) * 6))


@pytest.mark.parametrize(
    ("share", "changes", "where", "said"),
    [
        ({}, {}, "share", "nothing is shared"),
        ({"lora": 4}, {}, "share.lora", "nothing is shared"),
        ({"ffn": "2-9"}, {}, "share.ffn", "layers 2-9 do not exist"),
        ({"ffn": "3-2"}, {}, "share.ffn", "layers 3-2 do not exist"),
        ({"ffn": "some"}, {}, "share.ffn", "'some' names no layers"),
        ({"ffn": "2-2"}, {}, "share.ffn", "a single one"),
        ({"attention_output": "interior"}, {"depth": 2}, "share.attention_output", "interior of 2 layers are none"),
        ({"loops": 4}, {}, "share.loops", "6 looped layers cannot be divided into 4 runs"),
        ({"loops": 3, "looped": "interior"}, {}, "share.loops", "4 looped layers"),
        ({"loops": 2, "looped": "0-6"}, {}, "share.looped", "layers 0-6 do not exist"),
        ({"ffn": "all", "looped": "all"}, {}, "share.looped", "no loops are asked for"),
        ({"ffn": "all", "loops": 0}, {}, "share.loops", "it is 0"),
        ({"ffn": "all", "lora": -1}, {}, "share.lora", "it is -1"),
        ({"loops": 2, "ffn": "0-2"}, {}, "share.ffn", "leave out others of its runs"),
        ({"ffn": "all", "lora": 41}, {}, "share.lora", "rank 41 is larger than the matrix it is for"),
        ({"loops": 2, "lora": 21}, {}, "share.lora", "self_attn.k_proj of 20 × 40"),
        ({"ffn": "all"}, {"family": "pangu"}, "share", "layers of a pangu do not share"),
        ({"ffn": "all"}, {"model_type": "qwen3", "qk_norm": True}, "share", "layers of a qwen3 do not share"),
        ({"ffn": "all"}, {"model_type": "mistral", "attention_bias": False, "mlp_bias": False}, "model_type", "shared"),
        (None, {"family": "shared"}, "share", "nothing is shared"),
    ],
)
def test_sharing_that_cannot_be_is_refused(share, changes, where, said):
    with pytest.raises(ModelError, match=said) as caught:
        config(**{**SHAPE, "share": share, **changes})
    assert caught.value.where == f"model.{where}"
    assert caught.value.mend


def test_the_rank_follows_the_width():
    assert default_rank(512, 512) == 64
    assert [default_rank(width, width) for width in (16, 64, 80, 96, 128)] == [4, 8, 8, 12, 16]
    assert default_rank(512, 32) == 32


def test_which_layer_stores_what():
    share = Sharing(loops=2, looped="interior", ffn="interior", lora=2)
    assert share.owners("self_attn.q_proj", 6) == (0, 1, 2, 1, 2, 5)
    assert share.owners("mlp.up_proj", 6) == (0, 1, 1, 1, 1, 5)
    assert share.stored("mlp.up_proj.weight", 6) == (0, 1, 5)
    assert share.stored("mlp.up_proj.lora_A.weight", 6) == (1, 2, 3, 4)
    assert share.lent("mlp.up_proj", 6) == {1: 4}
    assert share.adapted("input_layernorm", 6) == ()
    assert share.told() == "FFN shared (interior), 2 loops (interior), LoRA 2"

"""Carving: the masked parent, computed by hooks that know nothing of the declared spaces, equals the carved child."""

import weakref
from copy import deepcopy
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from model_support import SHAPES, config, decoder, ids
from torch import nn

from lilliput.errors import ModelError
from lilliput.model import Decoder
from lilliput.model.carve import Kept, carve, carve_model, child_config, whole
from lilliput.model.spaces import declared, shapes

CUTS = ("layers", "hidden", "ffn", "kv_head", "vocab")


class SurvivorNorm(nn.Module):
    """RMSNorm whose mean is over `kept` channels, the others being zero."""

    def __init__(self, norm: nn.Module, kept: int) -> None:
        super().__init__()
        self.weight, self.eps, self.kept = norm.weight, norm.eps, kept

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.weight * x * torch.rsqrt(x.square().sum(-1, keepdim=True) / self.kept + self.eps)


class Identity(nn.Module):
    def forward(self, x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
        return x


def mask(size: int, members: tuple[int, ...], each: int = 1) -> torch.Tensor:
    kept = torch.zeros(size)
    kept[list(members)] = 1.0
    return kept.repeat_interleave(each)


def masked(parent: Decoder, kept: Kept) -> Decoder:
    """A copy of the parent with zeros in the place of what is dropped: the activations are masked, no weight is."""
    model, shape = deepcopy(parent), parent.config
    hidden = mask(shape.width, kept.hidden)
    group = shape.heads // shape.kv_heads * shape.head_dim
    model.model.embed_tokens.register_forward_hook(lambda module, inputs, out: out * hidden)
    model.model.norm = SurvivorNorm(model.model.norm, len(kept.hidden))
    for index in set(range(shape.depth)) - set(kept.layers):
        model.model.layers[index] = Identity()
    for index, ffn, kv_head in zip(kept.layers, kept.ffn, kept.kv_head, strict=True):
        layer = model.model.layers[index]
        for name in ("input_layernorm", "post_attention_layernorm"):
            setattr(layer, name, SurvivorNorm(getattr(layer, name), len(kept.hidden)))
        for writer in (layer.self_attn, layer.mlp):
            writer.register_forward_hook(lambda module, inputs, out: out * hidden)
        heads, neurons = mask(shape.kv_heads, kv_head, group), mask(shape.ffn, ffn)
        layer.self_attn.o_proj.register_forward_pre_hook(lambda module, inputs, z=heads: (inputs[0] * z,))
        layer.mlp.down_proj.register_forward_pre_hook(lambda module, inputs, z=neurons: (inputs[0] * z,))
    return model


def check_equal(parent: Decoder, kept: Kept) -> None:
    """Logits of the masked parent and the child, of the pieces that both have."""
    child = carve_model(parent, kept)
    pieces = torch.tensor(kept.vocab if kept.vocab is not None else range(parent.config.vocab_size))
    ids_BT = ids(2, 12, vocab=len(pieces))
    with torch.no_grad():
        wanted = masked(parent, kept)(pieces[ids_BT])[..., pieces]
        torch.testing.assert_close(child(ids_BT), wanted, atol=1e-5, rtol=1e-5)


@st.composite
def shapes_of_parents(draw: st.DrawFn) -> dict[str, object]:
    """Shapes whose width any number of their key-value heads divides; MHA where a group is one head."""
    kv_heads, group = draw(st.integers(1, 3)), draw(st.integers(1, 3))
    family = draw(st.sampled_from(["llama", "pangu"]))
    shape: dict[str, object] = {
        "family": family,
        "depth": draw(st.integers(1, 4)),
        "kv_heads": kv_heads,
        "heads": kv_heads * group,
        "width": 6 * group * draw(st.integers(1, 4)),
        "head_dim": 2 * draw(st.integers(1, 4)),
        "ffn": draw(st.integers(1, 30)),
        "vocab_size": draw(st.integers(2, 40)),
        **{name: draw(st.booleans()) for name in ("tied", "attention_bias", "mlp_bias")},
    }
    if family == "pangu":
        blocks = draw(st.sampled_from([(5, 2), (5, 1), (0, 2)]))
        shape |= dict(zip(("shortcut", "series"), blocks, strict=True))
    return shape


def chosen(draw: st.DrawFn, size: int, count: int) -> tuple[int, ...]:
    return tuple(sorted(draw(st.permutations(range(size)))[:count]))


@st.composite
def cuts(draw: st.DrawFn, spaces: tuple[str, ...]) -> tuple[Decoder, Kept]:
    """A parent and what a child keeps, cut in `spaces` and whole in the others."""
    parent = decoder(seed=draw(st.integers(0, 9)), **draw(shapes_of_parents()))
    shape, all_of_it = parent.config, whole(parent.config)

    def count(space: str, size: int, step: int = 1) -> int:
        return step * draw(st.integers(1, size // step)) if space in spaces else size

    layers = chosen(draw, shape.depth, count("layers", shape.depth))
    kv_heads, neurons = count("kv_head", shape.kv_heads), count("ffn", shape.ffn)
    heads = kv_heads * shape.heads // shape.kv_heads
    kept = replace(
        all_of_it,
        layers=layers,
        hidden=chosen(draw, shape.width, count("hidden", shape.width, step=heads)),
        ffn=tuple(chosen(draw, shape.ffn, neurons) for _ in layers),
        kv_head=tuple(chosen(draw, shape.kv_heads, kv_heads) for _ in layers),
    )
    if "vocab" in spaces:
        others = chosen(draw, shape.vocab_size - 2, draw(st.integers(0, shape.vocab_size - 2)))
        kept = replace(kept, vocab=(0, 1, *(number + 2 for number in others)))
    return parent, kept


@pytest.mark.parametrize("space", CUTS)
@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_a_parent_masked_in_one_space_is_the_carved_child(space, data):
    check_equal(*data.draw(cuts((space,))))


@settings(max_examples=60, deadline=None)
@given(cuts(CUTS))
def test_a_parent_masked_in_every_space_is_the_carved_child(cut):
    check_equal(*cut)


@pytest.mark.parametrize("family", ["llama", "pangu"])
def test_zeros_in_the_writers_and_norms_of_the_survivors_are_the_mask(family):
    """The module's words for a hidden cut, with weights in place of hooks; the writers are found by their axes."""
    parent = decoder(family=family, attention_bias=True, mlp_bias=True)
    kept = replace(whole(parent.config), hidden=(*range(3, 18), *range(20, 40)))
    child = carve_model(parent, kept)
    gone = mask(40, kept.hidden) == 0
    with torch.no_grad():
        for name, axes in declared(parent.config).items():
            dims = [axis.space for axis in axes if axis.at is None]
            tensor = parent.get_parameter(name)
            if name.endswith("embed_tokens.weight"):
                tensor[:, gone] = 0
            elif dims[0] == "hidden" and "norm" not in name:
                tensor[gone] = 0
        parent.model.norm = SurvivorNorm(parent.model.norm, 35)
        for layer in parent.model.layers:
            layer.input_layernorm = SurvivorNorm(layer.input_layernorm, 35)
            layer.post_attention_layernorm = SurvivorNorm(layer.post_attention_layernorm, 35)
        torch.testing.assert_close(parent(ids(2, 20)), child(ids(2, 20)), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("changes", SHAPES.values(), ids=SHAPES)
def test_a_carve_that_removes_nothing_is_the_identity(changes):
    parent = decoder(**changes)
    for kept in (whole(parent.config), replace(whole(parent.config), vocab=tuple(range(97)))):
        assert child_config(parent.config, kept) == parent.config
        state = parent.state_dict()
        carved = dict(carve(state.items(), parent.config, kept))
        assert list(carved) == list(state)
        assert all(torch.equal(carved[name], tensor) for name, tensor in state.items())
        child = carve_model(parent, kept)
        assert torch.equal(child(ids(2, 20)), parent(ids(2, 20)))


def test_a_child_has_weights_of_its_own():
    parent = decoder()
    child = carve_model(parent, whole(parent.config))
    before = parent(ids(1, 5))
    with torch.no_grad():
        for parameter in child.parameters():
            parameter.zero_()
    assert torch.equal(parent(ids(1, 5)), before)


def test_a_child_is_of_its_parents_type():
    child = carve_model(decoder().bfloat16(), replace(whole(config()), layers=(2,), ffn=((3, 5),), kv_head=((0,),)))
    assert {parameter.dtype for parameter in child.parameters()} == {torch.bfloat16}


def test_a_childs_shape_follows_from_what_is_kept():
    parent = config(heads=6, kv_heads=3, width=48, head_dim=12, context=33, bos_id=5, eos_id=9, family="pangu")
    kept = Kept((1, 2), tuple(range(0, 48, 2)), ((1, 2, 8),) * 2, ((0, 2), (1, 2)), (2, 5, 9, 60))
    child = child_config(parent, kept)
    assert (child.depth, child.width, child.ffn, child.vocab_size) == (2, 24, 3, 4)
    assert (child.heads, child.kv_heads, child.head_dim) == (4, 2, 12)
    assert (child.bos_id, child.eos_id, child.context) == (1, 2, 33)
    assert (child.family, child.shortcut, child.series) == ("pangu", parent.shortcut, parent.series)


def test_a_head_keeps_the_rotary_order_of_its_dimensions():
    """Query heads go with their key-value head, and the rows of a head stay together and in order."""
    parent = decoder(heads=4, kv_heads=2, width=48, head_dim=12, attention_bias=True)
    kept = replace(whole(parent.config), kv_head=((1,), (0,), (1,)))
    state, carved = parent.state_dict(), carve_model(parent, kept).state_dict()
    for layer, head in enumerate((1, 0, 1)):
        at = f"model.layers.{layer}.self_attn."
        key, query = slice(12 * head, 12 * head + 12), slice(24 * head, 24 * head + 24)
        for name, rows in (("k_proj", key), ("v_proj", key), ("q_proj", query)):
            for part in ("weight", "bias"):
                assert torch.equal(carved[f"{at}{name}.{part}"], state[f"{at}{name}.{part}"][rows])
        assert torch.equal(carved[f"{at}o_proj.weight"], state[f"{at}o_proj.weight"][:, query])


def test_only_one_tensor_is_held_and_none_is_read_ahead():
    shape = config()
    kept = replace(whole(shape), layers=(0, 2), ffn=((1, 2),) * 2, kv_head=(tuple(range(5)),) * 2)
    living: list[weakref.ref[torch.Tensor]] = []

    def tensors():
        for name, size in shapes(shape).items():
            assert all(tensor() is None for tensor in living)
            tensor = torch.zeros(size)
            living.append(weakref.ref(tensor))
            pair = name, tensor
            del tensor
            yield pair
            del pair

    read = carve(tensors(), shape, kept)
    assert not living
    assert next(read)[0] == "model.embed_tokens.weight"
    assert len(living) == 1
    found = {}
    for name, tensor in read:
        found[name] = tuple(tensor.shape)
        del tensor
    assert len(living) == len(shapes(shape))
    wanted = shapes(child_config(shape, kept))
    assert found == {name: size for name, size in wanted.items() if name != "model.embed_tokens.weight"}


PARENT = config(heads=6, kv_heads=3, width=48)
ALL = whole(PARENT)
REFUSED = {
    "no layer": ({"layers": (), "ffn": (), "kv_head": ()}, "nothing is kept", "layers"),
    "no channel": ({"hidden": ()}, "nothing", "hidden"),
    "no neuron": ({"ffn": ((),) * 3}, "nothing", "ffn of layer 0"),
    "no head": ({"kv_head": ((),) * 3}, "nothing", "kv_head of layer 0"),
    "no piece": ({"vocab": ()}, "nothing", "vocab"),
    "layer out of range": ({"layers": (0, 1, 3)}, "3 is out of range", "layers"),
    "channel out of range": ({"hidden": (-1, 5)}, "-1 is out of range", "hidden"),
    "head out of range": ({"kv_head": ((0, 1), (0, 3), (0, 1))}, "3 is out", "kv_head of layer 1"),
    "piece out of range": ({"vocab": (0, 1, 97)}, "97 is out", "vocab"),
    "layer twice": ({"layers": (0, 2, 2)}, "2 is kept twice", "layers"),
    "neuron twice": ({"ffn": ((1, 3), (1, 3), (3, 3))}, "3 is kept twice", "ffn of layer 2"),
    "twice, apart": ({"hidden": (4, 7, 4)}, "4 is kept twice", "hidden"),
    "not increasing": ({"layers": (0, 2, 1)}, "1 stands behind 2", "layers"),
    "unequal neurons": ({"ffn": ((1, 3), (1, 3), (3,))}, "it keeps 1, but layer 0 keeps 2", "ffn of layer 2"),
    "unequal heads": ({"kv_head": ((1,), (0, 2), (1,))}, "it keeps 2, but layer 0 keeps 1", "kv_head of layer 1"),
    "choices without layers": ({"layers": (0, 2)}, "3 layers are given, but 2", "ffn"),
    "no bos": ({"vocab": (1, 2)}, "bos_id, the piece 0, is not kept", "vocab"),
    "no eos": ({"vocab": (0, 2)}, "eos_id, the piece 1, is not kept", "vocab"),
    "a width that heads do not divide": ({"hidden": tuple(range(32))}, "no multiple of 6 heads", "model.heads"),
}


@pytest.mark.parametrize(("changes", "message", "where"), REFUSED.values(), ids=REFUSED)
def test_what_no_child_can_be_made_of_is_refused_before_anything_is_read(changes, message, where):
    def unread():
        pytest.fail("a tensor was read")
        yield

    kept = replace(ALL, **changes)
    for call in (lambda: child_config(PARENT, kept), lambda: carve(unread(), PARENT, kept)):
        with pytest.raises(ModelError, match=message) as caught:
            call()
        assert caught.value.where == where
        assert caught.value.mend


@pytest.mark.parametrize(
    ("name", "size", "message"),
    [
        ("model.layers.0.self_attn.k_norm.weight", (8,), "no such tensor"),
        ("model.layers.7.mlp.up_proj.weight", (70, 48), "no such tensor"),
        ("model.layers.1.mlp.up_proj.weight", (71, 48), r"its shape is \(71, 48\), not \(70, 48\)"),
    ],
)
def test_a_tensor_of_another_parent_is_refused_by_name(name, size, message):
    with pytest.raises(ModelError, match=message) as caught:
        list(carve([(name, torch.zeros(size))], PARENT, ALL))
    assert caught.value.where == name
    assert caught.value.mend


def test_a_part_of_the_tensors_may_be_carved():
    parent = decoder()
    name = "model.layers.2.mlp.down_proj.weight"
    kept = replace(ALL, layers=(2,), hidden=tuple(range(0, 40, 2)), ffn=((0, 69),), kv_head=((0, 1, 2, 3, 4),))
    [(carved, tensor)] = carve([(name, parent.get_parameter(name))], parent.config, kept)
    assert carved == "model.layers.0.mlp.down_proj.weight"
    assert torch.equal(tensor, parent.get_parameter(name)[::2][:, [0, 69]])

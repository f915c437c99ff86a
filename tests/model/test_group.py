"""Grouped-query conversion: heads that are equal change nothing, means are means, and what is refused."""

import weakref
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from model_support import config, decoder, ids

from lilliput.errors import ModelError
from lilliput.model import Decoder, initialise, spaces
from lilliput.model.group import WAYS, group_heads, group_model, grouped_config
from lilliput.model.spaces import shapes

PROJECTIONS = ("k_proj.weight", "k_proj.bias", "v_proj.weight", "v_proj.bias")


def grouped(name: str) -> bool:
    return name.endswith(PROJECTIONS)


def spread(model: Decoder, members: int) -> Decoder:
    """The same function with `members` equal key-value heads in the place of each."""
    shape = model.config
    wide = Decoder(replace(shape, kv_heads=shape.kv_heads * members))
    state = model.state_dict()
    for name, tensor in state.items():
        if grouped(name):
            heads = tensor.unflatten(0, (shape.kv_heads, shape.head_dim))
            state[name] = heads.repeat_interleave(members, 0).flatten(0, 1)
    wide.load_state_dict(state)
    return wide


@pytest.mark.parametrize("how", ["mean", "first"])
@settings(max_examples=40, deadline=None)
@given(
    groups=st.integers(1, 3), members=st.integers(1, 4), queries=st.integers(1, 2), head_dim=st.integers(1, 4),
    depth=st.integers(1, 3), family=st.sampled_from(["llama", "pangu"]), tied=st.booleans(),
    attention_bias=st.booleans(), seed=st.integers(0, 9),
)  # fmt: skip
def test_grouping_equal_heads_leaves_the_logits_as_they_are(how, groups, members, queries, head_dim, seed, **shape):
    heads = groups * members * queries
    model = decoder(seed, heads=heads, kv_heads=groups, head_dim=2 * head_dim, width=heads * 2, **shape)
    wide = spread(model, members)
    child = group_model(wide, groups, how)
    assert child.config == model.config
    with torch.no_grad():
        torch.testing.assert_close(child(ids(2, 12)), wide(ids(2, 12)), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("heads", "kv_heads"), [(4, 4), (8, 4)])
def test_the_mean_of_two_heads_is_their_arithmetic_mean_and_all_else_stays(heads, kv_heads):
    model = decoder(heads=heads, kv_heads=kv_heads, attention_bias=True, tied=False)
    child = group_model(model, 2)
    assert child.config == replace(model.config, kv_heads=2)
    state = model.state_dict()
    for name, tensor in child.state_dict().items():
        if not grouped(name):
            assert torch.equal(tensor, state[name])
            continue
        one, two, three, four = state[name].chunk(4)
        wanted = torch.cat([(one + two) / 2, (three + four) / 2])
        torch.testing.assert_close(tensor, wanted, atol=1e-7, rtol=1e-6)


def test_first_is_the_first_head_of_each_group():
    model = decoder(heads=6, width=48, attention_bias=True)
    state = model.state_dict()
    for name, tensor in group_model(model, 2, "first").state_dict().items():
        heads = state[name].chunk(6) if grouped(name) else None
        assert torch.equal(tensor, state[name] if heads is None else torch.cat([heads[0], heads[3]]))


def test_random_heads_start_as_in_a_new_model_and_follow_from_the_seed():
    model = decoder(heads=6, width=48, attention_bias=True, init="depth")
    child, again, other = (group_model(model, 3, "random", seed).state_dict() for seed in (4, 4, 5))
    new = Decoder(grouped_config(model.config, 3))
    initialise(new, 4)
    for name, tensor in child.items():
        assert torch.equal(tensor, again[name])
        assert torch.equal(tensor, (new if grouped(name) else model).get_parameter(name))
        assert torch.equal(tensor, other[name]) != name.endswith(("k_proj.weight", "v_proj.weight"))


def test_what_is_grouped_is_what_declares_key_value_heads():
    model = decoder(attention_bias=True)
    declaring = {name for name, axes in spaces(model).items() if any(axis.space == "kv_head" for axis in axes)}
    assert declaring == {name for name in model.state_dict() if grouped(name)}


@pytest.mark.parametrize("how", ["mean", "first"])
def test_as_many_groups_as_heads_is_the_identity(how):
    model = decoder(heads=4, kv_heads=2, width=48, family="pangu")
    found = dict(group_heads(model.state_dict().items(), model.config, 2, how))
    assert list(found) == list(model.state_dict())
    assert all(torch.equal(found[name], tensor) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize("how", WAYS)
def test_a_grouped_model_has_weights_of_its_own_of_its_parents_type(how):
    model = decoder(heads=4, width=48).bfloat16()
    child = group_model(model, 1, how)
    assert {parameter.dtype for parameter in child.parameters()} == {torch.bfloat16}
    theirs = {tensor.untyped_storage().data_ptr() for tensor in model.state_dict().values()}
    assert not theirs & {tensor.untyped_storage().data_ptr() for tensor in child.state_dict().values()}


@pytest.mark.parametrize("how", WAYS)
def test_only_one_tensor_is_held_and_none_is_read_ahead(how):
    shape = config(heads=4, width=48)
    living: list[weakref.ref[torch.Tensor]] = []

    def tensors():
        for name, size in shapes(shape).items():
            assert all(tensor() is None for tensor in living)
            pair = name, torch.zeros(size)
            living.append(weakref.ref(pair[1]))
            yield pair
            del pair

    read = group_heads(tensors(), shape, 1, how)
    assert not living
    found = {}
    for name, tensor in read:
        found[name] = tuple(tensor.shape)
        assert len(living) == len(found)
        del tensor
    assert found == shapes(grouped_config(shape, 1))


@pytest.mark.parametrize("groups", [0, -2, 4, 5, 12])
def test_groups_of_unequal_size_are_refused_with_those_that_can_be(groups):
    shape = config(heads=6, width=48)
    with pytest.raises(ModelError, match=f"6 key-value heads .* {groups} groups") as caught:
        group_heads(iter(()), shape, groups)
    assert caught.value.where == "kv_heads"
    assert caught.value.mend == "ask for 1 or 2 or 3 or 6"


def test_an_unknown_way_and_a_foreign_tensor_are_refused():
    shape = config(heads=6, width=48)
    with pytest.raises(ModelError, match="unknown way 'median'") as caught:
        group_heads(iter(()), shape, 2, "median")
    assert caught.value.mend == "one of mean, first, random"
    name = "model.layers.0.self_attn.k_proj.weight"
    with pytest.raises(ModelError, match="its shape is") as caught:
        list(group_heads([(name, torch.zeros(40, 48))], shape, 2))
    assert caught.value.where == name

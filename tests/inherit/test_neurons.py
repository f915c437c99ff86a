"""Scores by magnitude against groups written down by hand; choices against sorting."""

from __future__ import annotations

import math
import weakref
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from neuron_support import SHAPES, SPACES, by_hand, check, decoder, ids, kill

from lilliput.errors import ConfigError, ModelError
from lilliput.inherit import neurons
from lilliput.inherit.neurons import Scores, choose, scores_of
from lilliput.model import Decoder
from lilliput.model.carve import carve_model, take, whole
from lilliput.model.spaces import PARENT, declared, shapes

POWER = {"l1": 1, "l2": 2}


def magnitudes(model: Decoder, how: str) -> dict[str, np.ndarray]:
    state = model.state_dict()
    return by_hand(model, lambda name: state[name].double().abs().numpy() ** POWER[how])


@pytest.mark.parametrize("how", POWER)
@pytest.mark.parametrize("changes", SHAPES.values(), ids=SHAPES)
def test_magnitudes_are_those_of_the_groups_by_hand(changes: dict[str, Any], how: str) -> None:
    model = decoder(**changes)
    check(scores_of(model.state_dict().items(), model.config, how), magnitudes(model, how))


def test_every_weight_of_a_neuron_counts_once() -> None:
    """A model of ones: the score is the number of weights."""
    model = decoder(attention_bias=True, mlp_bias=True)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(-1)
    found = scores_of(model.state_dict().items(), model.config, "l1")
    assert set(found.ffn.flatten()) == {3 * 12 + 2}
    # A key-value head of two query heads of four: k, v, q of 4, 4, 8 rows, o of 8 columns; biases of q, k and v.
    assert set(found.kv_head.flatten()) == {12 * (4 + 4 + 8 + 8) + 16}
    # Embedding, last norm; two layers of q, k, v, o, gate, up, down, two norms, two biases.
    assert set(found.hidden) == {23 + 1 + 2 * (16 + 8 + 8 + 16 + 3 * 10 + 2 + 2)}
    assert found.layers.sum() == model.config.parameters() - 23 * 12 - 12


@settings(max_examples=12, deadline=None)
@given(st.sampled_from([torch.float64, torch.float32, torch.bfloat16, torch.float16]), st.integers(1, 99), st.data())
def test_any_type_order_and_size_of_parts_is_the_same(dtype: torch.dtype, elements: int, data: st.DataObject) -> None:
    model = decoder().to(dtype)
    state = model.state_dict()
    tensors = data.draw(st.permutations(list(state.items())))
    with pytest.MonkeyPatch.context() as patch:
        first = scores_of(state.items(), model.config, "l2")
        second = scores_of(tensors, model.config, "l2")
        assert all(np.array_equal(getattr(first, space), getattr(second, space)) for space in SPACES)
        patch.setattr(neurons, "_ELEMENTS", elements)
        check(scores_of(tensors, model.config, "l2"), magnitudes(model, "l2"))


def test_only_one_tensor_is_held() -> None:
    config = decoder().config
    living: list[weakref.ref[torch.Tensor]] = []

    def tensors():
        for name, size in shapes(config).items():
            assert all(tensor() is None for tensor in living)
            tensor = torch.ones(size)
            living.append(weakref.ref(tensor))
            pair = name, tensor
            del tensor
            yield pair
            del pair

    scores_of(tensors(), config, "l1")
    assert len(living) == len(shapes(config))


def test_tensors_of_another_model_are_refused_by_name() -> None:
    model = decoder()
    state = model.state_dict()
    up = "model.layers.1.mlp.up_proj.weight"
    cases = {
        "missing": {name: tensor for name, tensor in state.items() if name != up},
        "no such tensor": {**state, "lm_head.weight": state["model.embed_tokens.weight"]},
        "shape": {**state, up: state[up][:-1]},
        "not finite": {**state, up: state[up] * math.nan},
    }
    for message, tensors in cases.items():
        with pytest.raises(ModelError, match=message) as caught:
            scores_of(tensors.items(), model.config, "l1")
        assert caught.value.mend
    with pytest.raises(ModelError, match="twice"):
        scores_of([*state.items(), (up, state[up])], model.config, "l1")
    with pytest.raises(ConfigError, match="l3"):
        scores_of(state.items(), model.config, "l3")


def test_random_scores_are_permutations_that_follow_from_seed_and_place() -> None:
    config = decoder(depth=3).config

    def unread():
        pytest.fail("a tensor was read")
        yield

    one, two = (scores_of(unread(), config, "random", seed) for seed in (0, 1))
    for found, size in [(one.hidden, 12), (one.layers, 3), *((row, 10) for row in one.ffn)]:
        assert sorted(found) == list(range(size))
    assert not np.array_equal(one.hidden, two.hidden)
    assert len({tuple(row) for row in one.ffn}) == 3
    deeper = scores_of(unread(), replace(config, depth=5, width=24), "random", 0)
    np.testing.assert_array_equal(deeper.ffn[:3], one.ffn)
    # The numbers themselves, so that no other machine or version chooses otherwise.
    assert one.hidden.tolist() == [8, 4, 10, 11, 1, 7, 9, 6, 5, 0, 3, 2]


def moved(model: Decoder, space: str, order: list[int]) -> Decoder:
    """The same function with the members of a space in another order."""
    config = model.config
    other = Decoder(config)
    members = {space: torch.tensor(order)}
    if space == "kv_head":
        each = config.heads // config.kv_heads
        members["head"] = (members[space][:, None] * each + torch.arange(each)).flatten()
        assert PARENT == {"head": "kv_head"}
    axes = declared(config)
    other.load_state_dict({name: take(tensor, axes[name], members) for name, tensor in model.state_dict().items()})
    return other


@settings(max_examples=15, deadline=None)
@given(st.sampled_from(sorted(SHAPES)), st.sampled_from(["hidden", "ffn", "kv_head"]), st.data())
def test_moving_members_moves_their_scores(shape: str, space: str, data: st.DataObject) -> None:
    model = decoder(**SHAPES[shape])
    size = {"hidden": 12, "ffn": 10, "kv_head": model.config.kv_heads}[space]
    order = data.draw(st.permutations(range(size)))
    other = moved(model, space, order)
    torch.testing.assert_close(other(ids(2, 9)), model(ids(2, 9)), atol=1e-4, rtol=1e-4)
    for how in POWER:
        before, after = (scores_of(one.state_dict().items(), model.config, how) for one in (model, other))
        wanted = {name: getattr(before, name) for name in SPACES}
        check(after, {**wanted, space: wanted[space][..., order]})


@given(st.floats(0.1, 10), st.integers(0, 1), st.integers(0, 9))
@settings(max_examples=20, deadline=None)
def test_a_neuron_scaled_up_and_down_keeps_the_function_and_changes_its_magnitude(c: float, layer: int, j: int) -> None:
    model = decoder()
    other = decoder()
    mlp = other.model.layers[layer].mlp
    with torch.no_grad():
        mlp.up_proj.weight[j] *= c
        mlp.down_proj.weight[:, j] /= c
        torch.testing.assert_close(other(ids(2, 9)), model(ids(2, 9)), atol=1e-4, rtol=1e-4)
    parts = model.model.layers[layer].mlp
    weights = (parts.gate_proj.weight[j], parts.up_proj.weight[j], parts.down_proj.weight[:, j])
    for how, p in POWER.items():
        gate, up, down = (float(part.detach().double().abs().pow(p).sum()) for part in weights)
        before, after = (scores_of(one.state_dict().items(), model.config, how) for one in (model, other))
        assert after.ffn[layer, j] == pytest.approx(gate + c**p * up + down / c**p, rel=1e-5)
        others = np.arange(10) != j
        np.testing.assert_array_equal(after.ffn[layer, others], before.ffn[layer, others])


@pytest.mark.parametrize("how", POWER)
@pytest.mark.parametrize("changes", SHAPES.values(), ids=SHAPES)
def test_what_is_dead_goes_first(changes: dict[str, Any], how: str) -> None:
    model = decoder(**changes)
    config = model.config
    kill(model, "ffn", 1, 4)
    kill(model, "hidden", 7)
    if config.kv_heads > 1:
        kill(model, "kv_head", 0, 1)
    scores = scores_of(model.state_dict().items(), config, how)
    assert scores.ffn[1, 4] == scores.hidden[7] == 0
    kept = choose(scores, replace(config, heads=1, kv_heads=1), range(2), hidden=11, ffn=9, kv_heads=1)
    assert kept.hidden == (0, 1, 2, 3, 4, 5, 6, 8, 9, 10, 11)
    assert kept.ffn[1] == (0, 1, 2, 3, 5, 6, 7, 8, 9)
    if config.kv_heads > 1:
        assert scores.kv_head[0].argmin() == 1


@pytest.mark.parametrize("changes", SHAPES.values(), ids=SHAPES)
def test_the_child_without_dead_neurons_and_heads_is_the_same_function(changes: dict[str, Any]) -> None:
    model = decoder(**changes)
    config = model.config
    for layer, j in ((0, 2), (0, 9), (1, 0), (1, 4)):
        kill(model, "ffn", layer, j)
    heads = max(1, config.kv_heads // 2)
    for layer in range(2) if config.kv_heads > 1 else ():
        for head in range(heads):
            kill(model, "kv_head", layer, (head + layer) % config.kv_heads)
    scores = scores_of(model.state_dict().items(), config, "l2")
    kept = choose(scores, config, (0, 1), hidden=12, ffn=8, kv_heads=heads)
    with torch.no_grad():
        found, wanted = carve_model(model, kept)(ids(3, 12)), model(ids(3, 12))
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-5)


def test_the_child_without_dead_channels_is_the_same_function_but_for_its_norms() -> None:
    """Its norms take the mean over 8 channels where the parent's takes it over 12 of which 4 are zero: with weights
    and ε set for that, the logits are equal."""
    model = decoder(attention_bias=True, mlp_bias=True)
    for channel in (0, 3, 5, 11):
        kill(model, "hidden", channel)
    scores = scores_of(model.state_dict().items(), model.config, "l1")
    kept = choose(scores, model.config, (0, 1), hidden=8, ffn=10, kv_heads=2)
    assert kept.hidden == (1, 2, 4, 6, 7, 8, 9, 10)
    child = carve_model(model, kept)
    norms = [child.model.norm]
    for layer in child.model.layers:
        norms += [layer.input_layernorm, layer.post_attention_layernorm]
    with torch.no_grad():
        for norm in norms:
            norm.weight *= math.sqrt(12 / 8)
            norm.eps *= 12 / 8
        torch.testing.assert_close(child(ids(3, 12)), model(ids(3, 12)), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("how", neurons.HOWS)
@pytest.mark.parametrize("changes", SHAPES.values(), ids=SHAPES)
def test_choosing_everything_is_the_whole_model(changes: dict[str, Any], how: str) -> None:
    model = decoder(**changes)
    config = model.config
    scores = scores_of(model.state_dict().items(), config, how)
    kept = choose(scores, config, range(2), hidden=12, ffn=10, kv_heads=config.kv_heads)
    assert kept == whole(config)


CONFIG = decoder(depth=4, width=24, heads=4, kv_heads=2).config


@st.composite
def all_scores(draw: st.DrawFn) -> Scores:
    """Few values, so that many are equal."""
    each = st.integers(0, 3).map(float)
    return Scores(
        *(
            np.array(draw(st.lists(each, min_size=math.prod(size), max_size=math.prod(size)))).reshape(size)
            for size in ((24,), (4, 10), (4, 2), (4,))
        )
    )


@settings(max_examples=60, deadline=None)
@given(all_scores(), st.sampled_from([4, 8, 12, 24]), st.integers(1, 10), st.integers(1, 2), st.data())
def test_the_highest_are_kept_of_equal_ones_the_first(
    scores: Scores, hidden: int, ffn: int, kv_heads: int, data: st.DataObject
) -> None:
    layers = sorted(data.draw(st.sets(st.integers(0, 3), min_size=1)))
    kept = choose(scores, CONFIG, layers, hidden=hidden, ffn=ffn, kv_heads=kv_heads)

    def best(row: np.ndarray, count: int) -> tuple[int, ...]:
        return tuple(sorted(sorted(range(len(row)), key=lambda number: (-row[number], number))[:count]))

    assert kept.layers == tuple(layers)
    assert kept.vocab is None
    assert kept.hidden == best(scores.hidden, hidden)
    assert kept.ffn == tuple(best(scores.ffn[layer], ffn) for layer in layers)
    assert kept.kv_head == tuple(best(scores.kv_head[layer], kv_heads) for layer in layers)


ASKED = {"kept_layers": (0, 1), "hidden": 24, "ffn": 10, "kv_heads": 2}


@pytest.mark.parametrize(
    ("changes", "where", "mend"),
    [
        ({"hidden": 25}, "hidden", "1 to 24"),
        ({"hidden": 0}, "hidden", "1 to 24"),
        ({"ffn": 11}, "ffn", "1 to 10"),
        ({"ffn": 0}, "ffn", "1 to 10"),
        ({"kv_heads": 3}, "kv_heads", "1 to 2"),
        ({"kv_heads": -1}, "kv_heads", "1 to 2"),
        ({"kept_layers": ()}, "layers", "0 to 3"),
        ({"kept_layers": (0, 4)}, "layers", "0 to 3"),
        ({"kept_layers": (2, 1)}, "layers", "0 to 3"),
        ({"hidden": 22}, "hidden", "hidden=20, or kv_heads=1 (heads=2)"),
        ({"hidden": 23}, "hidden", "hidden=24"),
        ({"hidden": 1}, "hidden", "hidden=4"),
    ],
)
def test_what_cannot_be_kept_is_refused_with_the_nearest(changes: dict[str, Any], where: str, mend: str) -> None:
    scores = scores_of((), CONFIG, "random")
    asked = {**ASKED, **changes}
    with pytest.raises(ConfigError) as caught:
        choose(scores, CONFIG, asked.pop("kept_layers"), **asked)
    assert caught.value.where == where
    assert caught.value.mend is not None
    assert mend in caught.value.mend
    assert choose(scores, CONFIG, **ASKED).layers == (0, 1)


def test_a_width_that_heads_do_not_divide_is_fine_where_transformers_takes_it() -> None:
    model = decoder(model_type="qwen3", qk_norm=True)
    scores = scores_of(model.state_dict().items(), model.config, "l2")
    kept = choose(scores, model.config, (0,), hidden=11, ffn=10, kv_heads=2)
    assert carve_model(model, kept)(ids(1, 5)).shape == (1, 5, 23)

"""The search gives shapes that keep the budget, use it, and refuse what cannot be."""

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lilliput.errors import ConfigError
from lilliput.model.decoder import Decoder
from lilliput.plan.cost import weight_bytes
from lilliput.plan.limits import limits_of
from lilliput.plan.prior import fit
from lilliput.plan.reasons import reasons
from lilliput.plan.rules import MAX_SHARE, describe, table_share
from lilliput.plan.search import derive_shape, fill, search
from lilliput.plan.shapes import Frame
from lilliput.recipe import Recipe, build_recipe


def recipe(**model: object) -> Recipe:
    params = model.pop("params", "1M")
    vocab = model.pop("vocab", None)
    return build_recipe(
        {"budget": {"params": params}, "model": model, "tokenizer": {"vocab_size": vocab}}, where="test"
    )


@settings(max_examples=60, deadline=None)
@given(st.integers(100_000, 2_000_000_000))
def test_every_budget_is_kept_and_used(params: int) -> None:
    shape = derive_shape(recipe(params=params))
    assert 0.85 * params <= shape.parameters() <= params
    assert shape.width % shape.heads == 0
    assert shape.head_dim % 2 == 0
    assert shape.vocab_size % 64 == 0
    assert table_share(shape) <= 1.25 * MAX_SHARE


@settings(max_examples=20, deadline=None)
@given(st.integers(100_000, 3_000_000), st.booleans())
def test_the_counted_parameters_are_the_built_models(params: int, biases: bool) -> None:
    shape = derive_shape(recipe(params=params, biases=biases))
    assert sum(p.numel() for p in Decoder(shape).parameters()) == shape.parameters()


def test_what_is_fixed_stays() -> None:
    shape = derive_shape(recipe(params="10M", width=256, depth=4, heads=8, kv_heads=2, expansion=4, vocab=4096))
    assert (shape.width, shape.depth, shape.heads, shape.kv_heads, shape.ffn) == (256, 4, 8, 2, 1024)
    assert shape.vocab_size == 4096


@pytest.mark.parametrize("asked", [{"kv_heads": 2}, {"kv_heads": 4}, {"head_dim": 64}, {"head_dim": 48}, {"heads": 5}])
def test_one_fixed_dimension_leaves_shapes_that_fit(asked: dict[str, object]) -> None:
    shape = derive_shape(recipe(**asked))
    assert all(getattr(shape, name) == value for name, value in asked.items())


def test_a_known_vocabulary_is_used() -> None:
    assert derive_shape(recipe(), vocab_size=777).vocab_size == 777


@pytest.mark.parametrize(
    ("asked", "where"),
    [
        ({"width": 130, "heads": 4}, "model.heads"),
        ({"heads": 6, "kv_heads": 4}, "model.kv_heads"),
        ({"head_dim": 33}, "model.head_dim"),
        ({"width": 4096}, "budget.params"),
        ({"depth": 500}, "budget.params"),
        ({"vocab": 900_000}, "budget.params"),
    ],
)
def test_the_impossible_is_refused_with_a_way_out(asked: dict[str, object], where: str) -> None:
    with pytest.raises(ConfigError) as caught:
        derive_shape(recipe(**asked))
    assert caught.value.where == where
    assert caught.value.mend


def test_the_named_least_budget_does_fit() -> None:
    with pytest.raises(ConfigError) as caught:
        derive_shape(recipe(width=512))
    need = int(str(caught.value.mend).split("=")[1].split()[0])
    assert derive_shape(recipe(width=512, params=need)).parameters() <= need


@pytest.mark.parametrize("width", [256, 512])
def test_a_narrower_width_that_does_not_fit_hides_no_wider_one(width: int) -> None:
    """At 4 bits a width that 256 divides takes fewer bytes than the one before it."""
    asked = {"model": {"depth": 24}, "tokenizer": {"vocab_size": 16384}, "budget": {"bytes": 10**9, "bits": 4}}
    frame = Frame(build_recipe(asked, where="test"), width, size=10_000_000, vocab=16384)
    least = weight_bytes(frame.shape(24, 2 * width), 4)
    found = search(build_recipe({**asked, "budget": {"bytes": least, "bits": 4}}, where="test"))
    assert width in {one.shape.width for one in found}


@settings(max_examples=25, deadline=None)
@given(
    st.integers(60_000, 2_500_000), st.sampled_from([48, 64, 96, 160, 192, 256, 320]), st.sampled_from([16, 8, 4])
)
def test_no_larger_feed_forward_would_have_fitted(size: int, width: int, bits: int) -> None:
    """At 4 bits 512 can take fewer bytes than 480: against trying them all."""
    asked = build_recipe({"budget": {"bytes": size, "bits": bits}}, where="test")
    frame = Frame(asked, width, size=int(size / 0.5625), vocab=None)
    found = {one.depth: one.ffn for one in fill(frame.shape, frame.ffn_sizes(), limits_of(asked.budget, None))}
    fits = {
        depth: [ffn for ffn in frame.ffn_sizes() if weight_bytes(frame.shape(depth, ffn), bits) <= size]
        for depth in range(1, 2 + max(found, default=1))
    }
    assert {depth: max(fits[depth]) for depth in found} == found
    assert max(found, default=0) == max((depth for depth, sizes in fits.items() if sizes), default=0)
    if found:
        assert 1 in found or found[min(found)] == frame.ffn_sizes()[-1]


def test_a_larger_feed_forward_in_fewer_bytes_is_not_missed() -> None:
    asked = build_recipe({"budget": {"bytes": 10**9, "bits": 4}}, where="test")
    frame = Frame(asked, 192, size=3_000_000, vocab=4096)
    larger, smaller = (weight_bytes(frame.shape(8, ffn), 4) for ffn in (768, 736))
    assert larger < smaller
    tight = build_recipe({"budget": {"bytes": larger, "bits": 4}}, where="test")
    found = {one.depth: one.ffn for one in fill(frame.shape, frame.ffn_sizes(), limits_of(tight.budget, None))}
    assert found[8] == 768


def test_limits_that_only_give_way_together_are_named_together() -> None:
    asked = {"budget": {"params": "1M", "bytes": "100kB", "bits": 8}, "model": {"depth": 12, "width": 256}}
    with pytest.raises(ConfigError, match="1,000,000 parameters and 100,000 bytes") as caught:
        derive_shape(build_recipe(asked, where="test"))
    found = dict(part.split("=") for part in re.findall(r"budget\.\w+=\d+", str(caught.value.mend)))
    asked["budget"] |= {name.removeprefix("budget."): int(value) for name, value in found.items()}
    assert set(found) == {"budget.params", "budget.bytes"}
    derive_shape(build_recipe(asked, where="test"))
    # None of them could be much stricter.
    asked["budget"]["params"] = round(0.97 * asked["budget"]["params"])
    with pytest.raises(ConfigError):
        derive_shape(build_recipe(asked, where="test"))


@pytest.mark.parametrize("heads", [3, 5, 7, 11])
def test_heads_of_odd_number_leave_sensible_shapes(heads: int) -> None:
    """Where multiples of 32 that the heads divide are all too wide, other widths are looked at."""
    shape = search(recipe(heads=heads), prior=fit([]))[0].shape
    assert shape.heads == heads
    assert shape.depth >= 3


def test_a_vocabulary_follows_the_size_that_four_bits_leave() -> None:
    asked = build_recipe({"budget": {"bytes": "2MB", "bits": 4}}, where="test")
    assert all(table_share(one.shape) <= 1.25 * MAX_SHARE for one in search(asked))


def test_one_is_one() -> None:
    shape = derive_shape(recipe(params="100k", depth=1, width=32, heads=1))
    assert describe(shape).startswith("1 layer × 32, 1 head × 32, ")
    assert "depth: 1 layer of width 32" in reasons(shape)[0]
    with pytest.raises(ConfigError, match="width 33 with 1 head leaves"):
        derive_shape(recipe(params="100k", width=33, heads=1))


@pytest.mark.parametrize("expansion", [0.001, 0.01, 0.24])
def test_a_feed_forward_of_next_to_nothing_is_refused(expansion: float) -> None:
    with pytest.raises(ConfigError) as caught:
        derive_shape(recipe(expansion=expansion))
    assert caught.value.where == "model.expansion"
    assert "0.25" in str(caught.value.mend)
    assert derive_shape(recipe(expansion=0.25)).ffn >= 4


def test_a_narrow_deep_model_keeps_the_usual_expansion() -> None:
    shape = derive_shape(recipe(params="20M", depth=300, width=32))
    assert 2 <= shape.ffn / shape.width <= 4


def test_the_description_names_the_shape() -> None:
    shape = derive_shape(recipe())
    assert f"{shape.depth} layers × {shape.width}, {shape.heads} heads" in describe(shape)

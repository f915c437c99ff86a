"""The arms of a ladder have equal parameters, the base the paper's proportions, and the teacher holds its child."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lilliput.errors import ConfigError
from lilliput.lab.ladder.ask import read_ask
from lilliput.lab.ladder.shapes import (
    BASE_SHARE,
    SMALLER,
    TOLERANCE,
    base_shape,
    best_shape,
    compact_size,
    half,
    holds,
    planned_shape,
    shallow_shape,
    teacher_shape,
)
from lilliput.plan.child import Target, child_shape
from lilliput.plan.rules import table_share
from lilliput.recipe import Recipe


def recipe(*words: str) -> Recipe:
    return read_ask("tiny", list(words)).recipe


@settings(max_examples=15, deadline=None)
@given(st.integers(40_000, 12_000_000))
def test_arms_of_any_budget_have_equal_parameters_and_the_papers_proportions(params: int) -> None:
    asked = recipe(f"budget.params={params}")
    planned = planned_shape(asked, compact_size(asked))
    base = base_shape(planned, None)
    shallow = shallow_shape(planned, base.depth)
    for shape in (base, shallow):
        assert abs(shape.parameters() - planned.parameters()) <= TOLERANCE * planned.parameters()
        assert shape.depth == half(planned.depth)
    assert base.vocab_size * SMALLER >= planned.vocab_size == shallow.vocab_size
    assert abs(table_share(base) - BASE_SHARE) < 0.025
    teacher = teacher_shape(asked, planned, 4)
    assert holds(teacher, planned)
    assert 2.5 < teacher.parameters() / planned.parameters() <= 4.3
    dims = {"layers": planned.depth, "hidden": planned.width, "heads": planned.heads, "ffn": planned.ffn}
    assert child_shape(teacher, Target(**dims)).parameters() == planned.parameters()


def test_groups_of_heads_and_blocks_of_another_family_go_along() -> None:
    grouped = recipe("budget.params=1M", "model.heads=4", "model.kv_heads=2", "model.width=128")
    planned = planned_shape(grouped, 1024)
    base, teacher = base_shape(planned, None), teacher_shape(grouped, planned, 4)
    assert base.heads == 2 * base.kv_heads
    assert holds(teacher, planned)
    assert teacher.heads == 2 * teacher.kv_heads
    pangu = recipe("budget.params=1M", "model.family=pangu")
    planned = planned_shape(pangu, 1024)
    assert base_shape(planned, None).family == teacher_shape(pangu, planned, 4).family == "pangu"


def test_a_tokenizer_that_exists_is_taken_whole_where_it_fits_and_cut_where_it_does_not() -> None:
    planned = planned_shape(recipe("budget.params=1M"), 2048)
    assert base_shape(planned, 3000, whole=True).vocab_size == 3000
    cut = base_shape(planned, 32_000, whole=True)
    assert cut.vocab_size < 32_000
    assert abs(table_share(cut) - BASE_SHARE) < 0.02
    with pytest.raises(ConfigError, match="the tokenizer has 2,100"):
        base_shape(planned, 2100, whole=True)


def test_what_the_recipe_fixes_is_the_architecture_and_the_planners_best_stands_beside_it() -> None:
    free = recipe("budget.params=1M")
    planned = planned_shape(free, None)
    assert best_shape(free, planned, 30_000) == planned
    fixed = recipe("budget.params=1M", "model.width=64")
    planned = planned_shape(fixed, None)
    best = best_shape(fixed, planned, 30_000)
    assert planned.width == 64
    assert best != planned
    assert best.parameters() <= planned.parameters()
    assert best_shape(fixed, planned, best.vocab_size - 1).vocab_size == planned.vocab_size


def test_a_planned_shape_that_leaves_no_ladder_is_refused() -> None:
    with pytest.raises(ConfigError, match="one layer"):
        planned_shape(recipe("budget.params=1M", "model.depth=1"), None)
    with pytest.raises(ConfigError, match="20,000 at least"):
        planned_shape(recipe("budget.params=40k", "model.depth=3"), None)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["inherit.teacher=runs/x"], "trains its own teacher"),
        (["from=runs/x"], "begins from nothing"),
        (["rounds.count=1"], "several rounds"),
        (["inherit.neurons=thorough"], "inherit.neurons"),
        (["inherit.neuron=l2"], "inherit.neurons"),
    ],
)
def test_what_no_ladder_can_be_made_of_is_refused(words: list[str], message: str) -> None:
    with pytest.raises(ConfigError) as refused:
        read_ask("tiny", words)
    assert message in str(refused.value)


@pytest.mark.parametrize(
    ("options", "where"),
    [
        ({"rates": (0.5, 0.5)}, "--rates"),
        ({"rates": (0.0,)}, "--rates"),
        ({"teacher_size": 1.0}, "--teacher-size"),
        ({"teacher_bytes": 0.0}, "--teacher-bytes"),
        ({"tasks": ("blimp",)}, "--task"),
        ({"seeds": 0}, "--seeds"),
    ],
)
def test_options_that_make_no_sense_are_refused(options: dict[str, object], where: str) -> None:
    with pytest.raises(ConfigError) as refused:
        read_ask("tiny", [], **options)
    assert refused.value.where == where


def test_the_demo_is_a_small_ladder_and_says_so() -> None:
    ask = read_ask("demo", ["train.tokens=5k"])
    assert ask.rates == (1.0,)
    assert ask.recipe.train.tokens == 5000
    assert "demo scale" in ask.notes[0]

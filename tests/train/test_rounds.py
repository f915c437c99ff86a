"""Which steps are whose, which units are whose, and what cannot be."""

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from train_support import settings

from lilliput.errors import ConfigError
from lilliput.train.order import permute, reading
from lilliput.train.rounds import Plan, Rounds


def rounds(**changes: object) -> Rounds:
    asked = {"count": 2, "rate": 0.5, "parts": 3, "weighting": "loss", "temperature": 1.0, "unit": "batch", **changes}
    return Rounds(**asked)  # type: ignore[arg-type]


ROUNDS = st.builds(
    rounds,
    count=st.integers(2, 6),
    rate=st.floats(0.01, 1),
    parts=st.integers(1, 9),
    unit=st.sampled_from(["batch", "sequence"]),
)


@given(asked=ROUNDS, steps=st.integers(1, 400), batch=st.integers(1, 20))
@hypothesis_settings(max_examples=100, deadline=None)
def test_rounds_share_the_horizon_and_never_draw_more_than_there_is(asked: Rounds, steps: int, batch: int) -> None:
    ends = asked.ends(steps)
    lengths = np.diff([0, *ends])
    # The tokens of all rounds are the horizon's, to the step.
    assert lengths.sum() == steps
    assert (len(ends), ends[-1]) == (asked.count, steps)
    assert np.all(lengths[1:] <= lengths[0])
    assert np.all(np.abs(lengths[1:] - asked.rate * lengths[0]) <= asked.rate + 1)
    try:
        asked.check(steps, batch, 10**9)
    except ConfigError:
        assume(False)
    plan = Plan(asked, steps, batch, 16, 0)
    sizes = np.diff(plan.parts)
    assert plan.parts[-1] == plan.units
    assert sizes.max() - sizes.min() <= 1
    for number in range(1, asked.count):
        quotas = plan.quotas(number)
        assert quotas.sum() * plan.unit == lengths[number] * batch
        assert np.all(quotas <= sizes)
        assert np.all(np.abs(quotas - sizes * quotas.sum() / plan.units) <= 1)
    belongs = [asked.of(step, steps) for step in range(steps)]
    assert np.array_equal(np.bincount(belongs), lengths)


def test_two_rounds_at_half_are_two_thirds_and_one() -> None:
    assert rounds().ends(300) == (200, 300)
    assert rounds(count=3).ends(400) == (200, 300, 400)
    assert rounds(rate=1.0).ends(7) == (4, 7)
    assert rounds(count=3, rate=1.0).ends(7) == (3, 5, 7)
    assert rounds(rate=0.25).ends(500) == (400, 500)


@pytest.mark.parametrize(
    ("changes", "steps", "windows", "expected", "where"),
    [
        ({}, 1, 1000, "too short", "rounds.count"),
        ({"count": 6}, 5, 1000, "too short", "rounds.count"),
        ({"parts": 9}, 20, 1000, "not one of each of 9 parts", "rounds.parts"),
        ({"parts": 200, "unit": "sequence"}, 20, 1000, "40 windows|36 windows", "rounds.parts"),
        ({"parts": 2}, 300, 100, "more than the whole corpus", "rounds.parts"),
    ],
)
def test_rounds_that_cannot_be_are_refused(changes, steps, windows, expected, where) -> None:
    with pytest.raises(ConfigError, match=expected) as caught:
        rounds(**changes).check(steps, 6, windows)
    assert caught.value.where == where
    assert caught.value.mend


def test_fresh_text_needs_no_more_than_a_run_does() -> None:
    rounds(weighting="fresh", parts=2).check(300, 6, 100)


@pytest.mark.parametrize(("steps", "context"), [(40, 16), (3000, 1024)])
def test_windows_that_are_followed_lie_in_every_part(steps: int, context: int) -> None:
    plan = Plan(rounds(parts=8), steps, 6, context, 0)
    places = plan.followed()
    read = plan.ends[0] * plan.batch
    assert np.array_equal(np.unique(places), places)
    assert 0 <= places[0] <= places[-1] < read
    shares = np.bincount(plan.part_of(places), minlength=8) / len(places)
    assert np.allclose(shares, 1 / 8, atol=0.05)
    assert len(places) <= read


def test_a_reading_goes_on_through_the_epochs() -> None:
    whole = reading(np.arange(250), 100, 7)
    assert np.array_equal(whole[:100], permute(np.arange(100), 100, 7, 0, 0))
    assert np.array_equal(whole[100:200], permute(np.arange(100), 100, 7, 0, 1))
    some = np.array([240, 3, 199, 100])
    assert np.array_equal(reading(some, 100, 7), whole[some])


def test_settings_without_rounds_are_written_as_ever() -> None:
    plain = settings()
    assert "rounds" not in plain.to_dict()
    asked = settings(rounds=rounds())
    assert type(asked).from_dict(asked.to_dict()) == asked
    assert type(plain).from_dict(plain.to_dict()) == plain

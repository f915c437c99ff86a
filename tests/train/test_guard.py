import math

import pytest

from lilliput.train.guard import MAX_SKIPS, Guard


def settled(loss: float = 3.0) -> Guard:
    guard = Guard()
    for _ in range(50):
        assert guard.accept(loss, 1.0)
    return guard


@pytest.mark.parametrize(
    ("loss", "norm"), [(math.nan, 1.0), (math.inf, 1.0), (3.0, math.nan), (3.0, math.inf), (50.0, 1.0), (3.0, 1e4)]
)
def test_steps_that_would_do_harm_are_left_out(loss: float, norm: float) -> None:
    guard = settled()
    before = guard.loss
    assert not guard.accept(loss, norm)
    assert (guard.skipped, guard.in_a_row, guard.loss) == (1, 1, before)
    assert guard.accept(3.1, 1.2)
    assert (guard.skipped, guard.in_a_row) == (1, 0)


def test_ordinary_noise_and_a_falling_loss_pass() -> None:
    guard = Guard()
    for step in range(500):
        assert guard.accept(9 * math.exp(-step / 100) + 0.5 * (step % 7), 1 + step % 5)
    assert guard.skipped == 0


def test_the_first_steps_may_be_large() -> None:
    guard = Guard()
    assert guard.accept(11.0, 500.0)
    assert guard.accept(30.0, 1.0)


def test_a_few_in_a_row_mean_lost() -> None:
    guard = settled()
    for _ in range(MAX_SKIPS - 1):
        guard.accept(math.nan, 1.0)
        assert not guard.lost()
    guard.accept(math.nan, 1.0)
    assert guard.lost()


def test_going_back_takes_the_means_of_then_and_keeps_the_counts() -> None:
    then = settled(5.0).to_dict()
    guard = settled(3.0)
    for _ in range(MAX_SKIPS):
        guard.accept(math.nan, 1.0)
    guard.went_back(120, then)
    assert guard.loss == pytest.approx(5.0)
    assert (guard.skipped, guard.in_a_row, guard.returns, guard.trouble) == (MAX_SKIPS, 0, 1, 120)
    guard.passed(110)
    assert guard.returns == 1
    guard.passed(130)
    assert guard.returns == 0


def test_state_survives_json_exactly() -> None:
    import json

    guard = settled(math.pi)
    guard.accept(1 / 3, 1e-7)
    assert Guard.from_dict(json.loads(json.dumps(guard.to_dict()))) == guard

from itertools import pairwise

import pytest
from train_support import settings

from lilliput.train.schedule import learning_rate


def rates(**changes: object) -> list[float]:
    config = settings(**{"steps": 100, "lr": 1.0, "min_lr": 0.1, "warmup_steps": 10, **changes})
    return [learning_rate(config, step) for step in range(config.steps)]


def test_warm_up_is_linear_and_reaches_the_peak() -> None:
    assert rates()[:10] == pytest.approx([0.1 * k for k in range(1, 11)])


def test_cosine_falls_from_the_peak_to_the_last_rate() -> None:
    curve = rates(schedule="cosine")
    assert max(curve) == 1.0
    assert curve[-1] == pytest.approx(0.1)
    assert all(later <= earlier for earlier, later in pairwise(curve[9:]))
    assert curve[10 + 45] == pytest.approx(0.55, abs=0.02)


def test_wsd_is_flat_then_falls() -> None:
    curve = rates(schedule="wsd", decay_steps=20)
    assert set(curve[9:80]) == {1.0}
    assert curve[80] == pytest.approx(1 - 0.9 / 20)
    assert curve[-1] == pytest.approx(0.1)


def test_constant_stays() -> None:
    assert set(rates(schedule="constant")[9:]) == {1.0}


@pytest.mark.parametrize("schedule", ["cosine", "wsd", "constant"])
def test_a_run_of_one_step_has_a_rate(schedule: str) -> None:
    assert rates(schedule=schedule, steps=1, warmup_steps=0, decay_steps=1)[0] > 0

"""Tokens to equal loss: read off curves, charged with what came before, judged."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lilliput.lab.reach import reach, tokens_to
from lilliput.lab.spec import Reach


def cell(curve: list[list[float]], flops: float = 100.0, **more: Any) -> dict[str, Any]:
    """A finished cell as far as `reach` looks at it: 10 steps of 100 tokens, of which 2 decay."""
    config = {"schedule": "wsd", "steps": 10, "decay_steps": 2, "batch_sequences": 10, "context": 10}
    return {"held_out_curve": curve, "cost": {"config": config, "flops": flops, "tokens": 1000}, **more}


def power(level: float, points: tuple[int, ...] = (100, 200, 400, 800, 1000)) -> list[list[float]]:
    """A loss that falls with the logarithm of the tokens."""
    return [[point, level - math.log(point)] for point in points]


@given(st.floats(100, 1000))
def test_between_two_points_the_logarithm_of_the_tokens_is_read(tokens: float) -> None:
    assert tokens_to(power(10.0), 10.0 - math.log(tokens)) == pytest.approx(tokens, rel=1e-9)


def test_a_level_met_at_once_or_never() -> None:
    assert tokens_to(power(10.0), 9.9) == 100
    assert tokens_to(power(10.0), 0.0) is None
    assert tokens_to([], 1.0) is None


def test_the_ratio_and_its_interval_up_to_where_the_rate_falls() -> None:
    # At constant rates both curves end at 800 tokens; the arm is lower by ln 4 and ln 2, so 4 and 2 times as fast.
    found = {("slow", seed): cell(power(10.0)) for seed in (0, 1)}
    found |= {("fast", 0): cell(power(10.0 - math.log(4))), ("fast", 1): cell(power(10.0 - math.log(2)))}
    row = reach(Reach(arm="fast", versus="slow", at_least=1.5), found)
    assert [one["ratio"] for one in row["seeds"]] == pytest.approx([4, 2])
    assert row["ratio"]["value"] == pytest.approx(math.sqrt(8))
    assert row["ratio"]["low"] < 1.5 < row["ratio"]["high"]
    assert row["verdict"] == "inconclusive"
    same = {**found, ("fast", 1): found["fast", 0]}
    assert reach(Reach(arm="fast", versus="slow", at_least=3), same)["verdict"] == "supported"
    assert reach(Reach(arm="fast", versus="slow", at_least=5), same)["verdict"] == "not supported"
    assert reach(Reach(arm="fast", versus="slow"), same)["verdict"] is None


def test_an_arm_that_never_comes_so_far_gives_a_bound() -> None:
    found = {("slow", 0): cell(power(10.0)), ("fast", 0): cell(power(11.0))}
    row = reach(Reach(arm="fast", versus="slow", at_least=3), found)
    assert row["ratio"] is None
    assert row["seeds"][0]["below"] == 1
    assert row["verdict"] == "not supported"
    assert reach(Reach(arm="fast", versus="slow", at_least=0.5), found)["verdict"] == "inconclusive"
    assert reach(Reach(arm="fast", versus="none"), found)["verdict"] == "not measured"


def test_what_came_before_is_charged_in_flops() -> None:
    chosen = {"inherit": {"cost": {"flops": {"masks": 20.0, "layers": 10.0}}}, "teacher": {"flops": 50.0}}
    found = {("slow", 0): cell(power(10.0), 200.0), ("fast", 0): cell(power(10.0 - math.log(4)), 100.0, **chosen)}
    one = reach(Reach(arm="fast", versus="slow"), found)["seeds"][0]
    # 160 FLOPs of the slow arm's first 800 tokens; 20 of the fast one's first 200, and 30 and 80 before them.
    assert one["charged"] == pytest.approx({"choice": 160 / 50, "choice and teacher": 160 / 100})

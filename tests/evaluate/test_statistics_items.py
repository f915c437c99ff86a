"""Comparison by the items of a task: against SciPy and closed forms, and by counting how often it is right."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from lilliput.errors import ConfigError
from lilliput.evaluate.measured import ItemScores, Scores
from lilliput.evaluate.resampling import group_mean, item_error
from lilliput.evaluate.statistics import Effect, compare, summarise


def right(rng: np.random.Generator, chance: float, count: int) -> np.ndarray:
    return (rng.random(count) < chance).astype(float)


def alone(arm: np.ndarray, base: np.ndarray, **more: object) -> Effect:
    found = {("arm", 0): ItemScores(arm, **more), ("base", 0): ItemScores(base, **more)}
    return compare(found, "arm", "base")


def test_one_run_each_is_the_paired_interval_over_items() -> None:
    rng = np.random.default_rng(0)
    arm, base = right(rng, 0.62, 3000), right(rng, 0.58, 3000)
    found = alone(arm, base)
    paired = stats.ttest_rel(arm, base).confidence_interval(0.95)
    assert found.gain == pytest.approx(arm.mean() - base.mean(), abs=1e-12)
    assert (found.low, found.high) == pytest.approx(tuple(paired), abs=0.1 * (paired.high - paired.low))
    assert (found.dof, found.to_dict()["se_seed"]) == (0, None)


@given(st.integers(0, 40), st.integers(0, 40), st.integers(50, 400))
@settings(max_examples=40, deadline=None)
def test_the_error_is_that_of_discordant_pairs(first: int, second: int, rest: int) -> None:
    # McNemar's statistic is (b − c)/√(b + c); the Wald error divides by the variance at the difference found.
    count = first + second + rest
    difference = np.concatenate([np.ones(first), -np.ones(second), np.zeros(rest)])
    expected = math.sqrt(((first + second) / count - ((first - second) / count) ** 2) / count)
    assert item_error(difference) == pytest.approx(expected, rel=0.12)
    if abs(first - second) < 0.2 * count and first + second > 20:
        z = (first - second) / count / item_error(difference) if first != second else 0.0
        assert z == pytest.approx((first - second) / math.sqrt(first + second), rel=0.25, abs=0.3)


@given(st.permutations(list(range(60))), st.booleans())
@settings(max_examples=30, deadline=None)
def test_the_order_of_items_arms_and_seeds_changes_nothing(order: list[int], grouped: bool) -> None:
    rng = np.random.default_rng(1)
    names = [f"g{index % 7}" for index in range(60)]
    study = {(arm, seed): right(rng, 0.5, 60) for arm in ("base", "arm", "other") for seed in range(2)}

    def found(take: list[int], keys: list[tuple[str, int]]) -> Effect:
        groups = [names[index] for index in take] if grouped else None
        return compare({key: ItemScores(study[key][take], groups=groups) for key in keys}, "arm", "base")

    one, two = found(list(range(60)), list(study)), found(order, list(reversed(study)))
    assert one.to_dict() == pytest.approx(two.to_dict(), abs=1e-12)


def test_groups_are_resampled_within_and_weigh_alike() -> None:
    rng = np.random.default_rng(2)
    points = np.concatenate([right(rng, 0.9, 900), right(rng, 0.2, 30)])
    numbers = np.repeat([0, 1], [900, 30])
    assert group_mean(points, numbers) == pytest.approx((points[:900].mean() + points[900:].mean()) / 2)
    parts = [points[:900].std() / math.sqrt(900), points[900:].std() / math.sqrt(30)]
    assert item_error(points, numbers) == pytest.approx(math.hypot(*parts) / 2, rel=0.08)
    scored = ItemScores(points, groups=np.repeat(["many", "few"], [900, 30]).tolist())
    assert scored.value == pytest.approx(group_mean(points, numbers))


def test_numbers_of_any_kind_and_less_may_be_better() -> None:
    rng = np.random.default_rng(3)
    nats, worse = rng.gamma(2, 2, 400), rng.gamma(2, 2, 400) + 0.5
    found = alone(nats, worse, lower=True)
    assert found.gain == pytest.approx(worse.mean() - nats.mean())
    paired = stats.ttest_rel(worse, nats).confidence_interval(0.95)
    assert found.low == pytest.approx(paired.low, abs=0.05 * (paired.high - paired.low))


def test_comparison_covers_the_truth_as_often_as_it_says() -> None:
    """Simulated studies: items of different difficulty in groups, an effect of the seed, noise of each run."""
    rng = np.random.default_rng(4)
    names = np.repeat(["a", "b", "c", "d"], 150).tolist()
    hits, trials, truth = 0, 150, 0.03
    for _ in range(trials):
        hard = rng.normal(0, 0.1, 600)
        seeds = rng.normal(0, 0.02, 3)
        study = {}
        for arm, level in (("base", 0.6), ("arm", 0.6 + truth), ("other", 0.55)):
            for seed in range(3):
                chance = np.clip(level + hard + seeds[seed] + rng.normal(0, 0.01), 0, 1)
                study[arm, seed] = ItemScores((rng.random(600) < chance).astype(float), groups=names)
        found = compare(study, "arm", "base")
        hits += found.low <= truth <= found.high
    assert 0.91 <= hits / trials <= 1


def test_without_repeats_the_interval_covers_the_items() -> None:
    rng, hits, trials = np.random.default_rng(5), 0, 300
    for _ in range(trials):
        hard = rng.normal(0, 0.15, 800)
        arm, base = ((rng.random(800) < np.clip(level + hard, 0, 1)).astype(float) for level in (0.64, 0.6))
        found = alone(arm, base)
        hits += found.low <= 0.04 <= found.high
    assert 0.91 <= hits / trials <= 0.985


def test_the_three_words() -> None:
    same = np.array([1.0, 0.0, 1.0, 1.0])
    assert alone(same, same).outcome == "no difference shown"
    rng = np.random.default_rng(6)
    good, bad = right(rng, 0.7, 2000), right(rng, 0.5, 2000)
    assert alone(good, bad).outcome == "better"
    assert alone(bad, good).to_dict()["outcome"] == "worse"


def test_what_cannot_be_compared() -> None:
    points = np.ones(4)
    other = {("arm", 0): ItemScores(points, "one"), ("base", 0): ItemScores(points, "two")}
    with pytest.raises(ConfigError, match="same"):
        compare(other, "arm", "base")
    mixed = {("arm", 0): ItemScores(points), ("base", 0): Scores(points, points)}
    with pytest.raises(ConfigError, match="same"):
        compare(mixed, "arm", "base")
    assert item_error([1.0]) == 0.0


def test_levels_of_arms() -> None:
    rng = np.random.default_rng(7)
    found = summarise({("a", seed): ItemScores(right(rng, 0.6, 500)) for seed in range(3)})["a"]
    assert found.low < found.mean < found.high
    assert found.high - found.mean > 1.9 * math.sqrt(0.24 / 500)

"""Spearman's ρ against SciPy, its interval's coverage, and the verdicts on bounds."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from lilliput.errors import ConfigError
from lilliput.evaluate.correlation import Bound, Correlation, judge_correlation, slope, spearman

FEW = {"permutations": 200, "resamples": 200}
points = st.lists(st.tuples(st.integers(-5, 5), st.integers(-5, 5)), min_size=4, max_size=30)


@given(points)
@settings(max_examples=50, deadline=None)
def test_rho_is_scipys_with_ties(pairs: list[tuple[int, int]]) -> None:
    x, y = zip(*pairs, strict=True)
    if len(set(x)) == 1 or len(set(y)) == 1:
        with pytest.raises(ConfigError, match="one value only"):
            spearman(x, y, **FEW)
        return
    found = spearman(x, y, **FEW)
    assert found.rho == pytest.approx(stats.spearmanr(x, y).statistic, abs=1e-12)
    assert -1 <= found.low <= found.high <= 1
    assert 0 < found.p <= 1
    assert found.count == len(x)
    # Only the order counts, and turning it round turns the sign.
    assert spearman(np.exp(x), y, **FEW).rho == pytest.approx(found.rho, abs=1e-12)
    turned = spearman(x, [-value for value in y], **FEW)
    assert turned.rho == pytest.approx(-found.rho, abs=1e-12)


def test_p_is_that_of_scipys_permutations() -> None:
    rng = np.random.default_rng(3)
    x = rng.normal(size=9)
    y = x + rng.normal(size=9)

    def statistic(permuted: np.ndarray) -> float:
        return float(stats.spearmanr(permuted, y).statistic)

    theirs = stats.permutation_test((x,), statistic, permutation_type="pairings", n_resamples=4000, random_state=1)
    assert spearman(x, y).p == pytest.approx(theirs.pvalue, abs=0.015)
    # A perfect order of seven: 2 of 7! orders are as extreme.
    assert spearman(range(7), range(7)).p == pytest.approx(2 / 5040, abs=3e-4)


@pytest.mark.parametrize(("count", "r"), [(40, 0.6), (12, 0.0), (12, -0.91)])
def test_the_interval_covers_the_true_value(count: int, r: float) -> None:
    # Bivariate normal: Spearman's ρ is 6/π · arcsin(r/2).
    rng, hits = np.random.default_rng(5), 0
    truth = 6 / np.pi * np.arcsin(r / 2)
    for trial in range(200):
        x = rng.normal(size=count)
        y = r * x + np.sqrt(1 - r * r) * rng.normal(size=count)
        found = spearman(x, y, permutations=1, resamples=300, seed=trial)
        hits += found.low <= truth <= found.high
    assert 0.88 <= hits / 200 <= 0.99


def test_the_same_points_give_the_same_numbers() -> None:
    x, y = [1, 2, 3, 4, 5, 6], [2, 1, 4, 3, 6, 5]
    assert spearman(x, y) == spearman(x, y)
    assert spearman(x, x) == Correlation(1.0, 1.0, 1.0, spearman(x, x).p, 6)


def test_too_few_points() -> None:
    with pytest.raises(ConfigError, match="3 points"):
        spearman([1, 2, 3], [1, 2, 3])


@pytest.mark.parametrize(
    ("kind", "bound", "low", "high", "verdict"),
    [
        ("at_most", -0.5, -0.9, -0.5, "supported"),
        ("at_most", -0.5, -0.9, -0.4, "inconclusive"),
        ("at_most", -0.5, -0.4, 0.2, "not supported"),
        ("at_least", 0.5, 0.5, 0.9, "supported"),
        ("at_least", 0.5, 0.4, 0.9, "inconclusive"),
        ("at_least", 0.5, -0.1, 0.4, "not supported"),
        ("within", 0.3, -0.3, 0.3, "supported"),
        ("within", 0.3, -0.4, 0.2, "inconclusive"),
        ("within", 0.3, -0.8, 0.8, "inconclusive"),
        ("within", 0.3, 0.31, 0.9, "not supported"),
        ("within", 0.3, -0.9, -0.31, "not supported"),
    ],
)
def test_verdicts(kind: Bound, bound: float, low: float, high: float, verdict: str) -> None:
    assert judge_correlation(kind, bound, Correlation((low + high) / 2, low, high, 0.5, 9)) == verdict


@given(st.lists(st.tuples(st.integers(1, 50), st.floats(-5, 5)), min_size=4, max_size=12))
@settings(max_examples=40, deadline=None)
def test_the_slope_is_least_squares(points: list[tuple[int, float]]) -> None:
    x, y = [float(one) for one, _ in points], [two for _, two in points]
    if len(set(x)) == 1:
        with pytest.raises(ConfigError, match="one value"):
            slope(x, y)
        return
    found = slope(x, y, resamples=50)
    assert found["value"] == pytest.approx(stats.linregress(x, y).slope, abs=1e-9)
    doubled = slope(x, y, doubling=True, resamples=50)
    assert doubled["value"] == pytest.approx(stats.linregress(np.log2(x), y).slope, abs=1e-9)
    assert found["low"] <= found["high"]


def test_a_slope_by_doublings_needs_positive_numbers() -> None:
    with pytest.raises(ConfigError, match="no doubling"):
        slope([0, 1, 2, 3], [1, 2, 3, 4], doubling=True)
    with pytest.raises(ConfigError, match="no slope"):
        slope([1, 2, 3], [1, 2, 3])

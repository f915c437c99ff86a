"""Intervals and verdicts against SciPy, against closed forms, and by counting how often they are right."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from lilliput.errors import ConfigError
from lilliput.evaluate import resampling
from lilliput.evaluate import statistics as ours
from lilliput.evaluate.measured import Scores
from lilliput.evaluate.statistics import Effect

DELTAS = st.floats(0, 0.5)
ENDS = st.tuples(st.floats(-1, 1), st.floats(-1, 1)).map(sorted)


def documents(count: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    sizes = rng.integers(200, 4000, count).astype(float)
    return sizes * rng.normal(1.2, 0.2, count), sizes


def effect(low: float, high: float, *, seeds: int = 3, dof: int = 4) -> Effect:
    return Effect("arm", "base", (low + high) / 2, low, high, seeds, 0.1, 0.1, 0.1, dof)


def test_document_interval_agrees_with_scipy() -> None:
    nats, sizes = documents(120, np.random.default_rng(1))
    low, high = resampling.document_interval(nats, sizes, resamples=8000)
    reference = stats.bootstrap(
        (nats, sizes),
        lambda n, s, axis: n.sum(axis) / s.sum(axis) / math.log(2),
        paired=True,
        vectorized=True,
        method="percentile",
        n_resamples=8000,
        rng=np.random.default_rng(2),
    ).confidence_interval
    width = reference.high - reference.low
    assert low == pytest.approx(reference.low, abs=0.06 * width)
    assert high == pytest.approx(reference.high, abs=0.06 * width)


def test_document_interval_covers_the_truth_as_often_as_it_says() -> None:
    rng = np.random.default_rng(3)
    hits = 0
    for trial in range(400):
        nats, sizes = documents(60, rng)
        low, high = resampling.document_interval(nats, sizes, resamples=300, seed=trial)
        hits += low <= 1.2 / math.log(2) <= high
    assert 0.90 <= hits / 400 <= 0.98


def test_interval_is_seeded_and_its_memory_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    nats, sizes = documents(50, np.random.default_rng(4))
    assert resampling.document_interval(nats, sizes, seed=7) == resampling.document_interval(nats, sizes, seed=7)
    assert resampling.document_interval(nats, sizes, seed=7) != resampling.document_interval(nats, sizes, seed=8)
    whole = resampling.document_error(nats, sizes)
    monkeypatch.setattr(resampling, "_DRAWN_AT_ONCE", 500)
    assert resampling.document_error(nats, sizes) == pytest.approx(whole, rel=1e-12)


def test_no_interval_from_one_document_or_none() -> None:
    assert all(math.isnan(bound) for bound in resampling.document_interval([5.0], [10]))
    assert all(math.isnan(bound) for bound in resampling.document_interval([], []))
    assert resampling.document_error([5.0], [10]) == 0.0


@given(st.floats(0.01, 0.99), st.integers(1, 200))
def test_t_quantile_agrees_with_scipy(probability: float, dof: int) -> None:
    expected = stats.t.ppf(probability, dof)
    assert ours.t_quantile(probability, dof) == pytest.approx(expected, rel=1e-8, abs=1e-9)


def cells(values: dict[str, list[float]], spread: float = 0.0) -> dict[tuple[str, int], Scores]:
    """Arms with the given bits per byte by seed, on 40 documents of equal size."""
    rng = np.random.default_rng(5)
    sizes = np.full(40, 1000.0)
    noise = rng.normal(0, spread, 40)
    noise -= noise.mean()
    return {
        (arm, seed): Scores((value + (noise if arm == "base" else 0)) * sizes * math.log(2), sizes)
        for arm, seeds in values.items()
        for seed, value in enumerate(seeds)
    }


@given(
    st.lists(st.tuples(st.floats(1, 2), st.floats(1, 2)), min_size=2, max_size=8).filter(
        lambda pairs: np.std([a - b for a, b in pairs]) > 1e-6
    )
)
def test_two_arms_give_the_paired_t_interval(pairs: list[tuple[float, float]]) -> None:
    base, arm = [a for a, _ in pairs], [b for _, b in pairs]
    found = ours.compare(cells({"base": base, "arm": arm}), "arm", "base")
    expected = stats.ttest_rel(base, arm).confidence_interval(0.95)
    assert found.gain == pytest.approx(np.mean(base) - np.mean(arm), abs=1e-9)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=1e-6)
    assert found.dof == len(pairs) - 1


def test_lower_bits_per_byte_is_a_positive_gain() -> None:
    found = ours.compare(cells({"base": [1.5, 1.6], "arm": [1.4, 1.5]}), "arm", "base")
    assert found.gain == pytest.approx(0.1)


def test_document_choice_widens_the_interval() -> None:
    values = {"base": [1.5, 1.6, 1.55], "arm": [1.4, 1.52, 1.44]}
    plain = ours.compare(cells(values), "arm", "base")
    spread = ours.compare(cells(values, spread=0.3), "arm", "base")
    assert spread.gain == pytest.approx(plain.gain)
    assert spread.se_documents == pytest.approx(0.3 / math.sqrt(40), rel=0.25)
    assert spread.se == pytest.approx(math.hypot(spread.se_seed, spread.se_documents))
    assert spread.high - spread.low > plain.high - plain.low


def test_seed_variance_is_that_of_the_block_design() -> None:
    rng = np.random.default_rng(6)
    table = rng.normal(size=(4, 5))
    found = ours.pooled_seed_variance({(f"a{i}", j): table[i, j] for i in range(4) for j in range(5)})
    residual = table - table.mean(0) - table.mean(1, keepdims=True) + table.mean()
    assert found.dof == 12
    assert found.value == pytest.approx(2 * (residual**2).sum() / 12)


def test_seed_variance_with_missing_cells_and_without_repeats() -> None:
    assert ours.pooled_seed_variance({("a", 0): 1.0, ("b", 0): 2.0}).dof == 0
    assert ours.pooled_seed_variance({}).dof == 0
    rest = {("a", 0): 1.0, ("a", 1): 1.1, ("b", 0): 2.0, ("b", 1): 2.3, ("c", 1): 5.0}
    without = {key: value for key, value in rest.items() if key[0] != "c"}
    assert ours.pooled_seed_variance(rest).value == pytest.approx(ours.pooled_seed_variance(without).value)


def test_comparison_covers_the_truth_as_often_as_it_says() -> None:
    """Simulated studies: an effect of the seed, noise of each run, documents of different difficulty."""
    rng = np.random.default_rng(7)
    sizes = np.full(80, 1000.0)
    hits, trials, truth = 0, 250, 0.02
    for _ in range(trials):
        seeds = rng.normal(0, 0.05, 3)
        harder = rng.normal(0, 0.03, 80)
        study = {}
        for arm, level in (("base", 1.5), ("arm", 1.5 - truth), ("other", 1.6)):
            for seed in range(3):
                value = level + seeds[seed] + rng.normal(0, 0.01) + (harder if arm == "base" else 0)
                study[arm, seed] = Scores(value * sizes * math.log(2), sizes)
        found = ours.compare(study, "arm", "base")
        hits += found.low <= truth <= found.high
    assert 0.91 <= hits / trials <= 0.99


def test_only_shared_seeds_count_and_documents_must_match() -> None:
    study = cells({"base": [1.5, 1.6, 1.7], "arm": [1.4, 1.5]})
    assert ours.compare(study, "arm", "base").seeds == 2
    study["arm", 0] = Scores(np.ones(40), np.full(40, 999.0))
    with pytest.raises(ConfigError, match="same documents"):
        ours.compare(study, "arm", "base")
    with pytest.raises(ConfigError, match="no finished seed"):
        ours.compare(study, "missing", "base")


@given(ENDS, DELTAS, st.sampled_from(ours.KINDS))
def test_verdict_follows_from_the_interval(ends: list[float], delta: float, kind: ours.Kind) -> None:
    low, high = ends
    verdict = ours.judge(kind, effect(low, high), delta)
    claim = {
        "superiority": lambda gain: gain > delta,
        "non-inferiority": lambda gain: gain > -delta,
        "equivalence": lambda gain: abs(gain) < delta,
    }[kind]
    inside = [claim(gain) for gain in np.linspace(low, high, 4001)]
    if verdict == "supported":
        assert all(inside)
    elif verdict == "not supported":
        assert not any(inside)
    else:  # the claim holds for some gains of the interval and fails for others, or fails at an end
        assert not all(inside)
        assert any(inside) or high - low < 1e-3 or (kind == "equivalence" and delta < 1e-3)


def test_one_seed_is_never_supported() -> None:
    assert ours.judge("superiority", effect(0.5, 0.6), 0.1) == "supported"
    assert ours.judge("superiority", effect(0.5, 0.6, seeds=1), 0.1) == "inconclusive"
    assert ours.judge("superiority", effect(-0.6, -0.5, seeds=1), 0.1) == "not supported"
    assert ours.judge("superiority", effect(-0.6, -0.5, seeds=1, dof=0), 0.1) == "inconclusive"
    alone = ours.compare(cells({"base": [1.5], "arm": [1.0]}, spread=0.1), "arm", "base")
    assert alone.dof == 0
    assert alone.low > 0
    assert ours.judge("superiority", alone, 0.0) == "inconclusive"
    assert alone.to_dict()["se_seed"] is None


def test_summaries_of_arms() -> None:
    found = ours.summarise(cells({"base": [1.5, 1.6, 1.7], "arm": [1.4]}))
    assert found["base"].mean == pytest.approx(1.6)
    assert found["base"].sd == pytest.approx(0.1)
    assert found["base"].high - 1.6 == pytest.approx(stats.t.ppf(0.975, 2) * 0.1 / math.sqrt(3))
    assert found["arm"].to_dict()["sd"] is None
    # Its only seed is one at which base is better than on average by 0.1.
    assert found["arm"].mean == pytest.approx(1.5)
    assert found["arm"].high - 1.5 == pytest.approx(stats.t.ppf(0.975, 2) * 0.1)

"""The prior moves with the runs as Bayesian regression says, and only by runs that may be compared."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lilliput.errors import ConfigError
from lilliput.model.config import ModelConfig
from lilliput.plan.evidence import Run, collect, distinct, shipped_runs
from lilliput.plan.explain import explanation
from lilliput.plan.prior import TERMS, features, fit, fitted
from lilliput.store import read_json

BASE = ModelConfig(
    vocab_size=2048, depth=6, width=96, heads=3, kv_heads=3, head_dim=32, ffn=256, bos_id=0, eos_id=0, context=256
)
SHAPES = [replace(BASE, depth=depth, ffn=ffn) for depth, ffn in ((2, 768), (4, 384), (6, 256), (9, 160), (12, 96))]
ROOT = Path(__file__).resolve().parents[2]


def runs_of(truth: np.ndarray, level: float = 0.6, seeds: int = 3, noise: float = 0.0) -> list[Run]:
    """Runs whose ln bits per byte is `level` + truth · features + what the seed does."""
    random = np.random.default_rng(0)
    return [
        Run(
            "made", f"depth{shape.depth}", seed, f"group{level}",
            math.exp(level + float(features(shape) @ truth) + 0.01 * seed + noise * float(random.standard_normal())),
            shape,
        )
        for shape in SHAPES
        for seed in range(seeds)
    ]  # fmt: skip


def test_without_runs_the_literature_speaks() -> None:
    prior = fit([])
    assert prior.mean.tolist() == pytest.approx([term.start for term in TERMS])
    assert prior.informed == (0,) * len(TERMS)


def test_the_fit_is_the_textbook_posterior() -> None:
    """Against the closed form written for the differences within the group (the level integrated out)."""
    truth = np.array([0.03 if term.name.endswith("²") else -0.03 for term in TERMS])
    runs = runs_of(truth, noise=0.004)
    prior = fit(runs)
    X = np.stack([features(shape) for shape in SHAPES])
    y = np.array([np.mean([math.log(run.bits_per_byte) for run in runs if run.shape == shape]) for shape in SHAPES])
    centre = np.eye(len(SHAPES)) - 1 / len(SHAPES)
    precision = np.diag([term.spread**-2 for term in TERMS])
    start = np.array([term.start for term in TERMS])
    weight = 1 / (prior.misfit**2 + prior.noise**2 / 3)
    matrix = X.T @ centre @ X * weight + precision
    want = np.linalg.solve(matrix, X.T @ centre @ y * weight + precision @ start)
    np.testing.assert_allclose(prior.mean, want, atol=1e-9)
    np.testing.assert_allclose(prior.covariance, np.linalg.inv(matrix), atol=1e-9)


def test_runs_that_show_deep_models_to_be_worse_are_believed() -> None:
    truth = np.array([term.start for term in TERMS])
    truth[1] = -0.2  # a larger ratio of width to depth is much better
    before, after = fit([]), fit(runs_of(truth, noise=0.002))
    deep, shallow = SHAPES[-1], SHAPES[0]
    assert after.compare(shallow, deep)[0] < before.compare(shallow, deep)[0] - 0.1
    assert after.compare(shallow, deep)[1] < before.compare(shallow, deep)[1]


def test_groups_are_never_compared_with_each_other() -> None:
    truth = np.array([term.start for term in TERMS])
    one, other = runs_of(truth, level=0.6), runs_of(truth, level=2.0)
    np.testing.assert_allclose(fit(one + other).mean, fit(one).mean, atol=2e-3)
    single = [run for run in other if run.shape == BASE]
    np.testing.assert_allclose(fit(one + single).mean, fit(one).mean, atol=1e-12)


def test_the_noise_between_seeds_is_found() -> None:
    assert fit(runs_of(np.zeros(len(TERMS)), seeds=12, noise=0.03)).noise == pytest.approx(0.03, rel=0.3)


def test_shapes_that_share_no_seed_keep_their_whole_difference() -> None:
    first, second = (
        Run("made", "a", seed, "group", value, shape)
        for seed, value, shape in ((0, 1.5, SHAPES[0]), (1, 1.6, SHAPES[1]))
    )
    [group] = fitted(fit([first, second]))
    assert [row["bits_per_byte"] for row in group["shapes"]] == pytest.approx(
        [one.bits_per_byte for one in sorted((first, second), key=lambda run: repr(run.shape))]
    )


def test_one_seed_throughout_has_no_effect_of_its_own() -> None:
    runs = [run for run in runs_of(np.zeros(len(TERMS)), seeds=1) for _ in range(3)]
    [group] = fitted(fit(runs))
    assert {round(row["bits_per_byte"], 9) for row in group["shapes"]} == {round(math.exp(0.6), 9)}


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(-0.3, 0.3), min_size=len(TERMS), max_size=len(TERMS)))
def test_no_runs_send_the_best_shape_to_infinity(truth: list[float]) -> None:
    prior = fit(runs_of(np.array(truth)))
    for term, value in zip(TERMS, prior.mean, strict=True):
        assert math.isfinite(value)
        if term.name.endswith("²"):
            assert value >= -1e-6


def test_the_fit_and_what_is_shown_of_it_weigh_alike() -> None:
    """With the runs' own weights no level but the fitted one makes the weighted gaps vanish."""
    every = runs_of(np.zeros(len(TERMS)), seeds=9, noise=0.02)
    runs = [run for run in every if run.seed < (5 if run.arm == "depth6" else 1)]
    prior = fit(runs)
    [group] = fitted(prior)
    weights = [1 / (prior.misfit**2 + prior.noise**2 / row["seeds"]) for row in group["shapes"]]
    assert len(set(weights)) > 1
    gaps = [math.log(row["bits_per_byte"] / row["fitted"]) for row in group["shapes"]]
    assert np.dot(weights, gaps) == pytest.approx(0, abs=1e-9 * sum(weights))


def test_a_shape_compared_with_itself_is_certain() -> None:
    assert fit([]).compare(BASE, BASE) == (0.0, 0.0)


def test_what_ships_is_what_results_hold() -> None:
    """`python bench/collect_evidence.py` brings it up to date."""
    assert collect(ROOT / "results") == shipped_runs()


def test_the_explanation_gives_back_the_runs() -> None:
    prior = fit(runs_of(np.zeros(len(TERMS)), noise=0.002))
    told = explanation(prior)
    assert [term["name"] for term in told["terms"]] == [term.name for term in TERMS]
    (group,) = told["groups"]
    assert len(group["shapes"]) == len(SHAPES)
    assert all(row["seeds"] == 3 for row in group["shapes"])
    gaps = [abs(row["fitted"] / row["bits_per_byte"] - 1) for row in group["shapes"]]
    assert told["residual"] < 0.02
    assert max(gaps) < 0.05
    assert fitted(fit([])) == []


def test_a_folder_without_runs_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        collect(tmp_path)
    assert caught.value.mend


@pytest.mark.parametrize("kind", ["cell", "run", "identity"])
@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"{", "damaged JSON"),
        (b"", "damaged JSON"),
        (b"\xff\x00\xfe", "damaged JSON"),
        (b"[1, 2]", "not the result of a run|no finished run"),
        (b'{"metric": "bits_per_byte"}', "not the result of a run: .* is absent"),
        (b'{"metric": "bits_per_byte", "recipe": 3, "asked": 3}', "not the result of a run"),
    ],
)
def test_damaged_evidence_is_a_mistake_in_the_request(tmp_path: Path, kind: str, content: bytes, said: str) -> None:
    file = tmp_path / {"cell": "cells/a.json", "run": "results.json", "identity": "run.json"}[kind]
    file.parent.mkdir(exist_ok=True)
    if kind != "cell":
        (tmp_path / "run.json").write_text("{}")
        (tmp_path / "results.json").write_text('{"recipe": {"seed": 0}}')
    file.write_bytes(content)
    with pytest.raises(ConfigError, match=said) as caught:
        collect(tmp_path)
    assert caught.value.exit_code == 2
    assert caught.value.mend


def test_a_damaged_result_is_named(tmp_path: Path) -> None:
    (tmp_path / "cells").mkdir()
    (tmp_path / "cells" / "a.json").write_text('{"metric": "bits_per_byte", "recipe": 3}')
    with pytest.raises(ConfigError) as caught:
        collect(tmp_path)
    assert "a.json" in str(caught.value.where)


@pytest.mark.parametrize(("key", "value"), [("value", None), ("value", 0), ("value", "1.5"), ("seed", [1])])
def test_a_result_with_impossible_values_is_named(tmp_path: Path, key: str, value: object) -> None:
    cell = read_json(next((ROOT / "results" / "initialisation" / "cells").glob("*.json")))
    (tmp_path / "cells").mkdir()
    (tmp_path / "cells" / "a.json").write_text(json.dumps({**cell, key: value}))
    with pytest.raises(ConfigError) as caught:
        collect(tmp_path)
    assert "a.json" in str(caught.value.where)


def test_a_cell_of_two_studies_is_one_run() -> None:
    runs = shipped_runs()
    again = [replace(run, study="another", arm="the same") for run in runs]
    assert distinct([*runs, *again]) == distinct(runs) == runs
    assert distinct([runs[0], replace(runs[0], seed=runs[0].seed + 1)])[1:]

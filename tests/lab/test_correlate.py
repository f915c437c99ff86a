"""Correlations of a study over finished cells; fields, conditions, unequal seeds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from lab_support import write_text

from lilliput.errors import ConfigError
from lilliput.evaluate.statistics import arm_levels
from lilliput.lab.correlate import correlate, speeds
from lilliput.lab.fields import check_condition, check_field, holds, value_of
from lilliput.lab.figures import scatters
from lilliput.lab.grid import cells_of
from lilliput.lab.spec import Trend, read_study
from lilliput.lab.study import run_study, show_study, study_status
from lilliput.lab.write import verdict_lines
from lilliput.model.config import ModelConfig
from lilliput.store import Store, read_json


def cell(depth: int, value: float, speed: float | None = None, width: int = 64) -> dict[str, Any]:
    """A finished cell as `_record` writes it, as far as correlations look at it."""
    shape = ModelConfig(
        vocab_size=512, depth=depth, width=width, heads=4, kv_heads=4, head_dim=width // 4, ffn=3 * width,
        bos_id=0, eos_id=0,
    )  # fmt: skip
    dimensions = ("vocab_size", "depth", "width", "heads", "kv_heads", "head_dim", "ffn", "context", "tied")
    return {
        "value": value,
        "parameters": shape.parameters(),
        "shape": {name: getattr(shape, name) for name in dimensions},
        "recipe": {"train": {"lr": None, "weight_decay": 0.1}, "corpus": []},
        "cost": {"config": {"lr": 0.007}},
        **({} if speed is None else {"speed": [{"batch": 1, "per_sequence": speed}]}),
    }


def test_fields_of_a_cell() -> None:
    found = cell(4, 2.0)
    assert value_of(found, "depth") == 4
    assert value_of(found, "width/depth") == 16
    assert value_of(found, "expansion") == 3
    assert value_of(found, "share") == pytest.approx(512 * 64 / found["parameters"])
    assert value_of(found, "parameters") == found["parameters"]
    assert value_of(found, "train.weight_decay") == 0.1
    assert value_of(found, "train.lr") == 0.007  # left to be derived: as it was derived
    assert value_of(found, "model.depth") is None
    assert value_of(found, "corpus") is None


def test_conditions() -> None:
    found = cell(4, 2.0)
    for condition in ("", "depth <= 4", "depth>=4 and width = 64", "train.lr < 1e-2 and width/depth > 15.5"):
        assert holds(check_condition(condition), found), condition
    for condition in ("depth < 4", "depth <= 4 and width > 64", "tokenizer.vocab_size > 0"):
        assert not holds(check_condition(condition), found), condition
    mistakes = {"depth is 4": "no condition", "dept <= 4": "did you mean depth", "4 >= depth": "no condition"}
    for wrong, said in mistakes.items():
        with pytest.raises(ValueError, match=said):
            check_condition(wrong)
    with pytest.raises(ValueError, match=r"did you mean train\.lr"):
        check_field("train.l")


def test_seeds_are_averaged_at_equal_seeds() -> None:
    # Seed 1 is worse by 0.5 for all: an arm that lacks it must not look better for that.
    values = {("a", 0): 1.0, ("a", 1): 1.5, ("b", 0): 1.1, ("b", 1): 1.6, ("c", 0): 1.2}
    levels = arm_levels(values)
    assert levels == {"a": pytest.approx(1.25), "b": pytest.approx(1.35), "c": pytest.approx(1.45)}
    assert arm_levels({}) == {}
    assert arm_levels({("a", 0): 1.0, ("a", 1): 3.0}) == {"a": pytest.approx(2.0)}
    # Nothing links these two: neither arm is changed for the other's seed.
    assert arm_levels({("a", 0): 1.0, ("b", 1): 2.0, ("b", 2): 4.0}) == {"a": 1.0, "b": 3.0}
    # What is missing from a full block does not move what is there.
    full = {(arm, seed): 2 + index / 10 + seed / 7 for index, arm in enumerate("abcd") for seed in range(4)}
    part = {key: value for key, value in full.items() if key[1] < 1 or key[0] in "ad"}
    assert arm_levels(part) == pytest.approx(arm_levels(full))


def test_correlations_over_arms() -> None:
    found = {(f"d{depth}", 0): cell(depth, 2 - depth / 10, 100 / depth) for depth in range(1, 9)}
    found["d1", 1] = cell(1, 1.95, 90)
    found["d8", 0] = cell(8, 3.0)  # beyond the bend, and without a speed
    up_to_7 = correlate(Trend(x="depth", where="depth <= 7", at_most=-0.5), found)
    assert up_to_7["verdict"] == "supported"
    assert up_to_7["rho"]["rho"] == -1
    assert up_to_7["text"] == "ρ(depth, bits per byte) ≤ −0.5 where depth <= 7"
    assert [point["arm"] for point in up_to_7["points"]] == [f"d{depth}" for depth in range(1, 8)]
    assert correlate(Trend(x="depth", at_most=-0.5), found)["verdict"] == "inconclusive"
    speed = correlate(Trend(x="depth", y="tokens_per_second", at_least=0.5), found)
    assert speed["verdict"] == "not supported"
    assert [point["y"] for point in speed["points"]][:2] == [95, 50]
    assert correlate(Trend(x="width"), found)["verdict"] == "not measured"
    assert correlate(Trend(x="depth", y="tokens_per_second_at_20"), found)["verdict"] == "not measured"
    assert correlate(Trend(x="depth", where="depth > 90"), found)["points"] == []
    assert speeds([found["d1", 0], found["d1", 1]]) == {"1": 95}
    told = [up_to_7, correlate(Trend(x="width/depth"), found)]
    lines = verdict_lines({"claims": [], "correlations": told, "reaches": []})
    assert lines[0].startswith("**supported**: ρ(depth, bits per byte) ≤ −0.5 where depth <= 7 (at most -0.5; ρ = -1")
    assert lines[1].startswith("**no claim**: ρ(width/depth, bits per byte) (ρ = +")
    arms = [{"name": f"d{depth}", "low": 1.0, "high": 1.2} for depth in range(1, 9)]
    rows = [up_to_7, correlate(Trend(x="depth"), found), correlate(Trend(x="width/depth"), found), speed]
    pictures = scatters({"study": "mine", "metric": "bits_per_byte", "arms": arms, "correlations": rows})
    assert sorted(pictures) == [
        *("depth-bits_per_byte.svg", "depth-tokens_per_second.svg", "width_depth-bits_per_byte.svg"),
    ]
    assert pictures["depth-bits_per_byte.svg"].count("<title>") >= 8


def write(folder: Path, **changes: Any) -> Path:
    values = {
        "question": "Which?",
        "settings": ["train.tokens=100k"],
        "axis": {"key": "train.lr", "values": [0.001, 0.01, 0.1]},
        **changes,
    }
    path = folder / "mine.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


def test_arms_with_further_seeds(tmp_path: Path) -> None:
    study = read_study(write(tmp_path, seeds=1, more_seeds={0.1: 3, 0.001: [7]}))
    assert study.seeds_of("lr=0.1") == [0, 1, 2]
    assert study.seeds_of("lr=0.001") == [0, 7]
    assert [cell.stem for cell in cells_of(study)] == [
        *("lr=0.001-seed0", "lr=0.01-seed0", "lr=0.1-seed0", "lr=0.1-seed1", "lr=0.1-seed2", "lr=0.001-seed7"),
    ]
    assert study_status(tmp_path / "mine.yaml", results=tmp_path)["total"] == 6


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"more_seeds": {"0.2": 3}}, "no arm called '0.2'"),
        ({"seeds": 3, "more_seeds": {"0.1": 2}}, "adds no seed"),
        ({"more_seeds": {"0.1": [1, 1]}}, "twice"),
        ({"correlations": [{"x": "dept"}]}, "did you mean depth"),
        ({"correlations": [{"x": "depth", "y": "accuracy"}]}, "no metric called 'accuracy'"),
        ({"correlations": [{"x": "depth", "wher": "depth < 4"}]}, "unknown key correlations.wher"),
        ({"correlations": [{"x": "depth", "where": "depth"}]}, "no condition"),
        ({"correlations": [{"x": "depth", "at_most": -0.5, "within": 0.5}]}, "one of at_most"),
        ({"correlations": [{"x": "depth", "at_most": -5}]}, "correlations.0.at_most"),
        ({"correlations": [{"x": "depth", "y": "tokens_per_second"}]}, "not measured"),
    ],
)
def test_mistakes_are_named(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        read_study(write(tmp_path, **changes))


def tiny_study(folder: Path, values: list[float], **changes: Any) -> Path:
    settings = {
        "corpus": str(write_text(folder / "text.jsonl", 0)), "budget.params": "25k", "model.context": 32,
        "train.tokens": 8192, "train.batch_tokens": 1024, "evaluate.bytes": 5000,
    }  # fmt: skip
    return write(folder, axis={"key": "train.lr", "values": values}, settings=settings, **changes)


def test_a_real_study_with_further_seeds_and_a_correlation(tmp_path: Path, shared_store: Store) -> None:
    trend = {"x": "train.lr", "at_most": -0.5, "text": "faster learns more"}
    claim = {"kind": "superiority", "arm": 0.01, "versus": 0.00001, "delta": 0.01}
    more = {0.00001: 2, 0.01: 2}
    study = tiny_study(tmp_path, [0.00001, 0.001, 0.003, 0.01], more_seeds=more, correlations=[trend], claims=[claim])
    results = tmp_path / "results"
    summary = run_study(study, results=results, store=shared_store)
    assert len(summary["measured"]) == 6
    assert [arm["seeds"] for arm in summary["arms"]] == [2, 1, 1, 2]
    assert summary["dof"] == 1
    assert (summary["claims"][0]["effect"]["seeds"], summary["arms"][1]["gain"]["seeds"]) == (2, 1)
    assert summary["correlations"][0]["rho"]["rho"] == -1
    readme = (results / "mine" / "README.md").read_text()
    assert "**supported**: faster learns more (at most -0.5; ρ = -1.00" in readme
    assert "seeds: 0; also 1 for lr=1e-05, lr=0.01" in readme
    assert "![train_lr-bits_per_byte](train_lr-bits_per_byte.svg)" in readme
    assert (results / "mine" / "train_lr-bits_per_byte.svg").is_file()


@pytest.mark.slow
def test_speed_asked_for_later_is_all_that_is_measured(tmp_path: Path, shared_store: Store) -> None:
    results, stem = tmp_path / "results", "lr=0.001-seed0"
    run_study(tiny_study(tmp_path, [0.001]), results=results, store=shared_store)
    before = read_json(results / "mine" / "cells" / f"{stem}.json")
    study = tiny_study(tmp_path, [0.001], speed=True)
    assert run_study(study, results=results, store=shared_store, speeds=False)["measured"] == []
    assert [row["state"] for row in study_status(study, results=results)["cells"]] == ["lacks its speed"]
    # The weights are not needed: here the store has none.
    store = Store(tmp_path / "empty")
    assert run_study(study, results=results, store=store)["measured"] == [stem]
    assert not (tmp_path / "empty" / "cells").exists()
    after = read_json(results / "mine" / "cells" / f"{stem}.json")
    assert after == {**before, "speed": after["speed"]}
    assert [(one["batch"], one["new"], len(one["runs"])) for one in after["speed"]] == [(1, 510, 5), (20, 510, 5)]
    shown = show_study(study, results=results)
    assert shown["arms"][0]["speed"]["1"] == after["speed"][0]["per_sequence"]
    assert "tokens/s, batch 20" in shown["table"]
    assert study_status(study, results=results)["done"] == 1
    assert run_study(study, results=results, store=store)["measured"] == []

    # Another seed has the same shape, and so the same speed: nothing is measured twice.
    more = tiny_study(tmp_path, [0.001], speed=True, seeds=2)
    run_study(more, results=results, store=shared_store)
    other = read_json(results / "mine" / "cells" / "lr=0.001-seed1.json")
    assert other["value"] != after["value"]
    assert other["speed"] == after["speed"]

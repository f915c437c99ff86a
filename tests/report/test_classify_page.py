"""The page of a classifier: well-formed, alone, and with what results and metrics hold."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from page_support import read

from lilliput.evaluate.labels import by_label, confusion
from lilliput.report.classify_page import classify_page


def results(labels: int, **changes: Any) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    truth, guessed = rng.integers(0, labels, 300), rng.integers(0, labels, 300)
    names = [f"<{number}>" for number in range(labels)]
    score = {"value": 0.71, "low": 0.68, "high": 0.74}
    found = {
        "model": "/a b/model", "data": "news & more", "scratch": False, "seeds": [0, 1], "parameters": 12_345,
        "accuracy": score, "macro_f1": score, "gain": {"value": -0.05, "low": -0.08, "high": -0.02},
        "baseline": {"name": "TF-IDF", "accuracy": score, "macro_f1": score},
        "per_seed": [{"seed": 0, "accuracy": 0.70}, {"seed": 1, "accuracy": 0.72}],
        "rows": {"train": 80, "test": 300, "labels": labels}, "cost": {"seconds": 61.0},
        "labels": by_label(truth, guessed, names), "confusion": confusion(truth, guessed, names),
        "told": ["2 test rows have no text"], "shape": {"family": "bert", "depth": 2, "width": 32},
        "machine": {"cpu": "one"}, "versions": {"torch": "2"},
    }  # fmt: skip
    return {**found, **changes}


METRICS = {seed: [{"step": step, "loss": 2 / (step + seed + 1)} for step in range(1, 30)] for seed in (0, 1)}


def test_a_small_set_has_its_whole_table() -> None:
    told = results(4)
    page = classify_page(told, METRICS)
    text = read(page)
    for said in ("Labels of news & more", "71.00%", "points over TF-IDF", "[-8.00, -2.00]", "2 test rows have no text",
                 "seed 1", "nats a row", "lilliput classify '/a b/model' --predict FILE"):  # fmt: skip
        assert said in text
    counts = [number for row in told["confusion"]["rows"] for number in row]
    assert sum(counts) == 300
    assert [cell for cell in map(str, counts) if f">{cell}</td>" not in page] == []
    assert "commonest mistakes" not in text


def test_many_labels_have_their_commonest_mistakes_and_one_seed_says_so() -> None:
    told = results(30, seeds=[0], per_seed=[{"seed": 0, "accuracy": 0.7}], told=[], scratch=True)
    text = read(classify_page(told, {0: []}))
    assert "commonest mistakes" in text
    assert "With one seed the intervals cover the choice of test rows alone" in text
    assert "from scratch" in text
    assert "What was odd" not in text
    assert "Training loss" not in text


def test_an_older_result_has_a_page_too() -> None:
    told = results(3)
    del told["confusion"]
    assert "What it takes for what" not in read(classify_page(told, METRICS))


def test_confusion_counts_what_scikit_learn_counts() -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    rng = np.random.default_rng(1)
    truth, guessed = rng.integers(0, 4, 90), rng.integers(0, 3, 90)
    found = confusion(truth, guessed, ["a", "b", "c", "d", "never"])
    assert found["labels"] == ["a", "b", "c", "d"]
    assert found["rows"] == metrics.confusion_matrix(truth, guessed).tolist()

"""Studies with tasks, for real: answered once, later or at once, compared item by item, never trained again."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from lab_support import WORDS

from lilliput.errors import ConfigError, UserError
from lilliput.lab.cells import run_folder
from lilliput.lab.compare_runs import compare_runs, in_words
from lilliput.lab.grid import cells_of
from lilliput.lab.metrics import metric_of
from lilliput.lab.spec import read_study
from lilliput.lab.study import run_study, show_study, study_status
from lilliput.lab.tasks import item_scores, pack, unpack
from lilliput.store import Store, read_json

Write = Callable[..., Path]
TASKS = ["pairs", "last", "mine"]
CLAIMS = [
    {"kind": "superiority", "arm": "fast", "versus": "slow", "delta": 0},
    {"kind": "superiority", "arm": "fast", "versus": "slow", "delta": 0.02, "metric": "pairs"},
    {"kind": "non-inferiority", "arm": "fast", "versus": "slow", "delta": 0.1, "metric": "mine.acc_norm"},
    {"kind": "superiority", "arm": "fast", "versus": "slow", "delta": 0, "metric": "last.perplexity"},
]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three tasks over the words that the tests' text is made of."""
    folder, rng = tmp_path_factory.mktemp("benchmarks"), random.Random(1)

    def said(count: int) -> str:
        return " ".join(rng.choices(WORDS, k=count))

    rows = {
        "pairs": [
            {"sentence_good": said(2), "sentence_bad": "".join(rng.sample("QZXVJKWY", 2)), "UID": f"p{number % 3}"}
            for number in range(60)
        ],
        "last": [{"context": said(8), "continuation": rng.choice(WORDS)} for _ in range(40)],
        "mine": [{"query": said(5), "choices": [said(1), "qqqq"], "gold": 0} for _ in range(50)],
    }
    for name, held in rows.items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in held))
    return folder


@given(st.lists(st.booleans(), min_size=1, max_size=70))
def test_right_and_wrong_survive_packing(flags: list[bool]) -> None:
    assert unpack(pack(np.array(flags)), len(flags)).tolist() == [float(one) for one in flags]


def test_metrics_by_name() -> None:
    assert metric_of("bits_per_byte", []).task is None
    assert metric_of("a.b", ["a.b"]).measure == "acc"
    assert metric_of("a.b.acc_norm", ["a.b"]).name == "a.b.acc_norm"
    assert metric_of("a.acc", ["a"]).name == "a"
    assert metric_of("a.loss", ["a"]) is None


def test_tasks_asked_later_at_once_and_on_a_clone(
    write_study: Write, shared_store: Store, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    results = tmp_path / "results"
    plain = write_study(seeds=1)
    run_study(plain, results=results, store=shared_store)
    path = results / "mine" / "cells" / "fast-seed0.json"
    before = read_json(path)

    monkeypatch.setenv("LAB_TASKS", str(data))
    study = write_study(seeds=1, tasks=TASKS, data="$LAB_TASKS", claims=CLAIMS)
    assert run_study(study, results=results, store=shared_store, tasks=False)["measured"] == []
    assert {row["state"] for row in study_status(study, results=results)["cells"]} == {"lacks pairs, last, mine"}
    assert show_study(study, results=results)["claims"][1]["verdict"] == "not measured"

    summary = run_study(study, results=results, store=shared_store)
    assert len(summary["measured"]) == 2
    after = read_json(path)
    assert after == {**before, "tasks": after["tasks"]}
    held = after["tasks"]["pairs"]
    scored = item_scores(held, "acc")
    assert scored.value == pytest.approx(held["acc"])
    assert [name for name, _ in held["groups"]] == ["p0", "p1", "p2"] * 20
    assert item_scores(after["tasks"]["last"], "perplexity").lower
    assert item_scores(after["tasks"]["last"], "acc_norm") is None
    _check_what_is_said(summary, (results / "mine" / "README.md").read_text())

    # All is there: neither weights nor data are needed, and nothing is asked again.
    monkeypatch.delenv("LAB_TASKS")
    assert run_study(study, results=results, store=Store(tmp_path / "empty"))["measured"] == []
    assert "### pairs" in show_study(study, results=results)["task_tables"]


def _check_what_is_said(summary: dict[str, Any], readme: str) -> None:
    pairs, last, mine = summary["tasks"]
    assert (pairs["items"], pairs["groups"], mine["groups"]) == (60, 3, None)
    assert [row["metric"] for row in mine["measures"]] == ["mine", "mine.acc_norm"]
    assert [row["metric"] for row in last["measures"]] == ["last", "last.perplexity"]
    # The trained model finds words it knows likelier than letters it does not.
    better = pairs["measures"][0]["arms"]["fast"]["gain"]
    assert better["low"] > 0.02
    assert better["outcome"] == "better"
    assert summary["claims"][1]["effect"] == better
    assert summary["claims"][3]["effect"]["gain"] > 0
    assert "fast is better than slow at pairs by more than 2 points" in readme
    assert "60 items, the mean of 3 groups; no shots." in readme
    assert "accuracy by bytes, %" in readme


def test_rows_that_changed_are_asked_again_and_a_model_that_is_gone_is_left_out(
    write_study: Write, shared_store: Store, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own = tmp_path / "own"
    own.mkdir()
    (own / "mine.jsonl").write_text((data / "mine.jsonl").read_text())
    study = write_study(seeds=1, tasks=["mine"], data=str(own))
    results = tmp_path / "results"
    run_study(study, results=results, store=shared_store)
    path = results / "mine" / "cells" / "fast-seed0.json"
    first = read_json(path)["tasks"]["mine"]
    (own / "mine.jsonl").write_text((data / "mine.jsonl").read_text() * 2)
    (own / "new.jsonl").write_text((data / "mine.jsonl").read_text())
    run_study(write_study(seeds=1, tasks=["mine", "new"], data=str(own)), results=results, store=shared_store)
    second = read_json(path)["tasks"]
    assert (first["items"], second["mine"]["items"], second["new"]["items"]) == (50, 100, 50)

    (own / "newer.jsonl").write_text((data / "mine.jsonl").read_text())
    newer = write_study(seeds=1, tasks=["mine", "newer"], data=str(own))
    capsys.readouterr()
    assert run_study(newer, results=results, store=Store(tmp_path / "empty"))["measured"] == []
    assert "its model is not in this store" in capsys.readouterr().err
    assert show_study(newer, results=results)["tasks"][1]["measures"] == []


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tasks": ["mine"]}, "need their data"),
        ({"data": "here"}, "no task"),
        ({"tasks": ["mine", "mine"], "data": "."}, "named twice"),
        ({"claims": [{**CLAIMS[0], "metric": "mine"}]}, "no metric called 'mine'"),
        ({"claims": [{**CLAIMS[0], "metric": "mine.norm"}], "tasks": ["mine"], "data": "."}, "no metric called"),
        ({"tasks": ["mine"], "data": "$NO_SUCH_DATA"}, "NO_SUCH_DATA"),
        ({"tasks": ["nowhere"], "data": "."}, "no such task"),
    ],
)
def test_what_cannot_be_measured_is_refused_before_any_work(
    write_study: Write, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        run_study(write_study(**{"claims": [], **changes}), results=tmp_path / "r", store=Store(tmp_path / "s"))
    assert not (tmp_path / "r").exists()


def test_any_runs_side_by_side(write_study: Write, shared_store: Store, data: Path, tmp_path: Path) -> None:
    study = write_study(seeds=2, tasks=["mine"], data=str(data))
    summary = run_study(study, results=tmp_path, store=shared_store)
    cells = [tmp_path / "mine" / "cells" / f"{arm}-seed{seed}.json" for arm in ("slow", "fast") for seed in (0, 1)]
    found = compare_runs(cells)
    # The same as in the study: runs that differ in their seed alone are one arm.
    assert [(arm["name"], arm["seeds"]) for arm in found["arms"]] == [("slow", 2), ("fast", 2)]
    theirs = summary["arms"][1]["gain"]
    ours = found["arms"][1]["gain"]
    words = ("arm", "baseline", "outcome")
    assert ours["outcome"] == theirs["outcome"]
    # Arms come in another order here, which rounds otherwise.
    assert {name: ours[name] for name in ours if name not in words} == pytest.approx(
        {name: theirs[name] for name in theirs if name not in words}, rel=1e-9
    )
    assert found["tasks"][0]["measures"][0]["arms"]["fast"]["mean"] == pytest.approx(
        summary["tasks"][0]["measures"][0]["arms"]["fast"]["mean"]
    )
    assert "| fast |" in in_words(found)

    # Two seeds of one arm stand each for itself; so do a run's folder and its model.
    folder = run_folder(shared_store, cells_of(read_study(study), study.parent)[0])
    alone = compare_runs([cells[2], cells[3]])
    assert (alone["repeated"], alone["arms"][1]["gain"]["se_seed"]) == (False, None)
    assert "The intervals cover the text and the items alone" in in_words(alone)
    asked = compare_runs([cells[0], folder / "model"], tasks=["mine"], data=data, store=shared_store)
    assert asked["tasks"][0]["items"] == 50
    for paths, message in (([cells[0]], "one run"), ([cells[0], data], "no finished run"), ([folder] * 2, "twice")):
        with pytest.raises(ConfigError, match=message):
            compare_runs(paths)
    with pytest.raises(ConfigError, match="no answers to pairs"):
        compare_runs(cells, tasks=["pairs"], data=data, store=shared_store)
    other = write_study(seeds=1, more={"evaluate.bytes": 500}, claims=[])
    run_study(other, results=tmp_path / "other", store=shared_store)
    with pytest.raises(ConfigError, match="different text"):
        compare_runs([cells[0], tmp_path / "other" / "mine" / "cells" / "fast-seed0.json"])

"""The engine with real runs: measured once, found again, shared, gone on with after a kill, judged."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
import xml.etree.ElementTree as ET
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from lab_support import write_text

from lilliput.errors import ConfigError, TrainingError
from lilliput.lab.study import list_studies, run_study, show_study, study_status
from lilliput.store import Store, read_json

Write = Callable[..., Path]
ALL = {"slow-seed0", "fast-seed0", "slow-seed1", "fast-seed1"}
RUN = "import sys, json; from lilliput.lab.study import run_study; from lilliput.store import Store; "
RUN += "print(json.dumps(run_study(sys.argv[1], results=sys.argv[2], store=Store(sys.argv[3]))['measured']))"


def start(study: Path, results: Path, store: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", RUN, str(study), str(results), str(store)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment, start_new_session=True
    )


def test_run_skip_show_and_change(write_study: Write, shared_store: Store, tmp_path: Path) -> None:
    results = tmp_path / "results"
    study = write_study()

    first = run_study(study, results=results, store=shared_store, max_cells=1)
    assert first["measured"] == ["slow-seed0"]
    assert first["claims"][0]["verdict"] == "not measured"
    assert "Unfinished" in (results / "mine" / "README.md").read_text()
    status = study_status("mine", results=results)
    assert (status["done"], status["total"]) == (1, 4)
    assert status["hours_left"] > 0
    assert [cell["state"] for cell in status["cells"]] == ["done", "to do", "to do", "to do"]

    summary = run_study(study, results=results, store=shared_store)
    assert set(summary["measured"]) == ALL - {"slow-seed0"}
    assert summary["arms"][1]["gain"]["gain"] > 0.1
    claim = summary["claims"][0]
    assert claim["effect"]["low"] < claim["effect"]["gain"] < claim["effect"]["high"]
    assert claim["verdict"] in ("supported", "inconclusive")
    folder = results / "mine"
    assert {path.name for path in folder.iterdir() if not path.name.startswith(".")} == {
        *("README.md", "table.md", "table.json", "figure.svg", "study.yaml", "cells"),
    }
    ET.parse(folder / "figure.svg")
    readme = (folder / "README.md").read_text()
    assert f"**{claim['verdict']}**: fast is better than slow by more than 0.01 bits per byte" in readme
    assert read_json(folder / "table.json")["cells"] == {"done": 4, "failed": 0, "total": 4}

    # Nothing is left to do, here or on a machine that has the results alone.
    clone = tmp_path / "clone"
    shutil.copytree(results, clone, ignore=shutil.ignore_patterns(".locks"))
    assert run_study("mine", results=clone, store=Store(tmp_path / "other"))["measured"] == []
    assert not (tmp_path / "other" / "cells").exists()
    assert (clone / "mine" / "README.md").read_text() == readme
    shown = show_study("mine", results=clone)
    assert shown["table"] == (folder / "table.md").read_text()
    assert shown["verdicts"][0].startswith(claim["verdict"])
    assert study_status("mine", results=clone)["hours_left"] == 0
    assert {row["name"]: row["done"] for row in list_studies(clone)}["mine"] == 4

    # A changed arm is measured again, the other is not.
    changed = write_study(arms={"slow": ["train.lr=0.00001"], "fast": ["train.lr=0.02"]})
    states = {cell["arm"]: cell["state"] for cell in study_status(changed, results=results)["cells"]}
    assert states == {"slow": "done", "fast": "out of date"}
    again = run_study(changed, results=results, store=shared_store)
    assert set(again["measured"]) == {"fast-seed0", "fast-seed1"}
    assert read_json(folder / "cells" / "fast-seed0.json")["settings"] == ["train.lr=0.02"]


def test_a_neighbour_that_asked_for_the_same_is_taken_over(
    write_study: Write, shared_store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    results = tmp_path / "results"
    run_study(write_study(), results=results, store=shared_store)
    arms = {"quick": ["train.lr=0.01"], "quicker": ["train.lr=0.02"]}
    other = write_study(name="other", arms=arms, seeds=1, claims=[])
    # An empty store: what is found, is found in the neighbour's files.
    elsewhere = Store(tmp_path / "elsewhere")
    summary = run_study(other, results=results, store=elsewhere, max_cells=1)
    assert summary["measured"] == ["quick-seed0"]
    assert not (elsewhere.root / "cells").exists()
    taken = read_json(results / "other" / "cells" / "quick-seed0.json")
    found = read_json(results / "mine" / "cells" / "fast-seed0.json")
    assert taken == {**found, "study": "other", "arm": "quick"}
    assert "quick, seed 0: found" in capsys.readouterr().err
    assert study_status("other", results=results)["done"] == 1

    # A task wants the weights, which are not in that store: the cell is trained.
    rows = tmp_path / "pick.jsonl"
    rows.write_text('{"query": "the cat", "choices": ["sat", "ran"], "gold": 0}\n')
    asking = write_study(name="asking", arms=arms, seeds=1, claims=[], tasks=["pick"], data=str(tmp_path))
    run_study(asking, results=results, store=elsewhere, max_cells=1)
    assert read_json(results / "asking" / "cells" / "quick-seed0.json")["value"] == found["value"]
    assert (elsewhere.root / "cells").exists()


def test_a_cell_holds_what_the_statistics_need(write_study: Write, shared_store: Store, tmp_path: Path) -> None:
    run_study(write_study(seeds=1), results=tmp_path, store=shared_store)
    path = tmp_path / "mine" / "cells" / "fast-seed0.json"
    cell = read_json(path)
    documents = cell["documents"]
    value = sum(documents["nats"]) / sum(documents["bytes"]) / np.log(2)
    assert cell["value"] == pytest.approx(value, rel=1e-5)
    assert cell["curve"][-1][0] == 16_384
    assert {"seconds", "tokens", "flops", "peak_memory", "wall_seconds"} <= set(cell["cost"])
    assert cell["versions"]["torch"]
    assert cell["machine"]["cpu"]
    assert len(path.read_text().splitlines()) < 40
    assert path.stat().st_size < 20_000


def test_processes_share_the_cells(write_study: Write, tmp_path: Path) -> None:
    study, results = write_study(), tmp_path / "results"
    running = [start(study, results, tmp_path / "store") for _ in range(2)]
    measured: list[str] = []
    for process in running:
        out, error = process.communicate(timeout=200)
        assert process.returncode == 0, error
        measured += json.loads(out)
    assert sorted(measured) == sorted(ALL)
    assert show_study("mine", results=results)["cells"]["done"] == 4


def test_kill_inside_a_cell_and_go_on(
    write_study: Write, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    more = {"train.tokens": 49_152, "train.save_every": 4, "train.compile": False, "train.threads": 1}
    study = write_study(more=more, seeds=1, arms={"only": []}, claims=[])
    results, store = tmp_path / "results", tmp_path / "store"
    process = start(study, results, store)
    for _ in range(2400):
        saved = [path for path in (store / "cells").glob("*/checkpoints/*") if not path.name.startswith(".")]
        if len(saved) > 1 or process.poll() is not None:
            break
        time.sleep(0.05)
    assert process.poll() is None, process.communicate()[1]
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert not list((results / "mine" / "cells").glob("*.json"))
    assert [cell["state"] for cell in study_status(study, results=results)["cells"]] == ["to do"]

    capsys.readouterr()
    assert run_study(study, results=results, store=Store(store))["measured"] == ["only-seed0"]
    assert "going on from step" in capsys.readouterr().err
    run_study(study, results=tmp_path / "whole", store=Store(tmp_path / "other-store"))
    ours, theirs = (read_json(place / "mine" / "cells" / "only-seed0.json") for place in (results, tmp_path / "whole"))
    assert ours["documents"] == theirs["documents"]
    assert ours["curve"] == theirs["curve"]


def test_arms_with_different_text_need_a_common_one(
    write_study: Write, tiny_corpus: Path, shared_store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LAB_TEXT", str(tmp_path))
    write_text(tmp_path / "b.jsonl", 1)
    write_text(tmp_path / "dev.jsonl", 2, documents=20)
    arms = {"a": [f"corpus={tiny_corpus}"], "b": ["corpus=$LAB_TEXT/b.jsonl"]}
    claims = [{"kind": "equivalence", "arm": "b", "versus": "a", "delta": 0.5}]
    apart = run_study(write_study(arms=arms, claims=claims), results=tmp_path / "apart", store=shared_store)
    assert apart["claims"][0]["verdict"] == "not measured"
    assert "same documents" in apart["claims"][0]["why"]
    assert apart["arms"][1]["gain"] is None
    common = write_study(arms=arms, claims=claims, evaluate=["$LAB_TEXT/dev.jsonl"])
    together = run_study(common, results=tmp_path / "together", store=shared_store)
    assert together["claims"][0]["effect"]["gain"] is not None
    recipe = read_json(tmp_path / "together" / "mine" / "cells" / "b-seed0.json")["recipe"]
    assert recipe["evaluate"]["text"] == ["$LAB_TEXT/dev.jsonl"]
    assert recipe["corpus"][0]["source"] == "$LAB_TEXT/b.jsonl"


def test_an_arm_that_will_not_train_is_a_result(
    write_study: Write, shared_store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # Weight decay of 10 at a rate of 1 multiplies every weight by −9 a step: infinite after a few.
    wild = {"lr": 1, "clip": 1e30, "warmup": 0, "weight_decay": 10, "beta2": 0, "schedule": "constant"}
    arms = {"wild": [f"train.{key}={value}" for key, value in wild.items()], "fast": ["train.lr=0.01"]}
    claims = [{"kind": "superiority", "arm": "fast", "versus": "wild", "delta": 0}]
    study = write_study(arms=arms, seeds=1, claims=claims, more={"train.tokens": 131_072})
    with pytest.raises(TrainingError, match="1 cells would not train: wild, seed 0"):
        run_study(study, results=tmp_path / "r", store=shared_store)
    assert "| wild | would not train |" in (tmp_path / "r" / "mine" / "README.md").read_text()
    shown = show_study("mine", results=tmp_path / "r")
    assert shown["cells"] == {"done": 1, "failed": 1, "total": 2}
    assert "finite" in shown["failures"][0]["reason"]
    assert shown["verdicts"][0].startswith("not measured")
    assert [cell["state"] for cell in study_status("mine", results=tmp_path / "r")["cells"]] == [
        *("would not train", "done")
    ]
    (tmp_path / "r" / "mine" / "study.yaml").write_text("arms: [")
    assert "mine" not in {row["name"] for row in list_studies(tmp_path / "r")}
    assert "the study mine cannot be read" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"arms": {"a": ["corpus=absent.txt"]}}, "does not exist"),
        ({"evaluate": ["$NO_SUCH_FOLDER/dev.txt"]}, "NO_SUCH_FOLDER"),
        ({"arms": {"a": ["model.width=100", "model.heads=7"]}}, "heads"),
        ({"arms": {"a": ["train.lrr=1"]}}, "unknown key train.lrr"),
    ],
)
def test_what_cannot_run_is_refused_before_any_work(
    write_study: Write, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        run_study(write_study(claims=[], **changes), results=tmp_path / "r", store=Store(tmp_path / "s"))
    assert not (tmp_path / "r").exists()
    assert not (tmp_path / "s").exists()


def test_processes_of_torchrun_are_refused(
    write_study: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match="one process"):
        run_study(write_study(), results=tmp_path / "r", store=Store(tmp_path / "s"))
    assert not (tmp_path / "r").exists()


def test_no_time_no_cell(write_study: Write, tmp_path: Path) -> None:
    summary = run_study(write_study(), results=tmp_path / "r", store=Store(tmp_path / "s"), hours=0)
    assert summary["measured"] == []
    assert summary["cells"] == {"done": 0, "failed": 0, "total": 4}
    assert study_status("mine", results=tmp_path / "r")["hours_left"] is None

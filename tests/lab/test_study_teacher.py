"""A study whose arms build on one model: trained once, found again, part of what identifies a cell."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from lilliput.errors import ConfigError
from lilliput.lab.grid import cells_of
from lilliput.lab.spec import read_study
from lilliput.lab.study import run_study, study_status
from lilliput.store import Store, read_json

Write = Callable[..., Path]
ARMS = {"own": [], "the teacher's": ["tokenizer.from=$TEACHER"]}


def test_a_teacher_is_trained_once_and_known_by_its_settings(
    tmp_path: Path, write_study: Write, shared_store: Store
) -> None:
    results = tmp_path / "results"
    study = write_study(arms=ARMS, teacher={"train.tokens": 8192}, seeds=1, claims=[])
    own, taught = cells_of(read_study(study))
    assert own.teacher is None
    assert taught.teacher is not None
    assert taught.teacher.arm == "teacher"
    assert run_study(study, results=results, store=shared_store)["measured"] == ["own-seed0", "the_teacher_s-seed0"]
    cells = results / "mine" / "cells"
    teacher, cell = read_json(cells / "teacher-seed0.json"), read_json(cells / "the_teacher_s-seed0.json")
    assert cell["teacher"]["hash"] == teacher["hash"] == taught.teacher.hash
    assert cell["teacher"]["flops"] == teacher["cost"]["flops"]
    assert cell["tokenizer"]["hash"] == teacher["tokenizer"]["hash"]
    assert cell["recipe"]["tokenizer"]["from"] == "$TEACHER"
    assert study_status(study, results=results)["done"] == 2

    # Without its file the cell is measured again; the teacher, whose weights are there, is not.
    (cells / "the_teacher_s-seed0.json").unlink()
    finished = teacher["finished"]
    assert run_study(study, results=results, store=shared_store)["measured"] == ["the_teacher_s-seed0"]
    assert read_json(cells / "teacher-seed0.json")["finished"] == finished

    # Where the weights are gone the teacher is trained again before the cell.
    shutil.rmtree(shared_store.root / "cells" / taught.teacher.hash[:24])
    (cells / "the_teacher_s-seed0.json").unlink()
    run_study(study, results=results, store=shared_store)
    assert read_json(cells / "teacher-seed0.json")["finished"] >= finished
    assert (shared_store.root / "cells" / taught.teacher.hash[:24] / "model" / "config.json").is_file()

    other = cells_of(read_study(write_study(arms=ARMS, teacher={"train.tokens": 4096}, seeds=1, claims=[])))
    assert other[0].hash == own.hash
    assert other[1].hash != taught.hash


def test_a_study_without_a_teacher_has_none_to_name(tmp_path: Path, write_study: Write) -> None:
    study = write_study(arms=ARMS, seeds=1, claims=[])
    with pytest.raises(ConfigError, match="TEACHER") as caught:
        run_study(study, results=tmp_path / "results", store=Store(tmp_path / "store"))
    assert "teacher:" in str(caught.value.mend)


def test_children_of_one_teacher_are_compared(tmp_path: Path, write_study: Write, shared_store: Store) -> None:
    child = ["inherit.teacher=$TEACHER", "inherit.layers=first"]
    child += ["model.depth=1", "budget.params=null", "model.context=null"]
    arms = {"scratch": ["tokenizer.from=$TEACHER", "model.depth=1"], "l2": [*child, "inherit.neurons=l2"]}
    reaches = [{"arm": "l2", "versus": "scratch", "at_least": 3}]
    study = write_study(
        arms=arms, teacher={"train.tokens": 16_384}, seeds=1, claims=[], reaches=reaches, more={"train.eval_every": 2}
    )
    found = run_study(study, results=tmp_path / "results", store=shared_store)
    row = found["reaches"][0]
    assert row["seeds"][0]["level"] > 0
    assert row["verdict"] in ("inconclusive", "not supported")  # one seed never supports
    cell = read_json(tmp_path / "results" / "mine" / "cells" / "l2-seed0.json")
    assert cell["inherit"]["layers"]["kept"] == [0]
    assert found["arms"][1]["start"] == pytest.approx(cell["inherit"]["bits_per_byte"]["child"]["value"])
    text = (tmp_path / "results" / "mine" / "README.md").read_text()
    assert "right after carving" in text
    assert "fewer tokens" in text or "not reached" in text

"""A study's pictures of what rounds forget, and the cell that they come from."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Callable
from pathlib import Path

import pytest

from lilliput.lab.figures import forgetting
from lilliput.lab.study import run_study
from lilliput.store import Store, read_json


def test_rounds_have_two_pictures_and_others_none() -> None:
    told = {"first": [2.0, 1.9, 1.5], "last": [1.6, 1.6, 1.5]}
    summary = {"study": "mine", "arms": [{"name": "a", "forgetting": told}, {"name": "b", "forgetting": None}]}
    pictures = forgetting(summary)
    assert sorted(pictures) == ["forgetting.svg", "remembering.svg"]
    for picture in pictures.values():
        ET.fromstring(picture)
    assert forgetting({"study": "mine", "arms": [{"name": "b"}]}) == {}


def test_a_cell_in_rounds_tells_what_was_forgotten(
    write_study: Callable[..., Path], shared_store: Store, tmp_path: Path
) -> None:
    common = ["train.lr=0.01", "rounds.count=2", "rounds.parts=2"]
    arms = {"rounds": common, "fresh": [*common, "rounds.weighting=fresh"]}
    study = write_study(arms=arms, seeds=1, claims=[], more={"train.threads": 1, "train.compile": False})
    summary = run_study(study, results=tmp_path / "results", store=shared_store)
    cell = read_json(tmp_path / "results" / "mine" / "cells" / "rounds-seed0.json")
    assert "most" not in cell["rounds"]["drawn"]  # texts of the corpus
    fresh = read_json(tmp_path / "results" / "mine" / "cells" / "fresh-seed0.json")
    assert fresh["rounds"]["drawn"] is None
    assert fresh["rounds"]["forgetting"]
    rows = cell["rounds"]["forgetting"]
    assert summary["arms"][0]["forgetting"]["last"] == pytest.approx([row["last"] for row in rows])
    assert "![forgetting](forgetting.svg)" in (tmp_path / "results" / "mine" / "README.md").read_text()
    assert (tmp_path / "results" / "mine" / "remembering.svg").is_file()

"""docs/evidence.md is what its command writes, and what is declared for it exists."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from lilliput.lab.spec import read_study, studies_shipped

ROOT = Path(__file__).resolve().parents[2]
# Declared, and written by other commands than `study run` or not yet: their arms are those of the paper's rows.
TO_COME = {"batch-rate", "rounds", "ladder", "ladder-chinese", "blimp"}


def bench() -> ModuleType:
    """The command's module."""
    spec = importlib.util.spec_from_file_location("write_evidence", ROOT / "bench" / "write_evidence.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


EVIDENCE = bench()
ENTRIES = [entry for section in EVIDENCE.declared()["sections"] for entry in section.get("entries", ())]


def test_the_page_is_what_the_command_writes() -> None:
    expected = EVIDENCE.page(EVIDENCE.declared(), EVIDENCE.Results(ROOT / "results"))
    assert (ROOT / "docs" / "evidence.md").read_text(encoding="utf-8") == expected, "python bench/write_evidence.py"


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry["title"])
def test_what_is_declared_exists(entry: dict[str, Any]) -> None:
    assert entry["tag"] in "PRSD"
    for row in entry.get("rows", ()):
        assert len(row.get("theirs", ())) == len(entry.get("columns", ()))
        assert "ours" not in row or len(row["ours"]) == len(entry["our_columns"])
    for name in [entry[key] for key in ("study",) if key in entry] + entry.get("beside", []):
        begun = ROOT / "results" / name / "study.yaml"
        assert name in TO_COME or name in studies_shipped() or begun.is_file(), name
    if "study" in entry and entry["study"] not in TO_COME:
        begun = ROOT / "results" / entry["study"] / "study.yaml"
        arms = read_study(begun if begun.is_file() else studies_shipped()[entry["study"]]).arm_settings()
        assert {str(row["arm"]) for row in entry.get("rows", ()) if "arm" in row} <= arms.keys()
    if (command := entry.get("command", "")).startswith("python "):
        assert (ROOT / command.split()[1]).is_file()


def test_every_table_and_figure_of_the_first_paper_has_its_place() -> None:
    titles = " ".join(entry["title"] for entry in ENTRIES)
    for number in (*range(1, 14),):
        assert any(f" {number}{end}" in titles for end in (" ", ":", ",")), number


def test_a_measured_study_an_empty_one_and_a_wrong_tag(tmp_path: Path) -> None:
    gain = {"gain": 0.02, "low": 0.01, "high": 0.03, "outcome": "better"}
    arms = [
        {"name": "a", "seeds": 2, "mean": 1.5, "sd": None, "gain": None, "failed": 0},
        {"name": "b", "seeds": 2, "mean": 1.48, "sd": 0.01, "gain": gain, "failed": 0},
        {"name": "c", "seeds": 0, "failed": 1},
    ]
    asked = {"kind": "superiority", "arm": "b", "versus": "a", "delta": 0.01, "task": None, "measure": "bits_per_byte"}
    claim = {**asked, "text": "b is better", "verdict": "inconclusive", "effect": {**gain, "seeds": 2}}
    table = {"cells": {"done": 4, "total": 6}, "baseline": "a", "arms": arms, "claims": [claim]}
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "table.json").write_text(json.dumps({**table, "correlations": [], "reaches": []}))
    entry = {"title": "Table 1: x", "tag": "P", "shows": "It does.", "study": "mine", "columns": ["size", "score"]}
    entry |= {"rows": [{"theirs": ["big", "40.40"], "arm": "b"}, {"theirs": ["small", "1"]}], "beside": ["other"]}
    text = EVIDENCE.page({"sections": [{"title": "Paper", "entries": [entry]}]}, EVIDENCE.Results(tmp_path))
    squeezed = " ".join(text.split())
    assert "| big | 40.40 | b | 1.4800 ± 0.0100 | +0.0200 | +0.0100 to +0.0300 | better |" in squeezed
    assert "| small | 1 | – |" in squeezed
    assert "| – | | a | 1.5000 | – | – | baseline |" in squeezed
    assert "| c | would not train |" in squeezed
    assert "**Unfinished**: 4 of 6 cells." in text
    assert "- **inconclusive**: b is better (superiority" in text
    assert "Beside it: other (not measured yet). Command: `lilliput study run mine`." in text
    assert "[Table 1: x](#table-1-x) | 1 inconclusive |" in squeezed

    def page(**changes: str) -> str:
        told = {"sections": [{"title": "Paper", "entries": [{**entry, **changes}]}]}
        return " ".join(str(EVIDENCE.page(told, EVIDENCE.Results(tmp_path))).split())

    assert "| big | 40.40 | not measured yet |" in page(study="no")
    with pytest.raises(ValueError, match="tag M"):
        page(tag="M")

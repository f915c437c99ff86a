"""Study files: what they say, what is refused, and that a cell's hash is the same everywhere."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from lilliput.errors import ConfigError
from lilliput.lab.grid import cell_hash, cells_of, fill_in
from lilliput.lab.spec import find_study, read_study, setting, studies_shipped
from lilliput.lab.study import list_studies, load_study, study_status
from lilliput.store import read_json

RESULTS = Path(__file__).resolve().parents[2] / "results"

BASE: dict[str, Any] = {
    "question": "Which?",
    "recipe": "tiny",
    "settings": ["train.tokens=100k"],
    "axis": {"key": "train.lr", "values": [0.001, 0.01]},
    "seeds": 2,
}
CLAIM = {"kind": "superiority", "arm": 0.01, "versus": 0.001, "delta": 0}


def write(folder: Path, **changes: Any) -> Path:
    values = {key: value for key, value in {**BASE, **changes}.items() if value is not None}
    path = folder / "mine.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


def test_axis_makes_an_arm_of_each_value(tmp_path: Path) -> None:
    study = read_study(write(tmp_path))
    assert study.name == "mine"
    assert study.arm_settings() == {"lr=0.001": ["train.lr=0.001"], "lr=0.01": ["train.lr=0.01"]}
    assert [study.arm(name) for name in ("lr=0.01", "0.01", "1e-2")] == ["lr=0.01"] * 3
    cells = cells_of(study)
    assert [cell.stem for cell in cells] == ["lr=0.001-seed0", "lr=0.01-seed0", "lr=0.001-seed1", "lr=0.01-seed1"]
    assert [cell.recipe.train.lr for cell in cells] == [0.001, 0.01, 0.001, 0.01]
    assert [cell.recipe.seed for cell in cells] == [0, 0, 1, 1]
    assert all(cell.recipe.train.tokens == 100_000 for cell in cells)
    assert len({cell.hash for cell in cells}) == 4


def test_named_arms_as_lists_or_mappings(tmp_path: Path) -> None:
    arms = {"base": [], "deep & thin": {"model.depth": 8, "train.schedule": "wsd"}}
    study = read_study(write(tmp_path, axis=None, arms=arms, baseline="base"))
    assert study.arm_settings()["deep & thin"] == ["model.depth=8", "train.schedule=wsd"]
    assert [cell.stem for cell in cells_of(study)][1] == "deep___thin-seed0"
    assert study.base_arm() == "base"


def test_values_survive_as_settings(tmp_path: Path) -> None:
    assert setting("a", "true") == 'a="true"'
    assert setting("a", True) == "a=true"
    assert setting("a", None) == "a=null"
    assert setting("a", "8M") == "a=8M"
    assert setting("a", "$DATA/b c: d") == 'a="$DATA/b c: d"'
    assert setting("a", ["x"]) == 'a=["x"]'
    study = read_study(write(tmp_path, axis={"key": "model.tied", "values": [True, False, None]}))
    assert [cell.recipe.model.tied for cell in cells_of(study)][:3] == [True, False, None]
    assert list(study.arm_settings()) == ["tied=true", "tied=false", "tied=null"]


@pytest.mark.parametrize(
    ("changes", "message", "mend"),
    [
        ({"sedes": 3}, "unknown key sedes", "did you mean seeds"),
        ({"axis": {"key": "train.lr", "value": [1]}}, "unknown key axis.value", "axis.values"),
        ({"claims": [{"kind": "superiority", "arms": "0.01"}]}, "unknown key claims.arms", "claims.arm"),
        ({"axis": None}, "either an axis or arms", "axis"),
        ({"arms": {"a": []}}, "either an axis or arms", "axis"),
        ({"axis": None, "arms": {}}, "at least one arm", "arms"),
        ({"axis": {"key": "train.lr", "values": [0.1, 0.1]}}, "twice", "once"),
        ({"axis": None, "arms": {"a b": [], "A_b": []}}, "share a file", "names"),
        ({"seeds": [1, 1]}, "seed is given twice", "once"),
        ({"seeds": []}, "seeds", "docs/studies.md"),
        ({"question": ""}, "question", "docs/studies.md"),
        ({"metric": "accuracy"}, "metric", "docs/studies.md"),
        ({"baseline": "0.02"}, "no arm called '0.02'", "lr=0.0"),
        ({"claims": [{"kind": "better", "arm": 0.01, "versus": 0.001, "delta": 0}]}, "claims.0.kind", "docs"),
        ({"claims": [{"kind": "superiority", "arm": 0.01, "versus": 0.01, "delta": 0}]}, "with itself", "two"),
        ({"claims": [{"kind": "equivalence", "arm": 0.01, "versus": 0.001, "delta": 0}]}, "never", "above 0"),
        (
            {"claims": [{"kind": "superiority", "arm": 0.01, "versus": 0.001, "delta": 0, "part": 0.6}]},
            "give both or neither",
            "docs",
        ),
        (
            {"claims": [{**CLAIM, "to": 0.001, "part": 0.6}]},
            "with itself",
            "two",
        ),
        ({"claims": [{**CLAIM, "to": 0.1, "part": 0.6}]}, "no arm called '0.1'", "lr=0.0"),
        ({"published": [{"label": "x", "value": 1, "tag": "Z"}]}, "published.0.tag", "docs"),
    ],
)
def test_mistakes_are_named(tmp_path: Path, changes: dict[str, Any], message: str, mend: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read_study(write(tmp_path, **changes))
    assert message in caught.value.message
    assert mend in (caught.value.mend or "")
    assert "mine.yaml" in (caught.value.where or "") or "study mine" in (caught.value.where or "")


def test_a_setting_the_recipe_refuses_is_named(tmp_path: Path) -> None:
    study = read_study(write(tmp_path, settings=["train.tokns=5"]))
    with pytest.raises(ConfigError, match=r"unknown key train\.tokns"):
        cells_of(study)


def test_not_yaml_and_not_a_mapping(tmp_path: Path) -> None:
    for text, message in (("a: [", "not valid YAML"), ("- a", "mapping")):
        (tmp_path / "mine.yaml").write_text(text)
        with pytest.raises(ConfigError, match=message):
            read_study(tmp_path / "mine.yaml")


def test_hash_depends_on_what_is_measured_and_not_on_the_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def first(**changes: Any) -> str:
        return cells_of(read_study(write(tmp_path, **changes)))[0].hash

    plain = first()
    assert first(question="Another?", claims=[], notes="n") == plain
    assert first(settings=["train.tokens=100k", "train.save_every=7", "name=other"]) == plain
    assert first(settings={"train.tokens": 100_000}) == plain
    assert first(settings=["train.tokens=200k"]) != plain
    assert first(evaluate=["$LILLIPUT_TEXT/dev.txt"]) != plain

    monkeypatch.delenv("LILLIPUT_TEXT", raising=False)
    study = read_study(write(tmp_path, settings=["corpus=$LILLIPUT_TEXT/a.txt"], evaluate=["${LILLIPUT_TEXT}/d"]))
    cell = cells_of(study)[0]
    with pytest.raises(ConfigError, match="LILLIPUT_TEXT"):
        fill_in(cell.recipe, "study mine")
    monkeypatch.setenv("LILLIPUT_TEXT", "/data")
    filled = fill_in(cell.recipe, "study mine")
    assert filled.corpus[0].source == "/data/a.txt"
    assert filled.evaluate.text == ["/data/d"]
    assert cells_of(study)[0].hash == cell.hash
    judged = ["inherit.teacher=$LILLIPUT_TEXT/m", "inherit.layers=importance=mine", "inherit.data=$LILLIPUT_TEXT/tasks"]
    for settings, data in ((judged[:1], None), (judged, "/data/tasks")):
        filled = fill_in(cells_of(read_study(write(tmp_path, settings=settings)))[0].recipe, "study mine")
        assert (filled.inherit.teacher, filled.inherit.data) == ("/data/m", data)


def test_keys_that_a_later_recipe_adds_change_no_hash(tmp_path: Path) -> None:
    recipe = cells_of(read_study(write(tmp_path)))[0].recipe.to_dict()
    later = {**recipe, "draft": None, "rounds": [], "merge": {}, "budget": {**recipe["budget"], "watts": None}}
    later["corpus"] = [{**spec, "language": None} for spec in recipe["corpus"]]
    later["tokenizer"] = {**recipe["tokenizer"], "more": {"deep": {"deeper": None}, "also": []}}
    assert cell_hash(later, "bits_per_byte") == cell_hash(recipe, "bits_per_byte")
    # A recipe of before such keys, too, has the hash of today.
    before = {**recipe, "tokenizer": {}, "budget": {"params": recipe["budget"]["params"]}}
    assert cell_hash(before, "bits_per_byte") == cell_hash(recipe, "bits_per_byte")
    for asked in ({"watts": 5}, {"watts": 0}, {"watts": False}, {"watts": ""}):
        other = {**recipe, "budget": {**recipe["budget"], **asked}}
        assert cell_hash(other, "bits_per_byte") != cell_hash(recipe, "bits_per_byte")


def test_the_cells_of_this_repository_are_found_again() -> None:
    for file in sorted(RESULTS.glob("*/study.yaml")):
        for path in (file.parent / "cells").glob("*-seed*.json"):
            cell = read_json(path)
            teacher = cell["teacher"]["hash"] if "teacher" in cell else None
            assert cell["hash"] == cell_hash(cell["recipe"], cell["metric"], teacher), path
        states = {row["state"] for row in study_status(file, results=RESULTS)["cells"]}
        assert "out of date" not in states, file


def test_a_recipe_file_beside_the_study(tmp_path: Path) -> None:
    (tmp_path / "own.yaml").write_text("budget: {params: 123k}\n")
    study = read_study(write(tmp_path, recipe="own.yaml"))
    assert cells_of(study, tmp_path)[0].recipe.budget.params == 123_000


def test_shipped_studies_are_sound(tmp_path: Path) -> None:
    rows = list_studies(tmp_path)
    assert {"smoke", "learning-rate"} <= {row["name"] for row in rows}
    assert {row["name"]: row["total"] for row in rows}["learning-rate"] == 9
    assert all(row["done"] == 0 for row in rows)
    for name in studies_shipped():
        assert load_study(name, tmp_path).name == name


def test_unknown_study_names_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        find_study("smok", tmp_path)
    assert caught.value.mend == "did you mean smoke?"

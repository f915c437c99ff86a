"""docs/studies.md: what it shows can be run, and it names every key there is."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from lilliput.lab.fields import FIELDS
from lilliput.lab.grid import cells_of
from lilliput.lab.spec import Axis, Claim, Classify, Published, Reach, Study, Trend, read_study
from lilliput.plan.encoder import encoder_shape
from lilliput.plan.search import derive_shape

TEXT = (Path(__file__).resolve().parents[2] / "docs" / "studies.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"```yaml\n(.*?)```", TEXT, re.DOTALL)


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda text: text.split("\n")[0].removeprefix("# "))
def test_examples_are_studies(example: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(example, encoding="utf-8")
    study = read_study(path)
    cells = cells_of(study)
    assert len(cells) > 2
    for cell in cells:
        (encoder_shape if cell.recipe.objective == "masked" else derive_shape)(cell.recipe)
    assert all(cell.recipe.corpus[0].source == "$CORPORA/stories.jsonl" for cell in cells)


def test_examples_and_tables_name_every_key() -> None:
    for part in (Study, Axis, Claim, Classify, Published, Reach, Trend):
        for key in part.model_fields:
            assert re.search(rf"(`{key}`|\b{key}: )", TEXT), f"{part.__name__}.{key}"
    for field in FIELDS:
        assert f"`{field}`" in TEXT, field


def test_the_example_has_the_seeds_it_says(tmp_path: Path) -> None:
    path = tmp_path / "shapes.yaml"
    path.write_text(next(text for text in EXAMPLES if "more_seeds" in text), encoding="utf-8")
    study = read_study(path)
    assert [study.seeds_of(arm) for arm in study.arm_settings()] == [[0, 1, 2], [0], [0], [0, 1, 2]]
    assert (study.speed, len(study.correlations)) == (True, 4)

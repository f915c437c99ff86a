"""`make` in rounds: what is refused before any work, what is told, charged, kept and found again."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lilliput.errors import ConfigError
from lilliput.pipeline import Run, make
from lilliput.recipe import Recipe, load_recipe
from lilliput.store import Store
from lilliput.train.metrics import read_metrics

SETTINGS = ("budget.params=40k", "tokenizer.vocab_size=320", "train.tokens=12k", "model.context=32", "train.threads=1")
ROUNDS = ("rounds.count=2", "rounds.parts=2")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return Store(tmp_path_factory.mktemp("store"))


def recipe(corpus: Path, *settings: str) -> Recipe:
    return load_recipe("tiny", [f"corpus={corpus}", *SETTINGS, *ROUNDS, *settings])


@pytest.fixture(scope="module")
def made(corpus: Path, store: Store, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return make(recipe(corpus), tmp_path_factory.mktemp("runs") / "two", store)


def test_rounds_are_told_charged_and_shown(made: dict[str, Any]) -> None:
    folder, told, cost = Path(made["run"]), made["rounds"], made["cost"]
    assert sum(told["steps"]) == cost["steps"]
    assert [row["part"] for row in told["forgetting"]] == [1, 2]
    most = told["drawn"]["most"]
    assert most
    assert all(row["text"] and row["loss"] > 0 for row in most)
    assert cost["scoring"]["tokens"] == told["steps"][0] * cost["tokens"] // cost["steps"]
    training = cost["flops"] - cost["scoring"]["flops"]
    assert cost["scoring"]["flops"] == pytest.approx(training * told["steps"][0] / cost["steps"] / 3)
    rows = [row for row in read_metrics(folder / "metrics.jsonl") if "loss" in row]
    assert np.bincount([row["round"] for row in rows]).tolist() == [0, *told["steps"]]
    assert "What was read again" in (folder / "report.html").read_text()
    # Text of the corpus does not go into the model's folder.
    assert most[0]["text"][:20] not in (folder / "model" / "lilliput.json").read_text()


def test_the_settled_recipe_makes_the_same_model_with_an_empty_store(made: dict[str, Any], tmp_path: Path) -> None:
    settled = load_recipe(str(Path(made["run"]) / "recipe.yaml"))
    assert settled.rounds.count == 2
    again = make(settled, tmp_path / "again", Store(tmp_path / "store"))
    weights = "model/model.safetensors"
    assert (tmp_path / "again" / weights).read_bytes() == (Path(made["run"]) / weights).read_bytes()
    assert again["rounds"] == made["rounds"]


def test_another_folder_finds_weights_and_rounds_in_the_store(
    made: dict[str, Any], corpus: Path, store: Store, tmp_path: Path
) -> None:
    again = make(recipe(corpus), tmp_path / "other", store)
    assert again["rounds"] == made["rounds"]
    assert again["cost"] == made["cost"]
    assert not (tmp_path / "other" / "checkpoints").exists()


def test_another_draw_is_another_run_in_the_same_folder(made: dict[str, Any], corpus: Path, store: Store) -> None:
    with pytest.raises(ConfigError, match=r"another rounds\.rate"):
        make(recipe(corpus, "rounds.rate=0.25"), made["run"], store)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        (("rounds.parts=5000",), "not one of each of 5000 parts"),
        (("rounds.count=9", "train.tokens=200"), "too short for 9 rounds"),
    ],
)
def test_rounds_that_cannot_be_are_refused_before_any_work(
    corpus: Path, tmp_path: Path, settings: tuple[str, ...], expected: str
) -> None:
    with pytest.raises(ConfigError, match=expected):
        Run.prepare(recipe(corpus, *settings), tmp_path / "run", Store(tmp_path / "store"), "cpu")
    assert list(tmp_path.iterdir()) == []


def test_a_law_is_settled_as_a_rate(corpus: Path, store: Store, tmp_path: Path) -> None:
    law = "train.lr_law={lr: 0.004, batch_tokens: 512, power: 1}"
    asked = recipe(corpus, "rounds.count=1", law, "train.batch_tokens=256")
    result = make(asked, tmp_path / "run", store)
    assert result["cost"]["config"]["lr"] == pytest.approx(0.002)
    settled = load_recipe(str(tmp_path / "run" / "recipe.yaml"))
    assert (settled.train.lr, settled.train.lr_law.lr) == (pytest.approx(0.002), None)
    assert "rounds" not in result
    assert "rounds" not in json.loads((tmp_path / "run" / "run.json").read_text())["asked"]

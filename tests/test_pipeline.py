"""The pipeline from Python: what is shared, what is refused, what a kill may leave behind."""

import json
from pathlib import Path
from typing import Any

import pytest

from lilliput.errors import ConfigError
from lilliput.pipeline import DecoderRun, make
from lilliput.recipe import Recipe, load_recipe
from lilliput.store import Store

SETTINGS = ("budget.params=40k", "tokenizer.vocab_size=320", "train.tokens=12k", "model.context=32", "train.threads=1")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return Store(tmp_path_factory.mktemp("store"))


def recipe(corpus: Path, *settings: str) -> Recipe:
    return load_recipe("tiny", [f"corpus={corpus}", *SETTINGS, *settings])


@pytest.fixture(scope="module")
def made(corpus: Path, store: Store, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return make(recipe(corpus), tmp_path_factory.mktemp("runs") / "one", store)


def stages(store: Store) -> dict[str, int]:
    return {kind.name: sum(path.is_dir() for path in kind.iterdir()) for kind in store.root.iterdir()}


def test_another_rate_shares_corpus_tokenizer_and_shards(made, corpus: Path, store: Store, tmp_path: Path) -> None:
    before = stages(store)
    make(recipe(corpus, "train.lr=0.001"), tmp_path / "other", store)
    after = stages(store)
    assert {name: after[name] - before[name] for name in after} == {
        "corpus": 0,
        "tokenizer": 0,
        "shards": 0,
        "weights": 1,
        "scores": 1,
    }


def test_how_it_is_evaluated_may_change_in_the_same_folder(made, corpus: Path, store: Store) -> None:
    before = stages(store)["weights"]
    again = make(recipe(corpus, "evaluate.prompts=[def]"), made["run"], store)
    assert [sample["prompt"] for sample in again["samples"]] == ["def"]
    assert again["bits_per_byte"] == made["bits_per_byte"]
    assert stages(store)["weights"] == before


def test_how_often_it_saves_may_change_but_not_what_is_learned(made, corpus: Path, store: Store) -> None:
    assert make(recipe(corpus, "train.save_every=3"), made["run"], store)["bits_per_byte"] == made["bits_per_byte"]
    with pytest.raises(ConfigError, match=r"another train\.weight_decay"):
        make(recipe(corpus, "train.weight_decay=0"), made["run"], store)


def test_the_settled_recipe_makes_the_same_model_with_an_empty_store(made, tmp_path: Path) -> None:
    settled = load_recipe(str(Path(made["run"]) / "recipe.yaml"))
    again = make(settled, tmp_path / "again", Store(tmp_path / "store"))
    weights = "model/model.safetensors"
    assert (tmp_path / "again" / weights).read_bytes() == (Path(made["run"]) / weights).read_bytes()
    assert again["bits_per_byte"] == made["bits_per_byte"]


def test_a_model_is_trained_further(made, corpus: Path, store: Store, tmp_path: Path) -> None:
    further = load_recipe("tiny", [f"corpus={corpus}", f"from={made['model']}", "train.tokens=20k", "train.threads=1"])
    result = make(further, tmp_path / "further", store)
    assert result["parameters"] == made["parameters"]
    assert result["bits_per_byte"] < made["bits_per_byte"]
    assert any("of a fresh run's peak" in note for note in result["notes"])


def test_a_model_that_is_trained_further_keeps_its_shape(made, corpus: Path, store: Store, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"keeps its shape and tokenizer; model\.depth"):
        make(recipe(corpus, f"from={made['model']}", "model.depth=3"), tmp_path / "x", store)
    assert not (tmp_path / "x").exists()


def test_a_kill_at_the_first_write_blocks_nothing(corpus: Path, store: Store, tmp_path: Path) -> None:
    run = DecoderRun.prepare(recipe(corpus), tmp_path, store, "cpu")
    (tmp_path / ".run.json.abc123").write_text("{")
    (tmp_path / ".model.abc123").mkdir()
    (tmp_path / ".mine").mkdir()
    assert run.finished() is None
    assert [path.name for path in tmp_path.iterdir()] == [".mine"]


def test_a_folder_of_something_else_is_left_alone(corpus: Path, store: Store, tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(ConfigError, match="holds no run"):
        make(recipe(corpus), tmp_path, store)
    assert (tmp_path / "thesis.txt").read_text() == "mine"


def test_a_moved_run_answers_with_its_new_place(made, corpus: Path, store: Store, tmp_path: Path) -> None:
    moved = tmp_path / "moved"
    Path(made["run"]).rename(moved)
    try:
        key = json.loads((moved / "results.json").read_text())["recipe"]["evaluate"]
        again = make(recipe(corpus, f"evaluate.prompts={json.dumps(key['prompts'])}"), moved, store)
        assert again["model"] == str(moved / "model")
    finally:
        moved.rename(made["run"])

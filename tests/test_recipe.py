"""Recipes: what people may write, and what they are told when it is wrong."""

from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from lilliput.errors import ConfigError
from lilliput.recipe import Recipe, build_recipe, known_keys, load_recipe, parse_size, shipped


@pytest.mark.parametrize("name", ["demo", "tiny", "small", "base"])
def test_the_recipes_that_ship_load(name: str) -> None:
    recipe = load_recipe(name)
    assert recipe.name == name
    assert recipe.corpus[0].source == "builtin:python"
    assert recipe.budget.params is not None
    assert set(shipped()) >= {name}


@given(st.integers(1, 10**12))
def test_a_plain_size_reads_as_itself(size: int) -> None:
    assert parse_size(str(size)) == size


@pytest.mark.parametrize(
    ("text", "size"),
    [("300k", 300_000), ("8M", 8_000_000), ("1.5B", 1_500_000_000), ("2e6", 2_000_000), ("7 m", 7 * 10**6)],
)
def test_sizes_read_as_people_write_them(text: str, size: int) -> None:
    assert parse_size(text) == size


def test_settings_change_the_recipe() -> None:
    recipe = load_recipe("tiny", ["train.lr=1e-3", "corpus=[a.txt, {source: b, weight: 2}]", "train.compile=false"])
    assert recipe.train.lr == 1e-3
    assert [spec.weight for spec in recipe.corpus] == [1.0, 2.0]
    assert recipe.train.compile is False


def test_a_horizon_given_by_hand_replaces_the_recipes_own() -> None:
    recipe = load_recipe("demo", ["train.epochs=2"])
    assert (recipe.train.epochs, recipe.train.tokens) == (2.0, None)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        (["train.lrr=3"], "did you mean train.lr?"),
        (["model.depht=2"], "did you mean model.depth?"),
        (["train.lr=-1"], "train.lr"),
        (["train=3"], "has keys of its own"),
        (["budget.params=lots"], "budget.params"),
        (["budget.params=5"], "budget.params"),
        (["corpus=[{sorce: a}]"], "source"),
        (["train.tokens=1", "train={tokens: 1, epochs: 2}"], "give one of"),
        (["seed.x=1"], "seed"),
        (["model.family=lama"], "llama"),
        (["nonsense"], "key=value"),
        (["evaluate.text=3"], "evaluate.text"),
    ],
)
def test_mistakes_are_named_with_a_way_out(settings: list[str], expected: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_recipe("tiny", settings)
    assert expected in str(caught.value)
    assert caught.value.mend


def test_an_unknown_recipe_names_its_neighbour() -> None:
    with pytest.raises(ConfigError, match="did you mean tiny"):
        load_recipe("tinny")


@pytest.mark.parametrize("content", [b"[1, 2]", b"a: [", b"\xff\xfe\x00", b"3"])
def test_a_file_that_is_no_recipe_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "r.yaml"
    path.write_bytes(content)
    with pytest.raises(ConfigError):
        load_recipe(str(path))


def test_a_recipe_survives_its_file() -> None:
    recipe = load_recipe("demo", ["train.lr=0.001", "tokenizer.vocab_size=2k"])
    again = build_recipe(yaml.safe_load(recipe.to_yaml()), where="test")
    assert again == recipe
    assert isinstance(again, Recipe)


def test_every_key_is_described() -> None:
    keys = known_keys()
    assert {"train.lr", "tokenizer.from", "from", "budget.params"} <= set(keys)
    assert all(keys.values())


def test_rounds_and_a_law_that_are_not_asked_for_are_left_out() -> None:
    plain = load_recipe("tiny").to_dict()
    assert "rounds" not in plain
    assert "lr_law" not in plain["train"]
    assert load_recipe("tiny", ["rounds.count=1", "rounds.rate=0.25"]).to_dict() == plain
    asked = load_recipe("tiny", ["rounds.count=2", "train.lr_law={lr: 1e-4, batch_tokens: 1M}"])
    assert asked.to_dict()["rounds"]["parts"] == 8
    assert build_recipe(yaml.safe_load(asked.to_yaml()), where="test") == asked


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        (["rounds.rate=0.25"], "needs rounds.count"),
        (["rounds.count=0"], "rounds.count"),
        (["rounds.count=2", "rounds.rate=0"], "rounds.rate"),
        (["rounds.count=2", "rounds.rate=1.5"], "rounds.rate"),
        (["rounds.count=2", "rounds.parts=0"], "rounds.parts"),
        (["rounds.count=2", "rounds.temperature=0"], "rounds.temperature"),
        (["rounds.count=2", "rounds.weighting=lost"], "rounds.weighting"),
        (["train.lr_law.lr=0.001"], "lr_law.batch_tokens"),
        (["train.lr_law.power=1"], "lr_law.power needs"),
        (["train.lr=0.001", "train.lr_law={lr: 1e-4, batch_tokens: 1M}"], "give one of them"),
    ],
)
def test_rounds_and_laws_that_cannot_be_are_refused(settings: list[str], expected: str) -> None:
    with pytest.raises(ConfigError, match=expected) as caught:
        load_recipe("tiny", settings)
    assert caught.value.mend

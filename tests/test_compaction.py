"""Compaction in a recipe and as a command's work: which size, what is written, what is refused."""

import inspect
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lilliput.compaction import Body, choose_size, compact_folder
from lilliput.errors import ConfigError, TokenizerError, UserError
from lilliput.export.hf import load_model_dir
from lilliput.pipeline import make
from lilliput.plan.rules import rule_size, share
from lilliput.recipe import Recipe, SourceSpec, load_recipe, parse_compact
from lilliput.store import Store
from lilliput.tokenizer.compact import Compactor
from lilliput.tokenizer.count import count_corpus
from lilliput.tokenizer.load import Tokenizer
from lilliput.tokenizer.source import Source, read_source
from lilliput.tokenizer.train import train_tokenizer

SETTINGS = ("budget.params=40k", "train.tokens=8k", "model.context=32", "train.threads=1")


@pytest.fixture(scope="module")
def big(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tokenizer of 1,500 pieces, trained on other text too, so that some pieces are never met."""
    folder = tmp_path_factory.mktemp("tokenizer")
    texts = [corpus.read_text(encoding="utf-8"), inspect.getsource(np.linalg), inspect.getsource(json) * 3]
    train_tokenizer(texts, 1500).save(folder)
    return folder


@pytest.fixture(scope="module")
def compactor(big: Path, corpus: Path) -> Compactor:
    source = read_source(big)
    return Compactor(source, count_corpus(source, [SourceSpec(source=str(corpus))]).ids)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return Store(tmp_path_factory.mktemp("store"))


def recipe(corpus: Path, *settings: str) -> Recipe:
    return load_recipe("tiny", [f"corpus={corpus}", *SETTINGS, *settings])


@pytest.fixture(scope="module")
def trained(corpus: Path, big: Path, store: Store, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A model with all 1,500 pieces."""
    out = tmp_path_factory.mktemp("runs") / "all"
    return make(recipe(corpus, f"tokenizer.from={big}", "budget.params=80k"), out, store)


def compact_here(big: Path, corpus: Path, out: Path, asked: int | float | str, **more: Any) -> dict[str, Any]:
    specs = [SourceSpec(source=str(corpus))]
    return compact_folder(read_source(big), big, out, asked, specs=specs, labels=[None], **more)


def test_a_coverage_takes_the_fewest_pieces_that_reach_it(compactor: Compactor) -> None:
    size, _ = choose_size(compactor, 0.9, lambda: 0)
    assert compactor.coverage(size) >= 0.9 > compactor.coverage(size - 1)
    assert choose_size(compactor, 1.0, lambda: 0)[0] < compactor.full


@pytest.mark.parametrize(("row", "body"), [(16, 30_000), (96, 1_600_000), (2 * 1792, 850_000_000), (8, 1)])
def test_the_rules_size_is_the_largest_multiple_of_64_below_a_fifth(row: int, body: int) -> None:
    size = rule_size(row, body)
    assert size % 64 == 0
    assert share(size + 64, row, body) >= 0.2
    assert size == 64 or share(size, row, body) < 0.2


def test_the_rule_says_whether_both_halves_hold(compactor: Compactor) -> None:
    size, (told,) = choose_size(compactor, "rule", lambda: 1024)
    assert size == 1024
    assert "cover 9" in told
    size, (told,) = choose_size(compactor, "rule", lambda: 1984)
    assert size % 64 == 0
    assert "the tokenizer has 1,500" in told
    size, (told,) = choose_size(compactor, "rule", lambda: 320)
    assert size == 320
    assert "both cannot hold" in told
    with pytest.raises(TokenizerError, match="must stay"):
        choose_size(compactor, "rule", lambda: 64)


def test_a_recipe_takes_a_compacted_tokenizer(corpus: Path, big: Path, store: Store, tmp_path: Path) -> None:
    made = make(recipe(corpus, f"tokenizer.from={big}", "tokenizer.compact=400"), tmp_path / "run", store)
    model, tokenizer = load_model_dir(made["model"])
    assert model.config.vocab_size == tokenizer.vocab_size == 400
    assert made["parameters"] <= 40_000
    again = make(load_recipe(f"{made['run']}/recipe.yaml"), tmp_path / "again", Store(tmp_path / "store"))
    assert again["bits_per_byte"] == made["bits_per_byte"]


def test_a_recipe_takes_a_coverage_or_the_rule(corpus: Path, big: Path, store: Store, tmp_path: Path) -> None:
    covered = make(recipe(corpus, f"tokenizer.from={big}", "tokenizer.compact=60%"), tmp_path / "covered", store)
    by_rule = recipe(corpus, f"tokenizer.from={big}", "tokenizer.compact=rule", "budget.params=90k")
    ruled = make(by_rule, tmp_path / "ruled", store)
    shape = ruled["shape"]
    assert shape["vocab_size"] % 64 == 0
    assert shape["vocab_size"] * shape["width"] / ruled["parameters"] < 0.21
    settled = load_recipe(f"{covered['run']}/recipe.yaml")
    assert settled.tokenizer.compact == covered["shape"]["vocab_size"]


def test_a_trained_model_is_cut_and_goes_on(trained, corpus: Path, store: Store, tmp_path: Path) -> None:
    settings = [f"from={trained['model']}", "tokenizer.compact=0.97", "train.tokens=4k"]
    plain = load_recipe("tiny", [f"corpus={corpus}", "train.threads=1", *settings])
    made = make(plain, tmp_path / "run", store)
    old, _ = load_model_dir(trained["model"])
    new, tokenizer = load_model_dir(made["model"])
    assert new.config.vocab_size == tokenizer.vocab_size < old.config.vocab_size
    assert new.config.width == old.config.width
    assert made["bits_per_byte"] < trained["bits_per_byte"] * 1.1


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        (["tokenizer.compact=400"], "no tokenizer to cut down"),
        (["tokenizer.compact=rules", "tokenizer.from={big}"], "a number of pieces, a coverage"),
        (["tokenizer.compact=0", "tokenizer.from={big}"], "a number of pieces, a coverage"),
        (["tokenizer.compact=400", "tokenizer.vocab_size=400", "tokenizer.from={big}"], "both set the size"),
        (["tokenizer.vocab_size=400", "tokenizer.from={big}"], "has its own size"),
        (["tokenizer.pattern=x"], "for a tokenizer that exists"),
        (["tokenizer.compact=100", "tokenizer.from={big}"], "cannot hold what must stay"),
        (["tokenizer.compact=9000", "tokenizer.from={big}", "budget.params=2M"], "has only 1500 pieces"),
    ],
)
def test_what_cannot_be_is_refused(settings, reason, corpus: Path, big: Path, store: Store, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=reason):
        make(recipe(corpus, *(text.format(big=big) for text in settings)), tmp_path / "run", store)


def test_the_folder_holds_tokenizer_map_report_and_proofs(big: Path, corpus: Path, tmp_path: Path) -> None:
    data = compact_here(big, corpus, tmp_path / "out", 500)
    assert {file.name for file in (tmp_path / "out").iterdir()} == {
        *("tokenizer.json", "tokenizer_config.json", "ids.json", "report.json", "report.html", "witnesses.json")
    }
    old, new = read_source(big), read_source(tmp_path / "out")
    back = json.loads((tmp_path / "out" / "ids.json").read_text())["old"]
    names = {number: piece for piece, number in old.pieces.items()}
    assert {piece: names[back[number]] for piece, number in new.pieces.items()} == {p: p for p in new.pieces}
    proofs = json.loads((tmp_path / "out" / "witnesses.json").read_text())
    backend = new.backend()
    for number, text in proofs.items():
        assert int(number) in backend.encode(text, add_special_tokens=False).ids
    assert data["vocab_size"] == 500 == len(proofs) + data["unreachable"]["kept"]
    assert not data["unproved"]
    assert data["bytes_per_token"]["after"] < data["bytes_per_token"]["before"]


def test_a_folder_with_a_class_of_its_own_is_written_again(big: Path, corpus: Path, tmp_path: Path) -> None:
    """A model directory that ships code is cut with it; the same command must not stumble over that."""
    compact_here(big, corpus, tmp_path / "out", 500)
    (tmp_path / "out" / "modeling_own.py").write_text("", encoding="utf-8")
    assert compact_here(big, corpus, tmp_path / "out", 450)["vocab_size"] == 450


def test_the_same_input_gives_the_same_files(big: Path, corpus: Path, tmp_path: Path) -> None:
    for name in ("one", "two"):
        compact_here(big, corpus, tmp_path / name, 450)
    for file in (tmp_path / "one").iterdir():
        assert file.read_bytes() == (tmp_path / "two" / file.name).read_bytes(), file.name


def test_a_model_directory_is_cut_with_its_tokenizer(trained, corpus: Path, tmp_path: Path) -> None:
    folder = Path(trained["model"])
    data = compact_here(folder, corpus, tmp_path / "new", 700)
    old, _ = load_model_dir(folder)
    new, tokenizer = load_model_dir(tmp_path / "new")
    kept = torch.tensor(json.loads((tmp_path / "new" / "ids.json").read_text())["old"])
    ids = torch.tensor([tokenizer.encode("def of(self): return None  # whatever it is")])
    with torch.no_grad():
        assert torch.allclose(old(kept[ids])[..., kept], new(ids), atol=1e-6)
    assert data["parameters"]["after"] == new.config.parameters()
    assert data["share"]["after"] < data["share"]["before"]


def test_counts_stand_in_for_the_corpus(big: Path, corpus: Path, tmp_path: Path) -> None:
    source = read_source(big)
    count_corpus(source, [SourceSpec(source=str(corpus))]).save(tmp_path / "counts.json")
    data = compact_folder(source, big, tmp_path / "a", 500, specs=[], labels=[], counts=tmp_path / "counts.json")
    compact_here(big, corpus, tmp_path / "b", 500)
    assert data["bytes_per_token"]["after"] is None
    assert (tmp_path / "a" / "tokenizer.json").read_bytes() == (tmp_path / "b" / "tokenizer.json").read_bytes()
    other = train_tokenizer(["another tokenizer altogether"] * 9, 280)
    other.save(tmp_path / "other")
    foreign, counts = read_source(tmp_path / "other"), tmp_path / "counts.json"
    with pytest.raises(TokenizerError, match="another tokenizer"):
        compact_folder(foreign, tmp_path, tmp_path / "c", 270, specs=[], labels=[], counts=counts)


def test_lengths_are_of_the_text_named_even_if_the_counts_are_of_another(big: Path, corpus: Path, tmp_path) -> None:
    source = read_source(big)
    other = tmp_path / "other.txt"
    other.write_text("zebra quagga okapi gnu kudu eland oryx. " * 200)
    count_corpus(source, [SourceSpec(source=str(corpus))]).save(tmp_path / "counts.json")
    specs = [SourceSpec(source=str(other))]
    data = compact_folder(
        source, big, tmp_path / "a", 500, specs=specs, labels=[None], counts=tmp_path / "counts.json"
    )
    plain = count_corpus(source, specs)
    assert data["bytes_per_token"]["before"] == plain.bytes / plain.tokens
    assert sum(found["bytes"] for found in data["languages"].values()) == plain.bytes


def test_a_coverage_reads_the_same_everywhere() -> None:
    for text in ("0.97", ".97", "97%", 0.97):
        assert parse_compact(text) == 0.97
    assert (parse_compact("100%"), parse_compact("4k"), parse_compact("rule")) == (1.0, 4000, "rule")


def test_neither_the_source_nor_other_peoples_files_are_written_over(big: Path, corpus: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="what it is made from"):
        compact_here(big, corpus, big, 500)
    compact_here(big, corpus, tmp_path / "out", 500)
    (tmp_path / "out" / "mine.txt").write_text("mine")
    with pytest.raises(ConfigError, match=r"holds mine\.txt"):
        compact_here(big, corpus, tmp_path / "out", 480)


def test_the_full_size_of_numbers_with_gaps(big: Path, corpus: Path, tmp_path: Path) -> None:
    definition = json.loads((big / "tokenizer.json").read_text())
    vocab = definition["model"]["vocab"]
    definition["model"]["vocab"] = {piece: 2 * number for piece, number in vocab.items()}
    for token in definition["added_tokens"]:
        token["id"] *= 2
    definition["post_processor"] = None
    (tmp_path / "gaps").mkdir()
    (tmp_path / "gaps" / "tokenizer.json").write_text(json.dumps(definition))
    data = compact_here(tmp_path / "gaps", corpus, tmp_path / "out", len(vocab))
    assert data["vocab_size"] == len(vocab)
    assert not data["unproved"]


def test_a_folder_of_something_else_is_left_alone(big: Path, corpus: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "precious").write_text("mine")
    with pytest.raises(ConfigError, match="not empty"):
        compact_here(big, corpus, tmp_path / "out", 500)
    assert (tmp_path / "out" / "precious").read_text() == "mine"
    compact_here(big, corpus, tmp_path / "ours", 500)
    assert compact_here(big, corpus, tmp_path / "ours", 480)["vocab_size"] == 480


def test_the_rule_needs_a_body(big: Path, corpus: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="needs a model"):
        compact_here(big, corpus, tmp_path / "out", "rule")
    data = compact_here(big, corpus, tmp_path / "out", "rule", body=Body(64, 200_000))
    assert data["vocab_size"] == rule_size(64, 200_000) == 768
    assert data["share"]["after"] < 0.2 < data["share"]["before"]


def test_what_a_normaliser_loses_is_told_with_an_example(corpus: Path, tmp_path: Path, capfd) -> None:
    tokenizer = train_tokenizer([corpus.read_text(encoding="utf-8")], 600)
    definition = read_from(tokenizer)
    definition["normalizer"] = {"type": "Lowercase"}
    (tmp_path / "lower").mkdir()
    (tmp_path / "lower" / "tokenizer.json").write_text(json.dumps(definition))
    data = compact_here(tmp_path / "lower", corpus, tmp_path / "out", 400)
    assert data["normaliser"]["name"] == "Lowercase"
    assert ["T", "t"] in data["normaliser"]["changes"]
    assert "comes back as" in capfd.readouterr().err


def read_from(tokenizer: Tokenizer) -> dict[str, Any]:
    return json.loads(tokenizer.backend.to_str())


def test_a_number_that_two_pieces_share_is_refused(big: Path) -> None:
    source = read_source(big)
    definition = json.loads(json.dumps(source.definition))
    definition["model"]["vocab"]["shared"] = 300
    with pytest.raises(TokenizerError, match="the number 300"):
        Compactor(Source(definition, {}, "test"), np.ones(source.vocab_size, np.int64))


def test_an_empty_count_is_refused(big: Path) -> None:
    source: Source = read_source(big)
    with pytest.raises(TokenizerError, match="nothing was counted"):
        Compactor(source, np.zeros(source.vocab_size, np.int64))
    with pytest.raises(TokenizerError, match="counts of 3 numbers"):
        Compactor(source, np.ones(3, np.int64))



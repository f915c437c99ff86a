"""Encoders from text to a committee: made, fine-tuned, tested, saved, used; every model tiny and real."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lilliput.classify import Job, classify, prepare
from lilliput.committee import Members, committee
from lilliput.corpus.labelled import Rows
from lilliput.corpus.layouts import Labelled
from lilliput.errors import ConfigError, CorpusError, ModelError
from lilliput.export.encoder_dir import fill_encoder, load_encoder
from lilliput.model.encoder import Classifier, initialise_encoder
from lilliput.pipeline import make
from lilliput.recipe import Recipe, load_recipe
from lilliput.serving import open_classifier
from lilliput.store import Store
from lilliput.train.labels import TellLabels
from lilliput.tuning import LOGITS, TABLES, Start, Tuning, encode, fine_tune, sample, scale_tables

CPU = torch.device("cpu")
TUNING = Tuning(epochs=10, batch=8, lr=3e-3, length=16)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return Store(tmp_path_factory.mktemp("store"))


def recipe(corpus: Path, *settings: str) -> Recipe:
    small = ("budget.params=60k", "tokenizer.vocab_size=400", "model.context=24", "train.tokens=12k")
    return load_recipe("tiny", [f"corpus={corpus}", "objective=masked", *small, "evaluate.bytes=4k", *settings])


@pytest.fixture(scope="module")
def made(corpus: Path, store: Store, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return make(recipe(corpus), tmp_path_factory.mktemp("runs") / "encoder", store)


def rows(count: int, start: int = 0) -> Rows:
    """Texts whose label one word tells."""
    found = Rows()
    for at in range(start, start + count):
        label, word = (("sum", "median"), ("type", "generic"))[at % 2]
        found.add(f"{word} {at % 7} of {word} {at // 7 % 7} and {word}", label)
    return found


DATA = Labelled("words", rows(40), rows(20, 52), {"sum": "Sums"}, [])


def test_an_encoder_is_made_and_the_same_call_answers_at_once(made, corpus, store):
    assert made["bits_per_byte"] is None
    assert 0 < made["masked_loss"] < np.log(400) + 0.5
    assert made["held_out"]["low"] < made["masked_loss"] < made["held_out"]["high"]
    again = make(recipe(corpus), made["run"], store)
    assert again["masked_loss"] == made["masked_loss"]
    settled = load_recipe(str(Path(made["run"]) / "recipe.yaml"), [f"corpus={corpus}"])
    other = make(settled, Path(made["run"]).with_name("settled"), store)
    assert other["masked_loss"] == made["masked_loss"]
    assert "tokens seen" in Path(made["report"]).read_text()
    encoder, tokenizer, special = load_encoder(made["model"])
    assert encoder.config.parameters() == made["parameters"] <= 60_000
    assert tokenizer.token(special.mask) == "[MASK]"


def test_transformers_fills_its_masks(made):
    transformers = pytest.importorskip("transformers")
    best = transformers.pipeline("fill-mask", model=made["model"])("the [MASK] of the data")
    encoder, tokenizer, special = load_encoder(made["model"])
    ids = [special.cls, *tokenizer.encode("the"), special.mask, *tokenizer.encode("of the data"), special.sep]
    with torch.no_grad():
        mine = encoder.eval()(torch.tensor([ids]))[0].softmax(-1)
    at = ids.index(special.mask)
    assert best[0]["token"] == int(mine[at].argmax())
    assert best[0]["score"] == pytest.approx(float(mine[at].max()), abs=1e-5)


def test_an_encoder_is_trained_further_and_keeps_its_shape(made, corpus, store, tmp_path):
    small = (f"from={made['model']}", "train.tokens=2k", "evaluate.bytes=2k", f"corpus={corpus}", "objective=masked")
    further = make(load_recipe("tiny", ["budget.params=null", *small]), tmp_path / "further", store)
    assert further["parameters"] == made["parameters"]
    with pytest.raises(ConfigError, match="keeps its shape"):
        make(load_recipe("tiny", ["budget.params=null", *small, "model.depth=2"]), tmp_path / "no", store)
    with pytest.raises(ConfigError, match=r"rounds\.count"):
        make(load_recipe("tiny", ["budget.params=null", *small, "rounds.count=2"]), tmp_path / "no", store)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (["objective=masked", "model.family=llama"], "goes with model.family bert"),
        (["model.conv=2"], "model.conv is for objective=masked"),
        (["objective=masked", "rounds.count=2"], "rounds.count"),
        (["objective=masked", "model.rope_theta=1e6"], "model.rope_theta"),
        (["objective=masked", "model.width=96", "model.heads=2", "model.head_dim=32"], "share the width out"),
        (["objective=masked", "budget.params=20k"], "budget.params="),
    ],
)
def test_what_an_encoder_cannot_be_is_refused_before_work(settings, said, tmp_path, store, corpus):
    with pytest.raises(ConfigError) as caught:
        make(load_recipe("tiny", [f"corpus={corpus}", *settings]), tmp_path / "run", store)
    assert said in str(caught.value)
    assert not (tmp_path / "run").exists()


@pytest.fixture(scope="module")
def tuned(made, store, tmp_path_factory) -> dict[str, Any]:
    out = tmp_path_factory.mktemp("tuned") / "words"
    return classify(Job(Start.read(Path(made["model"])), DATA, TUNING, [0, 1], out, store, CPU))


def test_a_classifier_learns_and_stands_beside_the_baseline(tuned, store, made):
    assert tuned["accuracy"]["value"] > 0.9
    assert tuned["baseline"]["accuracy"]["value"] == 1.0
    assert tuned["accuracy"]["low"] <= tuned["accuracy"]["value"] <= tuned["accuracy"]["high"]
    assert [one["seed"] for one in tuned["per_seed"]] == [0, 1]
    same = Job(Start.read(Path(made["model"])), DATA, TUNING, [0, 1], Path(tuned["run"]), store, CPU)
    again = classify(same)
    assert again["accuracy"] == tuned["accuracy"]
    page = Path(tuned["report"]).read_text()
    assert "Labels of words" in page
    assert "Training loss" in page
    assert "confusion" not in json.loads((Path(tuned["model"]) / "lilliput.json").read_text())
    with pytest.raises(ConfigError, match="another classifier"):
        classify(replace(same, seeds=[2]))


def test_what_is_saved_tells_the_same_in_transformers(tuned):
    transformers = pytest.importorskip("transformers")
    texts = ["median 3 of median 4 and median", "a generic type [SEP] of it", ""]
    opened = open_classifier(Path(tuned["model"]), CPU)
    assert opened.length == TUNING.length
    mine = opened.tell(texts)
    theirs = transformers.pipeline("text-classification", model=tuned["model"])(texts)
    for (label, share), other in zip(mine, theirs, strict=True):
        assert label == other["label"]
        assert share == pytest.approx(other["score"], abs=1e-4)
    assert mine[0][0] == "Sums"


def test_a_killed_fine_tuning_goes_on_to_the_same_answers_and_no_other_start_goes_on_from_it(
    made, tmp_path, monkeypatch
):
    start, task = Start.read(Path(made["model"])), prepare(DATA).task
    whole = fine_tune(start, task, TUNING, 3, tmp_path / "w", Store(tmp_path / "one"), CPU)

    def begin(self, model, step):
        if step == 20:
            raise KeyboardInterrupt

    for begun in (replace(start, scratch=True), start):
        with monkeypatch.context() as patched:
            patched.setattr(TellLabels, "begin", begin)
            with pytest.raises(KeyboardInterrupt):
                fine_tune(start, task, TUNING, 3, tmp_path / "v", Store(tmp_path / "two"), CPU)
        assert list((tmp_path / "v").glob("*/checkpoints"))
        again = fine_tune(begun, task, TUNING, 3, tmp_path / "v", Store(tmp_path / "two"), CPU)
        assert np.array_equal(np.load(again.path / LOGITS), np.load(whole.path / LOGITS)) == (begun is start)
        assert not (tmp_path / "v").exists()


def test_scaling_the_tables_changes_no_output(made):
    encoder, _, _ = load_encoder(made["model"])
    model = Classifier(encoder.config, 3)
    initialise_encoder(model, 0)
    fill_encoder(model, Path(made["model"]), body=True)
    ids = torch.randint(5, encoder.config.vocab_size, (3, 20), generator=torch.Generator().manual_seed(0))
    before = model.eval()(ids)
    scale_tables(model)
    table = model.bert.embeddings.word_embeddings.weight
    assert float(table.detach().square().mean().sqrt()) == pytest.approx(TABLES, rel=1e-4)
    assert torch.allclose(model(ids), before, atol=1e-5)
    kept = table.detach().clone()
    scale_tables(model)
    assert torch.allclose(table, kept, rtol=1e-4)


def test_from_scratch_takes_no_weights(made):
    begun = Start.read(Path(made["model"]), scratch=True)
    assert begun.identity()["weights"] == {}
    assert Start.read(Path(made["model"])).identity()["weights"]


def test_odd_rows_are_told_and_count_as_said():
    train, test = rows(12), rows(4, 52)
    train.add("  ", "sum")
    train.add(test.texts[0], "sum")
    for at in range(30):
        train.add(f"more {at}", "type")
    test.add("never met", "unheard")
    test.add("", "sum")
    prepared = prepare(Labelled("odd", train, test, {}, ["a note"]))
    told = "\n".join(prepared.told)
    assert prepared.task.truth.tolist() == [0, 1, 0, 1, -1, 0]
    assert len(prepared.task.train) == 42
    for said in ("a note", "1 training rows without text", "also a test row's", "unheard", "uneven", "no text"):
        assert said in told
    with pytest.raises(CorpusError, match="one label"):
        prepare(Labelled("one", Rows(["a", "b"], ["x", "x"]), test, {}, []))


def test_rows_are_drawn_anew_for_each_seed_and_the_same_for_every_encoder():
    task = prepare(DATA).task
    one, two = sample(task, 5, 0), sample(task, 5, 1)
    assert one.tolist() == sample(task, 5, 0).tolist() != two.tolist()
    assert np.bincount(task.known[one]).tolist() == [5, 5]
    assert len(sample(task, 999, 0)) == 40


def test_texts_are_cut_and_padded(made):
    start = Start.read(Path(made["model"]))
    ids, cut = encode(start.tokenizer, start.config, ["the", "the " * 50, ""], 10)
    assert ids.shape == (3, 10)
    assert cut == 1
    assert ids[2].tolist() == [start.config.cls_id, start.config.sep_id] + [-100] * 8
    with pytest.raises(ConfigError, match="hold no text"):
        encode(start.tokenizer, start.config, ["a"], 2)


@pytest.mark.usefixtures("own_modules")
def test_a_committee_is_one_model(made, store, tmp_path):
    transformers = pytest.importorskip("transformers")
    members = Members(None, (Path(made["model"]),), (0, 1, 2))
    found = committee(members, DATA, TUNING, "softmax", tmp_path / "three", store, "cpu")
    assert [row["members"] for row in found["by_size"]] == [1, 2, 3]
    assert found["oracle"] >= max(found["members"])
    assert found["shared_pretraining"]
    assert found["latency"][0]["one_after_another"]["ms"] > 0
    opened = open_classifier(Path(found["model"]), CPU)
    mine = opened.tell(["the median of it", "a generic one"])
    theirs = transformers.pipeline("text-classification", model=found["model"], trust_remote_code=True)(
        ["the median of it", "a generic one"]
    )
    for (label, share), other in zip(mine, theirs, strict=True):
        assert label == other["label"]
        assert share == pytest.approx(other["score"], abs=1e-4)
    again = committee(members, DATA, TUNING, "softmax", tmp_path / "three", store, "cpu")
    assert again["softmax"] == json.loads((tmp_path / "three" / "results.json").read_text())["softmax"]


def test_members_of_a_recipe_have_pretrainings_of_their_own(corpus, store, tmp_path):
    plain = recipe(corpus, "train.tokens=2k")
    starts = Members(plain, (), (0, 1)).starts(tmp_path, store, "cpu")
    weights = [start.identity()["weights"] for start in starts]
    assert weights[0] != weights[1]
    assert starts[0].tokenizer.hash == starts[1].tokenizer.hash


def test_a_decoder_is_no_encoder(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(Exception, match=r"tokenizer|no encoder") as caught:
        Start.read(tmp_path)
    assert caught.value.where
    with pytest.raises(ModelError, match="no model here"):
        Start.read(tmp_path / "absent")

"""Byte-pooled models from text to use: made, resumed, scored, asked, written with, trained further; what cannot be is
refused in a line."""

import json
from pathlib import Path
from typing import Any

import pytest

from lilliput.cli.main import run as command
from lilliput.cli.writer import Sampling, Writer
from lilliput.errors import ConfigError
from lilliput.evaluate.bits import bits_per_byte
from lilliput.evaluate.reader import CausalReader
from lilliput.export.hf import load_model_dir
from lilliput.model.byte_pool import BytePool
from lilliput.model.byte_pool_config import BytePoolConfig
from lilliput.pipeline import make
from lilliput.plan.search import derive_shape
from lilliput.recipe import load_recipe
from lilliput.store import Store

SMALL = ["model.family=byte-pool", "model.depth=1", "model.width=32", "model.context=32", "train.tokens=1280"]
SMALL += ["train.batch_tokens=128", "evaluate.bytes=2000", "train.eval_every=5"]


def run(corpus: Path, out: Path, *settings: str, store: Store | None = None) -> dict[str, Any]:
    return make(load_recipe("tiny", [f"corpus={corpus}", *SMALL, *settings]), out, store)


@pytest.fixture(scope="module")
def made(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return run(corpus, tmp_path_factory.mktemp("made") / "run")


def test_a_model_is_made_and_scored_exactly(made: dict[str, Any], corpus: Path) -> None:
    model, units = load_model_dir(made["model"])
    assert isinstance(model, BytePool)
    assert made["parameters"] == sum(p.numel() for p in model.parameters())
    assert 0 < made["bits_per_byte"] < 9
    text = corpus.read_text(encoding="utf-8")[:3000]
    whole = bits_per_byte(model, units, [text, "", text[:200]])
    assert whole.bytes.tolist() == [len(text.encode()), 0, 200]
    one = bits_per_byte(model, units, [text], batch=1)
    assert one.nats[0] == pytest.approx(whole.nats[0], rel=1e-5)
    assert whole.tokens == units.length(units.encode(text)) + units.length(units.encode(text[:200]))


def test_a_stopped_run_goes_on_exactly(
    made: dict[str, Any], corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lilliput.train import loop

    saved = loop._Run._save

    def stop(self: loop._Run) -> None:
        saved(self)
        if self.step == 6:
            raise KeyboardInterrupt

    store = Store(tmp_path / "store")
    with monkeypatch.context() as patched:
        patched.setattr(loop._Run, "_save", stop)
        with pytest.raises(KeyboardInterrupt):
            run(corpus, tmp_path / "run", "train.save_every=3", store=store)
    again = run(corpus, tmp_path / "run", "train.save_every=3", store=store)
    one, other = (Path(results["model"]) / "model.safetensors" for results in (made, again))
    assert one.read_bytes() == other.read_bytes()


def test_it_writes_valid_text_in_units(made: dict[str, Any]) -> None:
    writer = Writer(Path(made["model"]), "cpu")
    how = Sampling(12, 1.0, 0.9, None, 3, ())
    for prompt in ("", "def über", "x" * 5000):
        reply = writer.reply(writer.start(prompt), how)
        text = "".join(reply)
        assert text.encode().decode() == text
        assert reply.tokens == 12 or reply.ended == "eos"
    assert writer.tokenizer.length(writer.start("word " * 500)) < writer.context


def test_tasks_are_asked_by_the_same_protocol(made: dict[str, Any]) -> None:
    model, units = load_model_dir(made["model"])
    reader = CausalReader(model, units)
    requests = [("def f", "(self):"), ("", "return"), ("a " * 60, "return self"), ("x", "")]
    found = reader.likelihoods(requests, None)
    bits = bits_per_byte(model, units, ["return"])
    assert found.log_p[1] == pytest.approx(-bits.nats[0], rel=1e-4)
    assert found.cut == 1
    alone = CausalReader(model, units, batch=1).likelihoods(requests, None)
    assert alone.log_p == pytest.approx(found.log_p, rel=1e-4)
    assert "\n" not in reader.write([("def f", "(")], 8, None).texts[0]


def test_a_parallel_head_is_labelled(corpus: Path, tmp_path: Path) -> None:
    found = run(corpus, tmp_path / "run", "model.byte_head=parallel")
    assert found["bits_per_byte"] is None
    assert found["pseudo_bits_per_byte"] == found["held_out"]["bits_per_byte"] > 0
    assert found["held_out"]["pseudo"]
    assert "pseudo bits per byte" in Path(found["report"]).read_text(encoding="utf-8")


def test_it_is_trained_further(made: dict[str, Any], corpus: Path, tmp_path: Path) -> None:
    settings = [f"from={made['model']}", f"corpus={corpus}", "train.tokens=256", "train.batch_tokens=128"]
    found = make(load_recipe("tiny", [*settings, "evaluate.bytes=2000"]), tmp_path / "run")
    assert found["parameters"] == made["parameters"]
    info = json.loads((Path(found["model"]) / "lilliput.json").read_text(encoding="utf-8"))
    assert info["shape"]["family"] == "byte-pool"
    for asked in ("rounds.count=2", "train.layer_dropout=0.5", "train.exit_loss=0.5"):
        with pytest.raises(ConfigError, match=f"has no {asked.partition('=')[0]}"):
            make(load_recipe("tiny", [*settings, asked]), tmp_path / "other")
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize(
    "setting",
    [
        "tokenizer.vocab_size=512", "tokenizer.compact=300", "rounds.count=2", "inherit.teacher=x", "model.tied=true",
        "model.series=2", "objective=masked", "budget.speed=10",
    ],
)  # fmt: skip
def test_what_byte_pools_have_not_is_refused(setting: str, corpus: Path) -> None:
    with pytest.raises(ConfigError) as refused:
        load_recipe("tiny", [f"corpus={corpus}", *SMALL, setting])
    assert len(str(refused.value).splitlines()) == 1


@pytest.mark.parametrize("setting", ["model.unit=12", "model.byte_head=parallel"])
def test_keys_of_byte_pools_are_for_them(setting: str, corpus: Path) -> None:
    with pytest.raises(ConfigError, match="byte-pool"):
        load_recipe("tiny", [f"corpus={corpus}", setting])


def test_other_models_recipes_say_nothing_of_it() -> None:
    assert not set(load_recipe("tiny", []).to_dict()["model"]) & {"unit", "pool", "byte_head", "byte_width"}


@pytest.mark.parametrize("verb", ["inherit", "tokenizer compact", "speed", "tokenizer count"])
def test_what_it_cannot_be_used_for_is_refused(
    verb: str, made: dict[str, Any], corpus: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    more = {
        "inherit": ["layers=1", "--corpus", str(corpus), "--out", str(tmp_path / "out")],
        "tokenizer compact": ["--corpus", str(corpus), "--vocab-size", "300", "--out", str(tmp_path / "out")],
        "tokenizer count": ["--corpus", str(corpus)],
        "speed": [],
    }
    assert command([*verb.split(), made["model"], *more[verb], "--json"]) == 2
    error = json.loads(capfd.readouterr().out)["error"]
    assert "byte-pooled" in error["message"]


@pytest.mark.parametrize("name", ["stlm-10m", "stlm-50m", "stlm-100m"])
def test_the_twins_have_one_size_and_small_tables(name: str) -> None:
    pieces, units = derive_shape(load_recipe(name)), derive_shape(load_recipe(f"{name}-bytes"))
    assert isinstance(units, BytePoolConfig)
    assert units.replaced_share() <= 0.10
    assert units.parameters() == pytest.approx(pieces.parameters(), rel=0.05)
    small = derive_shape(load_recipe(f"{name}-bytes", ["budget.params=1M"]))
    assert 900_000 < small.parameters() <= 1_000_000


def test_a_plan_shows_the_share_and_is_a_recipe(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    asked = ["plan", "--params", "1M", "--family", "byte-pool", "--no-speed", "--json", "--out", str(tmp_path)]
    assert command(asked) == 0
    plan = json.loads(capfd.readouterr().out)["plans"][0]
    assert plan["tokens_per_second"] is None
    assert any("of two tables of 50,257 pieces" in rule for rule in plan["rules"])
    assert derive_shape(load_recipe(str(tmp_path / "plan.yaml"))).parameters() == plan["parameters"]

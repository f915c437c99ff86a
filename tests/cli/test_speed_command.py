"""`lilliput speed` as people call it: models, plans and recipes in one table, the JSON, and one line for a mistake."""

import json
import os
from dataclasses import asdict

import pytest

from lilliput.cli.main import run
from lilliput.cli.speed import find
from lilliput.errors import ConfigError, ModelError
from lilliput.evaluate.speed import random_model
from lilliput.export.weights import WEIGHTS, write_weights
from lilliput.model import ModelConfig
from lilliput.plan.search import derive_shape
from lilliput.recipe import load_recipe
from lilliput.tokenizer.train import train_tokenizer

SHAPE = ModelConfig(
    vocab_size=300, depth=2, width=32, heads=2, kv_heads=1, head_dim=16, ffn=48, context=16, bos_id=0, eos_id=1
)
PLAN = """
tokenizer: {vocab_size: 320}
model: {depth: 3, width: 48, heads: 3, kv_heads: 1, head_dim: 16, expansion: 2.5, context: 64, tied: true}
"""
SHORT = ("--new", 20, "--repeats", 2, "--warmups", 0)
CONTRACT = {"model", "batch", "per_sequence", "total", "first_token_ms", "peak_mb"}
BESIDE = {"device", "dtype", "threads", "prefix", "new", "seconds", "runs", "parameters", "shape", "rewinds", "weights"}


def _model(folder):
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(SHAPE.to_hf()))
    write_weights(folder / WEIGHTS, random_model(SHAPE))
    return folder


def test_a_model_a_plan_and_a_recipe_in_one_table(lilliput, tmp_path):
    _model(tmp_path / "run" / "model")
    (tmp_path / "plan.yaml").write_text(PLAN)
    ran = lilliput("speed", "run", "plan.yaml", "tiny", "--batch", 2, *SHORT, "--threads", 1, "--json", "--quiet")
    assert ran.code == 0, ran.err
    assert ran.err == ""
    rows = ran.json["rows"]
    assert [row["model"] for row in rows] == [str(tmp_path / "run" / "model"), str(tmp_path / "plan.yaml"), "tiny"]
    assert [row["weights"] for row in rows] == ["given", "random", "random"]
    for row in rows:
        assert row.keys() >= CONTRACT | BESIDE
        assert (row["batch"], row["new"], row["prefix"], len(row["runs"])) == (2, 20, 2, 2)
        assert (row["device"], row["dtype"], row["threads"]) == ("cpu", "fp32", 1)
        assert row["total"] == pytest.approx(2 * row["per_sequence"])
        assert row["peak_mb"] > 0
        assert row["parameters"] == ModelConfig(**row["shape"]).parameters()
    assert rows[0]["shape"] == asdict(SHAPE)
    assert rows[0]["rewinds"] > 0 == rows[1]["rewinds"]
    assert ran.json["protocol"] == {"prefix": 2, "new": 20, "repeats": 2, "warmups": 0}
    assert ran.json.keys() >= {"machine", "versions"}


def test_both_batches_by_default_and_a_table_that_explains_itself(lilliput, tmp_path):
    _model(tmp_path / "run" / "model")
    many = (os.cpu_count() or 1) + 1
    ran = lilliput("speed", "run", *SHORT, "--threads", many)
    assert ran.code == 0, ran.err
    assert ran.err.startswith(f"warning: {many} threads on ")
    lines, size = ran.out.splitlines(), f"{SHAPE.parameters():,}"
    assert [line.split()[:3] for line in lines[1:3]] == [["run/model*", size, "1"], ["run/model*", size, "20"]]
    assert f"cpu, fp32, {many} threads; 2 prefix and 20 new tokens, greedy; median of 2 runs" in ran.out
    assert "*: the text outgrows the context" in lines[-1]


def test_a_plan_is_measured_in_the_shape_it_fixes(tmp_path):
    (tmp_path / "plan.yaml").write_text(PLAN)
    target = find(str(tmp_path / "plan.yaml"))
    assert target.folder is None
    assert target.shape == derive_shape(load_recipe(str(tmp_path / "plan.yaml")))
    assert (target.shape.depth, target.shape.width, target.shape.vocab_size) == (3, 48, 320)


def test_the_folder_that_plan_writes_will_do(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    assert run(["plan", "--params", "100k", "--no-speed", "--out", "phone", "--json", "--quiet"]) == 0
    target = find("phone")
    assert target.name == str(tmp_path / "phone" / "plan.yaml")
    assert target.folder is None
    assert target.shape.parameters() == json.loads(capfd.readouterr().out)["plans"][0]["parameters"]


def test_a_model_counts_before_a_plan_beside_it(tmp_path):
    folder = _model(tmp_path / "both")
    (folder / "plan.yaml").write_text(PLAN)
    assert find(str(folder)).folder == folder


def test_a_plan_with_a_tokenizer_has_as_many_pieces(tmp_path):
    """Its size stands in the tokenizer, not in the plan."""
    tokenizer = train_tokenizer(["some words and some more words"] * 20, 270)
    tokenizer.save(tmp_path / "pieces")
    (tmp_path / "plan.yaml").write_text(PLAN.replace("vocab_size: 320", f"from: {tmp_path / 'pieces'}"))
    assert find(str(tmp_path / "plan.yaml")).shape.vocab_size == tokenizer.vocab_size


def test_a_recipe_that_goes_on_from_a_model_has_its_shape(tmp_path):
    (tmp_path / "more.yaml").write_text(f"from: {_model(tmp_path / 'model')}\n")
    assert find(str(tmp_path / "more.yaml")).shape == SHAPE


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nowhere"], "no model, plan or recipe called 'nowhere'"),
        (["tiiny"], "did you mean tiny?"),
        (["tiny", "--new", 0], "new is 0"),
        (["tiny", "--prefix", 0], "prefix is 0"),
        (["tiny", "--dtype", "fp8"], "no such dtype: fp8"),
        (["tiny", "--device", "cuda:77"], "no such GPU"),
        (["."], "config.json is absent"),
        ([], "Missing argument"),
    ],
)
def test_a_mistake_gives_one_line_before_any_work(words, message, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    assert run(["speed", *map(str, words)]) == 2
    out, err = capfd.readouterr()
    assert out == ""
    assert message.lower() in err.lower()
    assert err.count("\n") == 1


def test_a_folder_or_file_that_holds_no_model(tmp_path):
    with pytest.raises(ModelError, match="absent"):
        find(str(tmp_path))
    (tmp_path / "list.yaml").write_text("- a\n- b\n")
    with pytest.raises(ConfigError, match="mapping"):
        find(str(tmp_path / "list.yaml"))


def test_damaged_weights_are_told_in_one_line(lilliput, tmp_path):
    folder = _model(tmp_path / "model")
    (folder / WEIGHTS).write_bytes(b"nothing")
    ran = lilliput("speed", "model", *SHORT, "--json")
    assert ran.code == 2
    assert ran.json["error"]["kind"] == "model"

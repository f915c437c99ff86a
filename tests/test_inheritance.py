"""A child carved out of a bigger model, by `lilliput inherit` and by `make`: what comes out, what is shared, what is
refused."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from lilliput.errors import ConfigError, ModelError, TokenizerError, UserError
from lilliput.export.hf import load_model_dir
from lilliput.export.teacher import open_teacher
from lilliput.inheritance import inherit_model
from lilliput.pipeline import make
from lilliput.recipe import Recipe, load_recipe
from lilliput.store import Store, read_json
from lilliput.train.metrics import read_metrics

CPU = torch.device("cpu")
SHAPE = ("model.depth=3", "model.width=24", "model.heads=3", "model.ffn=48")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return Store(tmp_path_factory.mktemp("store"))


@pytest.fixture(scope="module")
def teacher(corpus: Path, store: Store, tmp_path_factory: pytest.TempPathFactory) -> Path:
    settings = [f"corpus={corpus}", "budget.params=null", "tokenizer.vocab_size=320", "model.depth=4", "model.width=32"]
    settings += ["model.heads=4", "model.context=32", "train.tokens=24k", "train.batch_tokens=512"]
    return Path(make(load_recipe("tiny", settings), tmp_path_factory.mktemp("runs") / "teacher", store)["model"])


def recipe(corpus: Path, teacher: Path, *settings: str) -> Recipe:
    common = [f"corpus={corpus}", "budget.params=null", f"inherit.teacher={teacher}", "inherit.sequences=16"]
    common += ["inherit.layers=uniform", "inherit.masks.tokens=4k", "train.tokens=6k", "evaluate.bytes=20k"]
    return load_recipe("tiny", [*common, *settings])


@pytest.mark.parametrize("neurons", ["random", "l1", "l2", "taylor", "learned"])
def test_a_child_loads_in_transformers_and_computes_the_same(
    neurons: str, corpus: Path, teacher: Path, store: Store, tmp_path: Path
) -> None:
    layers = {"taylor": "importance", "learned": "learned"}.get(neurons, "uniform")
    asked = recipe(corpus, teacher, *SHAPE, f"inherit.neurons={neurons}", f"inherit.layers={layers}")
    found = inherit_model(asked, tmp_path / "child", store, CPU)
    assert found["out"] == str(tmp_path / "child")
    assert found["layers"]["how"] == layers
    assert len(found["layers"]["kept"]) == 3
    assert found["neurons"]["kept"] == {"hidden": 24, "ffn": 48, "kv_heads": 3}
    assert found["held_out"]["teacher"]["text_hash"] == found["held_out"]["child"]["text_hash"]
    assert found["bits_per_byte"]["child"] > found["bits_per_byte"]["teacher"]
    assert (found["masks"] is not None) == (neurons == "learned")
    assert "<svg" in Path(found["report"]).read_text(encoding="utf-8")

    ours, tokenizer = load_model_dir(tmp_path / "child")
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "child")
    assert theirs.num_parameters() == found["parameters"] == ours.config.parameters()
    text = "def mean(data):\n    return sum(data)"
    ids = AutoTokenizer.from_pretrained(tmp_path / "child")(text, return_tensors="pt").input_ids[:, :32]
    assert ids[0].tolist()[1:] == tokenizer.encode(text)[:31]
    with torch.no_grad():
        torch.testing.assert_close(theirs(ids).logits, ours(ids), atol=1e-4, rtol=1e-4)


def test_a_carve_that_removes_nothing_is_the_teacher(corpus: Path, teacher: Path, store: Store, tmp_path: Path) -> None:
    inherit_model(recipe(corpus, teacher, "inherit.neurons=l1"), tmp_path / "same", store, CPU)
    before, after = (load_file(folder / "model.safetensors") for folder in (teacher, tmp_path / "same"))
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_named_layers_say_how_many(corpus: Path, teacher: Path, store: Store, tmp_path: Path) -> None:
    asked = recipe(corpus, teacher, "inherit.layers=keep=0,3", "inherit.neurons=l2")
    assert inherit_model(asked, tmp_path / "child", store, CPU)["layers"]["kept"] == [0, 3]


def test_heads_are_put_together(corpus: Path, teacher: Path, store: Store, tmp_path: Path) -> None:
    grouped = recipe(corpus, teacher, "model.kv_heads=2", "inherit.neurons=l2")
    found = inherit_model(grouped, tmp_path / "child", store, CPU)
    assert any("4 key-value heads" in note for note in found["notes"])
    config = read_json(tmp_path / "child" / "config.json")
    assert (config["num_attention_heads"], config["num_key_value_heads"]) == (4, 2)
    before, after = (load_file(folder / "model.safetensors") for folder in (teacher, tmp_path / "child"))
    name = "model.layers.0.self_attn.k_proj.weight"
    torch.testing.assert_close(after[name], before[name].view(2, 2, 8, 32).mean(1).flatten(0, 1))


def test_make_goes_on_from_the_child_and_shares_it(corpus: Path, teacher: Path, store: Store, tmp_path: Path) -> None:
    asked = recipe(corpus, teacher, *SHAPE, "inherit.neurons=l2")
    carved = inherit_model(asked, tmp_path / "child", store, CPU)
    made = make(asked, tmp_path / "run", store)
    assert made["bits_per_byte"] < carved["bits_per_byte"]["child"]
    assert made["inherit"]["layers"]["kept"] == carved["layers"]["kept"]
    assert sum(path.is_dir() for path in (store.root / "inherit").iterdir() if path.name[0] != "u") >= 1
    assert make(asked, tmp_path / "run", store)["bits_per_byte"] == made["bits_per_byte"]
    # Another way of choosing is another model, although all else is the same.
    other = make(recipe(corpus, teacher, *SHAPE, "inherit.neurons=random"), tmp_path / "other", store)
    assert other["bits_per_byte"] != made["bits_per_byte"]


@pytest.mark.parametrize("top", [None, 8])
def test_distillation_on_the_way(top: int | None, corpus: Path, teacher: Path, store: Store, tmp_path: Path) -> None:
    settings = [*SHAPE, "inherit.neurons=l2", "inherit.distil=0.5", f"inherit.top={'null' if top is None else top}"]
    made = make(recipe(corpus, teacher, *settings), tmp_path / "run", store)
    rows = [row for row in read_metrics(tmp_path / "run" / "metrics.jsonl") if "divergence" in row]
    assert rows[-1]["divergence"] < rows[0]["divergence"]
    assert made["recipe"]["inherit"]["distil"] == 0.5


def test_with_a_compact_tokenizer(corpus: Path, teacher: Path, store: Store, tmp_path: Path) -> None:
    settings = [*SHAPE, "tokenizer.compact=300", "inherit.neurons=l2", "inherit.distil=0.3"]
    made = make(recipe(corpus, teacher, *settings), tmp_path / "run", store)
    assert made["shape"]["vocab_size"] == made["tokenizer"]["vocab_size"] == 300
    by_rule = recipe(corpus, teacher, "tokenizer.compact=rule", "model.depth=3", "inherit.neurons=l2")
    # The bytes alone take more than 20 % of so small a child.
    with pytest.raises(TokenizerError, match="256 bytes"):
        inherit_model(by_rule, tmp_path / "child", store, CPU)


@pytest.mark.data
def test_a_checkpoint_of_llama2c_with_a_compact_tokenizer(
    corpus: Path, store: Store, tmp_path: Path, data_dir: Path
) -> None:
    """The child says of the kept pieces what the checkpoint says of them."""
    place, pieces = (data_dir / "weights" / "stories260K" / name for name in ("stories260K.bin", "tok512.bin"))
    asked = recipe(corpus, place, f"inherit.tokenizer={pieces}", "tokenizer.compact=400", "inherit.neurons=l1")
    found = inherit_model(asked, tmp_path / "child", store, CPU)
    child, tokenizer = load_model_dir(tmp_path / "child")
    assert tokenizer.vocab_size == child.config.vocab_size == 400
    assert found["teacher"]["name"] == "stories260K.bin"
    whole = open_teacher(place, pieces)
    text = "def mean(data):\n    return sum(data)"
    ids = torch.tensor([[tokenizer.bos_id, *tokenizer.encode(text)]])
    numbers = {whole.tokenizer.token(number): number for number in range(whole.tokenizer.vocab_size)}
    old = torch.tensor([numbers[tokenizer.token(number)] for number in range(400)])
    with torch.no_grad():
        theirs = whole.model()(old[ids])[..., old]
        torch.testing.assert_close(child(ids), theirs, atol=1e-4, rtol=1e-4)


def test_under_a_number_of_parameters(corpus: Path, teacher: Path, store: Store, tmp_path: Path) -> None:
    asked = recipe(corpus, teacher, "budget.params=40k", "inherit.neurons=l2", "inherit.layers=uniform")
    found = inherit_model(asked, tmp_path / "child", store, CPU)
    assert 32_000 < found["parameters"] <= 40_000


def test_layers_by_a_task(teacher: Path, store: Store, tmp_path: Path) -> None:
    """Measured beside bits per byte; it chooses only where it is asked to; other rows are another child."""
    corpus = tmp_path / "little.jsonl"
    corpus.write_text("".join(json.dumps({"text": f"def f{n}(x): return x + {n}"}) + "\n" for n in range(200)))
    rows = [{"query": "def f(x):", "choices": ["return x", "zzz qqq"], "gold": 0}] * 12
    (tmp_path / "calls.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    by_task = ("inherit.tasks=[calls]", f"inherit.data={tmp_path}", "model.depth=2", "inherit.neurons=l2")
    beside = recipe(corpus, teacher, *by_task, "inherit.layers=importance")
    found = inherit_model(beside, tmp_path / "beside", store, CPU)
    scores = found["layers"]["scores"]
    assert scores["skips"].keys() == scores["base"].keys() == {"bits_per_byte", "calls"}
    assert [len(row) for row in scores["skips"]["calls"].values()] == [4, 3, 2]
    assert any("12 items of calls" in note for note in found["notes"])
    assert "The task calls" in Path(found["report"]).read_text(encoding="utf-8")

    def kept(costs: list[float]) -> list[int]:
        return sorted(sorted(range(4), key=lambda layer: (-costs[layer], layer))[:2])

    assert found["layers"]["kept"] == kept(scores["skips"]["bits_per_byte"]["1"])
    chosen = recipe(corpus, teacher, "inherit.layers=importance=calls", *by_task[1:])
    by_calls = inherit_model(chosen, tmp_path / "chosen", store, CPU)["layers"]["kept"]
    assert by_calls == kept([-value for value in scores["skips"]["calls"]["1"]])
    (tmp_path / "calls.jsonl").write_text("".join(json.dumps(row | {"gold": 1}) + "\n" for row in rows))
    other = inherit_model(beside, tmp_path / "beside", store, CPU)["layers"]["scores"]
    assert other["base"]["calls"] != scores["base"]["calls"]
    for wrong, said in (
        (["inherit.layers=uniform", "inherit.tasks=[calls]"], "chosen by importance"),
        (["inherit.layers=importance=cals", f"inherit.data={tmp_path}"], "did you mean calls"),
        (["inherit.layers=importance="], "no way to choose layers"),
    ):
        with pytest.raises(UserError, match=said):
            inherit_model(recipe(corpus, teacher, "model.depth=2", *wrong), tmp_path / "wrong", store, CPU)


@pytest.mark.parametrize(
    ("settings", "kind", "said"),
    [
        (("model.depth=9",), ConfigError, "9"),
        (("model.width=25", "model.heads=3"), ConfigError, "model.width is 25"),
        (("budget.params=21k", "model.width=32", "model.depth=4"), ConfigError, "smallest child"),
        (("inherit.layers=learned", "inherit.neurons=l2"), ConfigError, "together"),
        (("inherit.layers=keep=0,9", "model.depth=2"), ConfigError, "0,9"),
        (("inherit.layers=importnce", "model.depth=2"), ConfigError, "importance"),
        (("inherit.sequences=4", "model.depth=3"), ConfigError, "10"),
        (("model.family=pangu",), ConfigError, "model.family"),
        (("budget.bytes=1MB",), ConfigError, "parameters"),
        (("from=elsewhere",), ConfigError, "not both"),
        (("inherit.top=8",), ConfigError, "distil"),
    ],
)
def test_what_cannot_be_is_refused(
    settings: tuple[str, ...], kind: type[Exception], said: str, corpus: Path, teacher: Path, tmp_path: Path
) -> None:
    with pytest.raises(kind, match=said):
        inherit_model(recipe(corpus, teacher, *settings), tmp_path / "child", Store(tmp_path / "store"), CPU)
    assert not (tmp_path / "child").exists()


def test_nobodys_files_are_written_over(corpus: Path, teacher: Path, store: Store, tmp_path: Path) -> None:
    asked = recipe(corpus, teacher, *SHAPE, "inherit.neurons=l2")
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "thesis.txt").write_text("years of work")
    with pytest.raises(ConfigError, match=r"thesis\.txt"):
        inherit_model(asked, mine, store, CPU)
    assert (mine / "thesis.txt").read_text() == "years of work"
    with pytest.raises(ConfigError, match="made from"):
        inherit_model(asked, teacher, store, CPU)
    out = tmp_path / "child"
    inherit_model(asked, out, store, CPU)
    again = inherit_model(recipe(corpus, teacher, *SHAPE, "inherit.neurons=l1"), out, store, CPU)
    assert again["neurons"]["how"] == "l1"


def test_too_little_text_and_weights_that_are_no_numbers(
    corpus: Path, teacher: Path, store: Store, tmp_path: Path
) -> None:
    little = tmp_path / "little.jsonl"
    little.write_text("".join(json.dumps({"text": f"{word} " * 30}) + "\n" for word in ("one", "two")))
    with pytest.raises(ConfigError, match="at least 10"):
        inherit_model(recipe(little, teacher, *SHAPE, "inherit.neurons=learned"), tmp_path / "child", store, CPU)
    copy = tmp_path / "broken"
    shutil.copytree(teacher, copy)
    tensors = load_file(copy / "model.safetensors")
    tensors["model.layers.2.mlp.up_proj.weight"][0, 0] = float("nan")
    save_file(tensors, copy / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match="not finite"):
        inherit_model(recipe(corpus, copy, "model.ffn=48", "inherit.neurons=random"), tmp_path / "child", store, CPU)


def test_masks_with_nothing_to_choose(corpus: Path, teacher: Path, store: Store, tmp_path: Path) -> None:
    asked = recipe(corpus, teacher, "model.depth=2", "inherit.neurons=learned", "inherit.layers=first")
    found = inherit_model(asked, tmp_path / "child", store, CPU)
    assert found["masks"] is None
    assert any("nothing was left" in note for note in found["notes"])


def test_damaged_weights_are_refused_by_name(corpus: Path, teacher: Path, tmp_path: Path) -> None:
    copy = tmp_path / "damaged"
    shutil.copytree(teacher, copy)
    weights = copy / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])
    with pytest.raises(ModelError) as caught:
        inherit_model(recipe(corpus, copy, *SHAPE), tmp_path / "child", Store(tmp_path / "store"), CPU)
    assert "model.safetensors" in str(caught.value)


def command(teacher: Path, corpus: Path, out: Path, *more: str) -> list[str]:
    words = [sys.executable, "-m", "lilliput.cli.main", "inherit", str(teacher), "--corpus", str(corpus)]
    return [*words, "--out", str(out), *more]


def test_the_command(corpus: Path, teacher: Path, store: Store, tmp_path: Path) -> None:
    environment = {**os.environ, "LILLIPUT_STORE": str(store.root)}
    how = ("--neurons", "l2", "--layers", "ends", "--json")
    words = command(teacher, corpus, tmp_path / "a", "layers=2", "ffn=32", *how)
    done = subprocess.run(words, capture_output=True, text=True, env=environment, check=True)
    found: dict[str, Any] = json.loads(done.stdout)
    assert found["out"] == str(tmp_path / "a")
    assert set(found["bits_per_byte"]) == {"teacher", "child"}
    assert found["layers"]["kept"] == [0, 3]
    for wrong, said in (
        (["hiden=8"], "hidden"), (["layers=many"], "whole number"), ([], "how small"), (["layers=9"], "layers is 9"),
        (["layers=²"], "whole number"), (["layers=2", "layers=1"], "twice"), (["--layers", "2"], "layers=2"),
        (["--params", "many"], "--params"),
    ):  # fmt: skip
        refused = subprocess.run(
            command(teacher, corpus, tmp_path / "b", *wrong), capture_output=True, text=True, env=environment
        )
        assert refused.returncode == 2
        assert said in refused.stderr
        assert "Traceback" not in refused.stderr


@pytest.mark.slow
def test_killed_learning_goes_on_exactly(corpus: Path, teacher: Path, tmp_path: Path) -> None:
    words = ("layers=3", "hidden=24", "heads=3", "ffn=48", "--neurons", "learned", "--mask-tokens", "60k")

    def run(name: str) -> tuple[list[str], dict[str, str]]:
        environment = {**os.environ, "LILLIPUT_STORE": str(tmp_path / f"store-{name}"), "OMP_NUM_THREADS": "1"}
        return command(teacher, corpus, tmp_path / name, *words), environment

    whole, environment = run("whole")
    subprocess.run(whole, env=environment, check=True, capture_output=True)
    cut, environment = run("cut")
    process = subprocess.Popen(cut, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    # The first checkpoint is step 0; a later one shows that learning is under way.
    later = "inherit/unfinished-*/checkpoints/step-*[1-9]*"
    while process.poll() is None and not any((tmp_path / "store-cut").glob(later)):
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    subprocess.run(cut, env=environment, check=True, capture_output=True)
    one, two = (load_file(tmp_path / name / "model.safetensors") for name in ("whole", "cut"))
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert not list((tmp_path / "store-cut").glob("inherit/unfinished-*"))

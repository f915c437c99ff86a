"""A model directory with PanGu-π blocks: transformers runs the class that lies in it, and ours reads it all back."""

import ast
import json
import subprocess
import sys
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
import torch
from test_model_dir import decoder, ids

from lilliput.export.blocks import class_files
from lilliput.export.compacted import write_compacted
from lilliput.export.hf import load_model_dir, save_model_dir
from lilliput.model.generate import generate
from lilliput.tokenizer.compact import Compactor
from lilliput.tokenizer.source import read_source
from lilliput.tokenizer.train import train_tokenizer

transformers = pytest.importorskip("transformers")

CLASS = {"configuration_lilliput_pangu.py", "modeling_lilliput_pangu.py"}
ARMS = {
    "both": {},
    "shortcut": {"series": 1, "tied": False, "heads": 4, "kv_heads": 2, "width": 48, "head_dim": 12},
    "series": {"shortcut": 0, "attention_bias": True, "mlp_bias": True},
}


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(["the cat sat on the mat and the dog sat on the log"] * 20, 300)


@pytest.fixture(autouse=True)
def _modules(tmp_path, monkeypatch):
    """Where transformers copies classes to: a folder of the test's own."""
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.setattr(sys, "path", [*sys.path])
    yield
    for name in [name for name in sys.modules if name.split(".")[0] == "transformers_modules"]:
        del sys.modules[name]


@pytest.fixture
def saved(tmp_path, tokenizer):
    return save_model_dir(tmp_path / "model", decoder(tokenizer, family="pangu"), tokenizer, {"seed": 0})


def load(folder: Path, **how: object):
    return transformers.AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True, **how)


@pytest.mark.parametrize("arm", ARMS.values(), ids=ARMS)
def test_transformers_runs_the_class_that_lies_beside_the_weights(tmp_path, tokenizer, arm):
    model = decoder(tokenizer, family="pangu", **arm)
    save_model_dir(tmp_path / "model", model, tokenizer, {})
    theirs, loading = load(tmp_path / "model", output_loading_info=True)
    assert not any(loading.values())
    assert type(theirs).__name__ == "LilliputPanguForCausalLM"
    assert type(theirs).__module__.startswith("transformers_modules.")
    with torch.no_grad():
        torch.testing.assert_close(model(ids(tokenizer)), theirs(ids(tokenizer)).logits, atol=1e-4, rtol=0)
    prompt_BT = ids(tokenizer)[:, :5]
    how = {"max_new_tokens": 40, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    written = theirs.generate(prompt_BT, attention_mask=torch.ones_like(prompt_BT), use_cache=True, **how)
    assert torch.equal(written[:, 5:], torch.stack(list(generate(model, prompt_BT, 40, temperature=0)), 1))


@pytest.mark.parametrize("arm", ARMS.values(), ids=ARMS)
@pytest.mark.parametrize("sharded", [False, True], ids=["one-file", "shards"])
def test_what_transformers_saves_both_read_again(tmp_path, tokenizer, arm, sharded):
    model = decoder(tokenizer, family="pangu", **arm)
    save_model_dir(tmp_path / "model", model, tokenizer, {})
    theirs = load(tmp_path / "model")
    theirs.save_pretrained(tmp_path / "again", max_shard_size="20KB" if sharded else "5GB")
    tokenizer.save(tmp_path / "again")
    assert {file.name for file in (tmp_path / "again").glob("*.py")} == CLASS
    again, _ = load_model_dir(tmp_path / "again")
    assert again.config == model.config
    for name, tensor in model.state_dict().items():
        assert torch.equal(again.state_dict()[name], tensor), name
    with torch.no_grad():
        logits = load(tmp_path / "again")(ids(tokenizer)).logits
    torch.testing.assert_close(logits, theirs(ids(tokenizer)).logits, atol=0, rtol=0)


def test_ours_reads_back_what_it_wrote(saved, tokenizer):
    model, _ = load_model_dir(saved)
    wanted = decoder(tokenizer, family="pangu")
    assert model.config == wanted.config
    assert all(torch.equal(tensor, wanted.state_dict()[name]) for name, tensor in model.state_dict().items())


def test_the_directory_says_that_it_brings_its_class(saved):
    assert {file.name for file in saved.glob("*.py")} == CLASS
    info = json.loads((saved / "lilliput.json").read_text())
    assert info == {"seed": 0, "own_class": {"files": sorted(CLASS), "load": "trust_remote_code=True"}}
    card = (saved / "README.md").read_text()
    assert "PanGu-π" in card
    assert 'from_pretrained(".", trust_remote_code=True)' in card


def test_a_new_model_of_the_class_starts_as_the_plain_llama(saved):
    settings = transformers.AutoConfig.from_pretrained(saved, trust_remote_code=True)
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(settings, trust_remote_code=True)
    plain = transformers.LlamaForCausalLM(transformers.LlamaConfig.from_pretrained(saved))
    missing = plain.load_state_dict(model.state_dict(), strict=False)
    assert not missing.missing_keys
    assert all(".shortcut." in name or ".act_fn." in name for name in missing.unexpected_keys)
    ids_BT = torch.arange(60).view(2, 30)
    with torch.no_grad():
        torch.testing.assert_close(model(ids_BT).logits, plain(ids_BT).logits, atol=1e-6, rtol=0)


def test_the_class_needs_nothing_but_torch_and_transformers(saved):
    for name, text in class_files("pangu").items():
        assert (saved / name).read_text(encoding="utf-8") == text
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.Import):
                assert {alias.name.split(".")[0] for alias in node.names} <= {"torch", "transformers"}
            if isinstance(node, ast.ImportFrom) and not node.level:
                assert node.module.split(".")[0] in {"torch", "transformers"}
    assert class_files("llama") == {}
    assert set(class_files("pangu")) == {
        file.name for file in files("lilliput.export.blocks").iterdir() if file.name.endswith("_lilliput_pangu.py")
    }


def test_it_loads_where_lilliput_is_not_installed(saved, tmp_path):
    code = (
        "import sys; sys.modules['lilliput'] = None\n"
        "import transformers\n"
        "model = transformers.AutoModelForCausalLM.from_pretrained(sys.argv[1], trust_remote_code=True)\n"
        "tokenizer = transformers.AutoTokenizer.from_pretrained(sys.argv[1], trust_remote_code=True)\n"
        "print(model.generate(**tokenizer('the dog', return_tensors='pt'), max_new_tokens=3).shape[0])\n"
    )
    surroundings = {"HF_MODULES_CACHE": str(tmp_path / "elsewhere"), "OMP_NUM_THREADS": "1", "PATH": "/usr/bin:/bin"}
    done = subprocess.run([sys.executable, "-c", code, str(saved)], capture_output=True, text=True, env=surroundings)
    assert done.stdout.strip() == "1", done.stderr


def test_a_cut_vocabulary_keeps_the_class(saved, tmp_path, tokenizer):
    source = read_source(saved)
    found = [n for part in source.backend().encode_batch(["the cat sat on the dog"] * 9) for n in part.ids]
    compaction = Compactor(source, np.bincount(found, minlength=source.vocab_size)).at(source.vocab_size - 9)
    (tmp_path / "new").mkdir()
    write_compacted(tmp_path / "new", compaction, saved)
    assert {file.name for file in (tmp_path / "new").glob("*.py")} == CLASS
    kept = torch.from_numpy(compaction.ids)
    ids_BT = torch.arange(40).view(2, 20)
    old, _ = load_model_dir(saved)
    new, _ = load_model_dir(tmp_path / "new")
    with torch.no_grad():
        wanted = old(kept[ids_BT])[..., kept]
        torch.testing.assert_close(new(ids_BT), wanted, atol=1e-5, rtol=0)
        torch.testing.assert_close(load(tmp_path / "new")(ids_BT).logits, wanted, atol=1e-4, rtol=0)


def test_a_plain_model_brings_no_code_along_when_it_is_cut(tmp_path, tokenizer):
    save_model_dir(tmp_path / "model", decoder(tokenizer), tokenizer, {})
    (tmp_path / "model" / "notes.py").write_text("print('not the model')")
    source = read_source(tmp_path / "model")
    (tmp_path / "new").mkdir()
    counts = np.ones(source.vocab_size, np.int64)
    write_compacted(tmp_path / "new", Compactor(source, counts).at(source.vocab_size), tmp_path / "model")
    assert not list((tmp_path / "new").glob("*.py"))


def test_the_command_line_writes_and_measures_with_it(saved, tmp_path):
    from lilliput.cli.evaluate import evaluate
    from lilliput.cli.generate import generate as write

    (tmp_path / "text.txt").write_text("the cat sat on the log and the dog sat on the mat\n" * 5)
    said = write(saved, prompt="the dog", max_new=8, temperature=0, as_json=True).data
    assert said["new_tokens"] == 8
    scored = evaluate(saved, text=[str(tmp_path / "text.txt")], as_json=True).data
    assert scored["bits_per_byte"]["value"] > 0

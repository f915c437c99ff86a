"""A model directory whose layers share weights: each tensor lies in it once, transformers runs the class beside it."""

import ast
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from test_model_dir import decoder, ids

from lilliput.errors import ModelError
from lilliput.export.blocks import class_files
from lilliput.export.compacted import write_compacted
from lilliput.export.hf import load_model_dir, save_model_dir
from lilliput.export.teacher import open_teacher
from lilliput.export.weights import WEIGHTS
from lilliput.model.generate import generate
from lilliput.tokenizer.compact import Compactor
from lilliput.tokenizer.source import read_source
from lilliput.tokenizer.train import train_tokenizer

transformers = pytest.importorskip("transformers")

CLASS = {"configuration_lilliput_shared.py", "modeling_lilliput_shared.py"}
ARMS = {
    "ffn-lora": {"share": {"ffn": "interior", "lora": 4}, "depth": 5, "tied": False},
    "looped": {"share": {"loops": 2, "looped": "1-4", "attention_output": "1-4"}, "depth": 6, "mlp_bias": True},
    "all": {"share": {"ffn": "all", "loops": 2, "lora": 3}, "depth": 4, "attention_bias": True},
}
EACH = pytest.mark.parametrize("arm", ARMS.values(), ids=ARMS)


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


def load(folder: Path, **how: object):
    return transformers.AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True, **how)


@EACH
def test_transformers_runs_the_class_that_lies_beside_the_weights(tmp_path, tokenizer, arm):
    model = decoder(tokenizer, **arm)
    folder = save_model_dir(tmp_path / "model", model, tokenizer, {})
    theirs, loading = load(folder, output_loading_info=True)
    assert not any(loading.values())
    assert type(theirs).__module__.startswith("transformers_modules.")
    with torch.no_grad():
        torch.testing.assert_close(model(ids(tokenizer)), theirs(ids(tokenizer)).logits, atol=1e-4, rtol=0)
    # Each use of a layer has a key-value cache of its own: cached writing is what reading the whole again gives.
    prompt_BT = ids(tokenizer)[:, :5]
    how = {"max_new_tokens": 30, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    written = [
        theirs.generate(prompt_BT, attention_mask=torch.ones_like(prompt_BT), use_cache=cached, **how)
        for cached in (True, False)
    ]
    assert torch.equal(*written)
    assert torch.equal(written[0][:, 5:], torch.stack(list(generate(model, prompt_BT, 30, temperature=0)), 1))


@EACH
@pytest.mark.parametrize("sharded", [False, True], ids=["one-file", "shards"])
def test_what_transformers_saves_both_read_again(tmp_path, tokenizer, arm, sharded):
    model = decoder(tokenizer, **arm)
    theirs = load(save_model_dir(tmp_path / "model", model, tokenizer, {}))
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


@EACH
def test_every_tensor_is_stored_once_and_the_directory_says_what_it_is(tmp_path, tokenizer, arm):
    model = decoder(tokenizer, **arm)
    folder = save_model_dir(tmp_path / "model", model, tokenizer, {"seed": 0})
    stored = load_file(folder / WEIGHTS)
    assert sum(tensor.numel() for tensor in stored.values()) == model.config.parameters()
    assert {file.name for file in folder.glob("*.py")} == CLASS
    info = json.loads((folder / "lilliput.json").read_text())
    assert info["own_class"] == {"files": sorted(CLASS), "load": "trust_remote_code=True"}
    card = (folder / "README.md").read_text()
    assert "layers that share weights" in card
    assert 'from_pretrained(".", trust_remote_code=True)' in card
    written = json.loads((folder / "config.json").read_text())
    assert written["num_hidden_layers"] == model.config.depth
    again, _ = load_model_dir(folder)
    assert again.config == model.config


@EACH
def test_a_new_model_of_the_class_has_weights_and_loras_that_are_nothing(tmp_path, tokenizer, arm):
    folder = save_model_dir(tmp_path / "model", decoder(tokenizer, **arm), tokenizer, {})
    settings = transformers.AutoConfig.from_pretrained(folder, trust_remote_code=True)
    new = transformers.AutoModelForCausalLM.from_config(settings, trust_remote_code=True)
    for name, tensor in new.state_dict().items():
        if name.endswith(("_proj.weight", "lora_A.weight")):
            assert tensor.std().item() == pytest.approx(0.02, rel=0.3), name
        elif name.endswith(("lora_B.weight", ".bias")):
            assert not tensor.any(), name


def test_the_class_needs_nothing_but_torch_and_transformers():
    assert set(class_files("shared")) == CLASS
    for text in class_files("shared").values():
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.Import):
                assert {alias.name.split(".")[0] for alias in node.names} <= {"torch", "transformers"}
            if isinstance(node, ast.ImportFrom) and not node.level:
                assert node.module.split(".")[0] in {"torch", "transformers"}


def test_a_cut_vocabulary_keeps_class_and_sharing(tmp_path, tokenizer):
    folder = save_model_dir(tmp_path / "model", decoder(tokenizer, **ARMS["all"]), tokenizer, {})
    source = read_source(folder)
    found = [n for part in source.backend().encode_batch(["the cat sat on the dog"] * 9) for n in part.ids]
    compaction = Compactor(source, np.bincount(found, minlength=source.vocab_size)).at(source.vocab_size - 9)
    (tmp_path / "new").mkdir()
    write_compacted(tmp_path / "new", compaction, folder)
    kept, ids_BT = torch.from_numpy(compaction.ids), torch.arange(40).view(2, 20)
    old, new = (load_model_dir(place)[0] for place in (folder, tmp_path / "new"))
    assert new.config.share == old.config.share
    with torch.no_grad():
        wanted = old(kept[ids_BT])[..., kept]
        torch.testing.assert_close(new(ids_BT), wanted, atol=1e-5, rtol=0)
        torch.testing.assert_close(load(tmp_path / "new")(ids_BT).logits, wanted, atol=1e-4, rtol=0)


def test_weights_that_do_not_fit_what_is_shared_are_named(tmp_path, tokenizer):
    folder = save_model_dir(tmp_path / "model", decoder(tokenizer, **ARMS["ffn-lora"]), tokenizer, {})
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"share_ffn": "all"}))
    with pytest.raises(ModelError, match=r"unexpected: model\.layers\.\d\.mlp"):
        load_model_dir(folder)
    (folder / "config.json").write_text(json.dumps(config | {"share_ffn": "4-9"}))
    with pytest.raises(ModelError, match="layers 4-9 do not exist"):
        load_model_dir(folder)
    (folder / "config.json").write_text(json.dumps(config | {"share_depth": 3}))
    with pytest.raises(ModelError, match="depth is nothing that layers share"):
        load_model_dir(folder)


def test_it_is_no_teacher(tmp_path, tokenizer):
    folder = save_model_dir(tmp_path / "model", decoder(tokenizer, **ARMS["looped"]), tokenizer, {})
    with pytest.raises(ModelError, match="its layers share weights, which inheritance cannot take apart"):
        open_teacher(folder)


def test_the_command_line_writes_and_measures_with_it(tmp_path, tokenizer):
    from lilliput.cli.evaluate import evaluate
    from lilliput.cli.generate import generate as write

    folder = save_model_dir(tmp_path / "model", decoder(tokenizer, **ARMS["all"]), tokenizer, {})
    (tmp_path / "text.txt").write_text("the cat sat on the log and the dog sat on the mat\n" * 5)
    said = write(folder, prompt="the dog", max_new=8, temperature=0, as_json=True).data
    assert said["new_tokens"] == 8
    scored = evaluate(folder, text=[str(tmp_path / "text.txt")], as_json=True).data
    assert scored["bits_per_byte"]["value"] > 0

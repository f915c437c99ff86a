"""A model directory with a mixture of depths: transformers runs the class that lies in it, and ours reads it back."""

import json
import sys
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
import torch
from test_model_dir import decoder, ids

from lilliput.errors import ModelError
from lilliput.export.blocks import class_files
from lilliput.export.compacted import write_compacted
from lilliput.export.hf import load_model_dir, save_model_dir
from lilliput.export.teacher import open_teacher
from lilliput.model.generate import generate
from lilliput.tokenizer.compact import Compactor
from lilliput.tokenizer.source import read_source
from lilliput.tokenizer.train import train_tokenizer

transformers = pytest.importorskip("transformers")

CLASS = {"configuration_lilliput_depths.py", "modeling_lilliput_depths.py"}
ARMS = {
    "half": {"capacity": 0.5, "depth": 4},
    "every": {"routed_every": 1, "tied": False, "heads": 4, "kv_heads": 2, "width": 48, "head_dim": 12},
    "biased": {"attention_bias": True, "mlp_bias": True, "depth": 3},
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


def mixture(tokenizer, **arm):
    model = decoder(tokenizer, family="mixture-of-depths", **arm).eval()
    with torch.no_grad():
        for index in model.config.routed_layers():
            model.model.layers[index].predictor.weight.mul_(10)
    return model


def load(folder: Path, **how: object):
    return transformers.AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True, **how)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("arm", ARMS.values(), ids=ARMS)
def test_transformers_runs_the_class_that_lies_beside_the_weights(tmp_path, tokenizer, arm, attention):
    model = mixture(tokenizer, **arm)
    save_model_dir(tmp_path / "model", model, tokenizer, {})
    theirs, loading = load(tmp_path / "model", output_loading_info=True, attn_implementation=attention)
    assert not any(loading.values())
    assert type(theirs).__name__ == "LilliputDepthsForCausalLM"
    text = ids(tokenizer)
    with torch.no_grad():
        torch.testing.assert_close(model(text), theirs(text).logits, atol=1e-4, rtol=0)
    x = model.model.embed_tokens(text)
    shares = []
    for index, layer in enumerate(model.model.layers):
        if index in model.config.routed_layers():
            shares.append(layer.chosen(x).float().mean().item())
        x = layer(x, *model.model.turns(text.shape[1]))
    assert any(0.05 < share < 0.95 for share in shares), shares
    prompt_BT = text[:, :5]
    how = {"max_new_tokens": 40, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    for cached in (True, False):
        written = theirs.generate(prompt_BT, attention_mask=torch.ones_like(prompt_BT), use_cache=cached, **how)
        assert torch.equal(written[:, 5:], torch.stack(list(generate(model, prompt_BT, 40, temperature=0)), 1))


def test_prompts_of_several_lengths_are_written_on_as_each_alone(tmp_path, tokenizer):
    save_model_dir(tmp_path / "model", mixture(tokenizer, **ARMS["half"]), tokenizer, {})
    theirs = load(tmp_path / "model")
    text = ids(tokenizer)[:2, :8]
    mask = torch.ones_like(text)
    mask[1, :3] = 0
    how = {"max_new_tokens": 12, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    both = theirs.generate(text, attention_mask=mask, **how)[:, 8:]
    assert torch.equal(both[0], theirs.generate(text[:1], attention_mask=mask[:1], **how)[0, 8:])
    assert torch.equal(both[1], theirs.generate(text[1:, 3:], attention_mask=mask[1:, 3:], **how)[0, 5:])


@pytest.mark.parametrize("sharded", [False, True], ids=["one-file", "shards"])
def test_what_transformers_saves_both_read_again(tmp_path, tokenizer, sharded):
    model = mixture(tokenizer, **ARMS["half"])
    save_model_dir(tmp_path / "model", model, tokenizer, {})
    load(tmp_path / "model").save_pretrained(tmp_path / "again", max_shard_size="20KB" if sharded else "5GB")
    tokenizer.save(tmp_path / "again")
    assert {file.name for file in (tmp_path / "again").glob("*.py")} == CLASS
    again, _ = load_model_dir(tmp_path / "again")
    assert again.config == model.config
    assert all(torch.equal(again.state_dict()[name], tensor) for name, tensor in model.state_dict().items())


def test_the_directory_says_what_it_is(tmp_path, tokenizer):
    folder = save_model_dir(tmp_path / "model", mixture(tokenizer), tokenizer, {"seed": 0})
    assert {file.name for file in folder.glob("*.py")} == CLASS == set(class_files("mixture-of-depths"))
    assert all((folder / name).read_text() == text for name, text in class_files("mixture-of-depths").items())
    assert {f.name for f in files("lilliput.export.blocks").iterdir() if f.name.endswith("_depths.py")} == CLASS
    assert json.loads((folder / "config.json").read_text())["model_type"] == "lilliput_depths"
    card = (folder / "README.md").read_text()
    assert "mixture of depths" in card
    assert "PanGu" not in card


def test_a_cut_vocabulary_keeps_the_class_and_it_is_no_teacher(tmp_path, tokenizer):
    saved = save_model_dir(tmp_path / "model", mixture(tokenizer, **ARMS["half"]), tokenizer, {})
    source = read_source(saved)
    found = [n for part in source.backend().encode_batch(["the cat sat on the dog"] * 9) for n in part.ids]
    compaction = Compactor(source, np.bincount(found, minlength=source.vocab_size)).at(source.vocab_size - 9)
    (tmp_path / "new").mkdir()
    write_compacted(tmp_path / "new", compaction, saved)
    assert {file.name for file in (tmp_path / "new").glob("*.py")} == CLASS
    kept, text = torch.from_numpy(compaction.ids), torch.arange(40).view(2, 20)
    old, new = load_model_dir(saved)[0], load_model_dir(tmp_path / "new")[0]
    with torch.no_grad():
        torch.testing.assert_close(new(text), old(kept[text])[..., kept], atol=1e-5, rtol=0)
    with pytest.raises(ModelError, match="no teacher"):
        open_teacher(saved)

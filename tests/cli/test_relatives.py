"""The command line on a model of transformers that is no Llama: evaluated, written with and trained further."""

import inspect
import json
import math
import statistics
from pathlib import Path

import pytest
import torch

from lilliput.tokenizer.train import train_tokenizer

transformers = pytest.importorskip("transformers")
TEXT = inspect.getsource(statistics)


@pytest.fixture(scope="module")
def qwen(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Qwen2 as transformers saves it, in shards, with a tokenizer of this text."""
    folder = tmp_path_factory.mktemp("qwen2")
    tokenizer = train_tokenizer([TEXT], 320)
    torch.manual_seed(0)
    config = transformers.Qwen2Config(
        vocab_size=tokenizer.vocab_size, hidden_size=48, intermediate_size=96, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=64, tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_id, eos_token_id=tokenizer.eos_id,
    )  # fmt: skip
    model = transformers.Qwen2ForCausalLM(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)
    model.save_pretrained(folder, max_shard_size="40KB")
    tokenizer.save(folder)
    return folder


def reference(folder: Path, text: str) -> tuple[float, str]:
    """Bits per byte of a text that fits one window, and what is written after it, by transformers alone."""
    model = transformers.AutoModelForCausalLM.from_pretrained(folder)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    ids = tokenizer(text, return_tensors="pt")["input_ids"]
    with torch.no_grad():
        nats = model(ids, labels=ids).loss * (ids.shape[1] - 1)
    new = model.generate(ids, max_new_tokens=20, do_sample=False)[0, ids.shape[1] :]
    written = tokenizer.decode(new, skip_special_tokens=True, clean_up_tokenization_spaces=False)
    return float(nats) / math.log(2) / len(text.encode()), written


def test_it_is_evaluated_and_written_with_as_transformers_does(lilliput, tmp_path, qwen):
    text = "def mean(data):"
    bits, written = reference(qwen, text)
    (tmp_path / "text.txt").write_text(text)
    found = lilliput("evaluate", qwen, "--text", tmp_path / "text.txt", "--json")
    assert found.code == 0, found.err
    assert found.json["bits_per_byte"]["value"] == pytest.approx(bits, rel=1e-4)
    done = lilliput("generate", qwen, "--prompt", text, "--max-new", 20, "--temperature", 0)
    assert (done.code, done.out) == (0, written)


def test_it_is_trained_further_and_stays_what_it_is(lilliput, tmp_path, qwen):
    (tmp_path / "text.txt").write_text(TEXT)
    words = ["corpus=text.txt", f"from={qwen}", "train.tokens=12k", "train.threads=1"]
    store = {"LILLIPUT_STORE": str(tmp_path / "store")}
    done = lilliput("make", "tiny", *words, "--out", tmp_path / "run", "--json", env=store)
    assert done.code == 0, done.err
    config = json.loads((tmp_path / "run" / "model" / "config.json").read_text())
    assert (config["model_type"], config["architectures"]) == ("qwen2", ["Qwen2ForCausalLM"])
    before, after = (
        transformers.AutoModelForCausalLM.from_pretrained(folder) for folder in (qwen, tmp_path / "run" / "model")
    )
    assert type(after) is type(before)
    assert done.json["parameters"] == before.num_parameters()
    moved = dict(after.named_parameters())
    assert not any(torch.equal(tensor, moved[name]) for name, tensor in before.named_parameters())
    assert done.json["bits_per_byte"] < reference(qwen, TEXT[:60])[0]

"""Llama's relatives between transformers and us: Mistral, Qwen2, Qwen3 and SmolLM, in both directions."""

import json

import pytest
import torch

from lilliput.errors import ModelError
from lilliput.export.hf import load_model_dir, save_model_dir
from lilliput.model import Decoder, ModelConfig, initialise
from lilliput.model.generate import generate
from lilliput.tokenizer.train import train_tokenizer

# As config.json has them: a key that is left out takes the default of transformers' class.
SMALL = {"hidden_size": 48, "intermediate_size": 70, "num_hidden_layers": 3, "max_position_embeddings": 64}
GROUPED = {"num_attention_heads": 4, "num_key_value_heads": 2}
THEIRS = {
    "smollm": ("llama", {**GROUPED, "tie_word_embeddings": True, "rope_theta": 1e5, "num_attention_heads": 6}),
    "mistral": ("mistral", {**GROUPED, "sliding_window": None}),
    "mistral-heads": ("mistral", {**GROUPED, "head_dim": 32, "tie_word_embeddings": True, "rope_theta": 1e6}),
    "qwen2": ("qwen2", {**GROUPED, "rms_norm_eps": 1e-2}),
    "qwen2-tied": ("qwen2", {"num_attention_heads": 3, "num_key_value_heads": 1, "tie_word_embeddings": True}),
    "qwen2-window": ("qwen2", {**GROUPED, "use_sliding_window": True, "sliding_window": 64, "max_window_layers": 1}),
    "qwen3": ("qwen3", {**GROUPED, "head_dim": 16, "rms_norm_eps": 1e-2}),
    "qwen3-tied": ("qwen3", {**GROUPED, "tie_word_embeddings": True, "attention_bias": True, "rope_theta": 1e6}),
    "qwen3-odd": ("qwen3", {"num_attention_heads": 5, "num_key_value_heads": 5, "head_dim": 8}),
}
OURS = {
    "mistral": {"model_type": "mistral", "kv_heads": 2},
    "qwen2": {"model_type": "qwen2", "attention_bias": True, "output_bias": False, "tied": False, "kv_heads": 1},
    "qwen2-heads": {"model_type": "qwen2", "attention_bias": True, "output_bias": False, "head_dim": 20},
    "qwen3": {"model_type": "qwen3", "qk_norm": True, "kv_heads": 2, "head_dim": 20, "norm_eps": 1e-2},
    "qwen3-biased": {"model_type": "qwen3", "qk_norm": True, "attention_bias": True, "tied": False},
}


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(["the cat sat on the mat and the dog sat on the log"] * 20, 300)


def prompt(tokenizer, length: int = 30) -> torch.Tensor:
    return torch.randint(0, tokenizer.vocab_size, (2, length), generator=torch.Generator().manual_seed(1))


def save_theirs(folder, tokenizer, kind: str, keys: dict[str, object], shards: bool = False):
    """A random model of transformers, every tensor of it moved from its start, in `folder`."""
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    settings = transformers.CONFIG_MAPPING[kind]
    config = settings(vocab_size=tokenizer.vocab_size, bos_token_id=0, eos_token_id=1, **{**SMALL, **keys})
    model = transformers.MODEL_FOR_CAUSAL_LM_MAPPING[settings](config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    model.save_pretrained(folder, max_shard_size="20KB" if shards else "5GB")
    assert (folder / "model.safetensors.index.json").exists() == shards
    tokenizer.save(folder)
    return model


def assert_same(model: Decoder, theirs, tokenizer) -> None:
    """Equal logits, and equal text where each takes the likeliest piece."""
    ids_BT = prompt(tokenizer)
    with torch.no_grad():
        torch.testing.assert_close(model(ids_BT), theirs(ids_BT).logits, atol=1e-4, rtol=0)
    ids_BT = ids_BT[:, :8]
    their_text = theirs.generate(
        ids_BT, attention_mask=torch.ones_like(ids_BT), max_new_tokens=40, do_sample=False, eos_token_id=None,
        pad_token_id=0,
    )  # fmt: skip
    text = torch.stack(list(generate(model, ids_BT, 40, temperature=0)), dim=1)
    assert torch.equal(text, their_text[:, 8:])


@pytest.mark.parametrize("name", THEIRS)
def test_theirs_load_here(tmp_path, tokenizer, name):
    kind, keys = THEIRS[name]
    theirs = save_theirs(tmp_path, tokenizer, kind, keys, shards=name in ("mistral", "qwen2", "qwen3", "smollm"))
    model, _ = load_model_dir(tmp_path)
    assert model.config.model_type == kind
    assert model.config.parameters() == sum(parameter.numel() for parameter in model.parameters())
    assert model.config.parameters() == theirs.num_parameters()
    assert_same(model, theirs, tokenizer)


@pytest.mark.parametrize("name", OURS)
def test_ours_load_there_and_come_back(tmp_path, tokenizer, name):
    transformers = pytest.importorskip("transformers")
    base = {"vocab_size": tokenizer.vocab_size, "depth": 2, "width": 48, "heads": 4, "kv_heads": 4, "head_dim": 12}
    base |= {"ffn": 70, "bos_id": tokenizer.bos_id, "eos_id": tokenizer.eos_id, "context": 8192}
    model = Decoder(ModelConfig(**{**base, **OURS[name]}))
    initialise(model, 0)
    noise = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=noise) * 0.1)
    save_model_dir(tmp_path / "model", model, tokenizer, {})
    theirs, loading = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "model", output_loading_info=True)
    assert not any(loading.values())
    assert type(theirs).__name__.lower() == f"{model.config.model_type}forcausallm"
    # No window, though it is Mistral's default and the context is longer.
    assert theirs.config.sliding_window is None
    assert_same(model, theirs, tokenizer)
    again, _ = load_model_dir(tmp_path / "model")
    assert again.config == model.config
    assert all(torch.equal(one, model.state_dict()[name]) for name, one in again.state_dict().items())
    assert f"{model.config.model_type.capitalize()}-shaped" in (tmp_path / "model" / "README.md").read_text()


@pytest.mark.parametrize("name", ["mistral", "qwen2", "qwen3-tied", "smollm"])
def test_a_few_steps_of_training_lower_the_loss(tmp_path, tokenizer, name):
    save_theirs(tmp_path, tokenizer, *THEIRS[name])
    model, _ = load_model_dir(tmp_path)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    ids_BT = prompt(tokenizer)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    losses = []
    for _ in range(8):
        optimizer.zero_grad()
        loss = model(ids_BT[:, :-1], ids_BT[:, 1:])
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.9 * losses[0]
    assert not any(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize("name", ["qwen2", "qwen3"])
def test_weights_without_their_biases_or_norms_are_named(tmp_path, tokenizer, name):
    from safetensors.torch import load_file, save_file

    save_theirs(tmp_path, tokenizer, *THEIRS[name])
    tensors = load_file(tmp_path / "model.safetensors")
    lost = f"model.layers.1.self_attn.{'k_proj.bias' if name == 'qwen2' else 'k_norm.weight'}"
    del tensors[lost]
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(ModelError, match=f"missing: {lost}"):
        load_model_dir(tmp_path)


def test_a_window_in_force_is_refused_and_its_mending_line_works(tmp_path, tokenizer):
    theirs = save_theirs(tmp_path, tokenizer, "mistral", {**GROUPED, "sliding_window": 40})
    with pytest.raises(ModelError, match="sliding_window") as caught:
        load_model_dir(tmp_path)
    assert '"max_position_embeddings": 40' in caught.value.mend
    raw = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**raw, "max_position_embeddings": 40}))
    model, _ = load_model_dir(tmp_path)
    with torch.no_grad():
        ids_BT = prompt(tokenizer, 40)
        torch.testing.assert_close(model(ids_BT), theirs(ids_BT).logits, atol=1e-4, rtol=0)

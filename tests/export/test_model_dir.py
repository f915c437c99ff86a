"""Model directories, ours read by transformers and transformers' read by ours."""

import json
import shutil

import pytest
import torch

from lilliput.errors import ModelError
from lilliput.export.hf import load_model_dir, save_model_dir
from lilliput.model import Decoder, ModelConfig, initialise
from lilliput.tokenizer.train import train_tokenizer

SHAPES = {
    "tied": {},
    "untied": {"tied": False},
    "gqa": {"heads": 4, "kv_heads": 2, "width": 48, "head_dim": 12, "ffn": 101},
    "wide-heads": {"heads": 2, "kv_heads": 1, "width": 48, "head_dim": 32},
    "biased": {"attention_bias": True, "mlp_bias": True, "rope_theta": 500.0},
}


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(["the cat sat on the mat and the dog sat on the log"] * 20, 300)


def decoder(tokenizer, **changes: object) -> Decoder:
    base = {"vocab_size": tokenizer.vocab_size, "depth": 2, "width": 40, "heads": 5, "head_dim": 8, "ffn": 70}
    base |= {"bos_id": tokenizer.bos_id, "eos_id": tokenizer.eos_id, "context": 64}
    merged = {**base, **changes}
    merged.setdefault("kv_heads", merged["heads"])
    model = Decoder(ModelConfig(**merged))
    initialise(model, 0)
    noise = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=noise) * 0.1)
    return model


def ids(tokenizer) -> torch.Tensor:
    return torch.randint(0, tokenizer.vocab_size, (2, 30), generator=torch.Generator().manual_seed(1))


@pytest.fixture
def saved(tmp_path, tokenizer):
    return save_model_dir(tmp_path / "model", decoder(tokenizer), tokenizer, {"seed": 0})


@pytest.mark.parametrize("changes", SHAPES.values(), ids=SHAPES)
def test_transformers_reads_ours(tmp_path, tokenizer, changes):
    transformers = pytest.importorskip("transformers")
    model = decoder(tokenizer, **changes)
    save_model_dir(tmp_path / "model", model, tokenizer, {"seed": 0})
    theirs, loading = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path / "model", output_loading_info=True
    )
    assert not any(loading.values())
    with torch.no_grad():
        torch.testing.assert_close(model(ids(tokenizer)), theirs(ids(tokenizer)).logits, atol=1e-4, rtol=0)
    assert theirs.config.max_position_embeddings == 64
    assert theirs.generation_config.eos_token_id == tokenizer.eos_id
    reader = transformers.AutoTokenizer.from_pretrained(tmp_path / "model")
    assert reader.model_input_names == ["input_ids", "attention_mask"]
    assert reader("the dog")["input_ids"] == [tokenizer.bos_id, *tokenizer.encode("the dog")]
    assert reader.model_max_length == 64


@pytest.mark.parametrize("changes", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("sharded", [False, True], ids=["one-file", "shards"])
def test_ours_reads_transformers(tmp_path, tokenizer, changes, sharded):
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.LlamaConfig.from_dict(decoder(tokenizer, **changes).config.to_hf())
    theirs = transformers.LlamaForCausalLM(config).eval()
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    theirs.save_pretrained(tmp_path / "model", max_shard_size="20KB" if sharded else "5GB")
    tokenizer.save(tmp_path / "model")
    assert (tmp_path / "model" / "model.safetensors.index.json").exists() == sharded
    model, _ = load_model_dir(tmp_path / "model")
    with torch.no_grad():
        torch.testing.assert_close(model(ids(tokenizer)), theirs(ids(tokenizer)).logits, atol=1e-4, rtol=0)


def test_half_precision_weights_are_read_as_fp32(tmp_path, tokenizer):
    model = decoder(tokenizer).bfloat16()
    save_model_dir(tmp_path / "model", model, tokenizer, {})
    assert json.loads((tmp_path / "model" / "config.json").read_text())["dtype"] == "bfloat16"
    read, _ = load_model_dir(tmp_path / "model")
    assert read.head_weight().dtype == torch.float32
    assert torch.equal(read.head_weight(), model.head_weight().float())


def test_round_trip_is_exact(saved, tokenizer):
    model, read = load_model_dir(saved)
    for name, tensor in decoder(tokenizer).state_dict().items():
        assert torch.equal(model.state_dict()[name], tensor), name
    assert read.hash == tokenizer.hash
    assert json.loads((saved / "lilliput.json").read_text()) == {"seed": 0}
    assert "LlamaForCausalLM" in (saved / "config.json").read_text()
    assert sorted(file.name for file in saved.iterdir()) == [
        "README.md",
        "config.json",
        "generation_config.json",
        "lilliput.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    ]


def test_saving_again_replaces_and_a_failure_leaves_the_old(saved, tokenizer):
    save_model_dir(saved, decoder(tokenizer, depth=1), tokenizer, {"seed": 1})
    assert load_model_dir(saved)[0].config.depth == 1
    with pytest.raises(TypeError):
        save_model_dir(saved, decoder(tokenizer), tokenizer, {"unwritable": object()})
    assert load_model_dir(saved)[0].config.depth == 1
    assert [file.name for file in saved.parent.iterdir()] == ["model"]


def rewrite(folder, change) -> None:
    from safetensors.torch import load_file, save_file

    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors")


def test_missing_unexpected_and_misshapen_tensors_are_named(saved):
    def damage(tensors) -> None:
        del tensors["model.norm.weight"]
        tensors["model.extra.weight"] = torch.zeros(3)
        tensors["model.layers.1.mlp.up_proj.weight"] = torch.zeros(70, 41)

    rewrite(saved, damage)
    with pytest.raises(ModelError) as caught:
        load_model_dir(saved)
    for word in ("missing: model.norm.weight", "unexpected: model.extra.weight", "(70, 41), not (70, 40)"):
        assert word in caught.value.message


def test_a_tied_head_may_be_stored_only_if_it_is_the_embedding(saved):
    def add(tensors, scale: float) -> None:
        tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"] * scale

    rewrite(saved, lambda tensors: add(tensors, 1.0))
    load_model_dir(saved)
    rewrite(saved, lambda tensors: add(tensors, 2.0))
    with pytest.raises(ModelError, match="ties the head"):
        load_model_dir(saved)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "weights.pt", "consolidated.00.pth"])
def test_pickles_are_refused_unopened(saved, name):
    (saved / "model.safetensors").unlink()
    (saved / name).write_bytes(b"never read")
    with pytest.raises(ModelError, match="pickled") as caught:
        load_model_dir(saved)
    assert "safe_serialization" in caught.value.mend


def damaged_cases():
    def cut(folder) -> None:
        data = (folder / "model.safetensors").read_bytes()
        (folder / "model.safetensors").write_bytes(data[: len(data) // 2])

    def index(text: str):
        def change(folder) -> None:
            (folder / "model.safetensors").unlink()
            (folder / "model.safetensors.index.json").write_text(text)

        return change

    return {
        "no-config": lambda folder: (folder / "config.json").unlink(),
        "config-not-json": lambda folder: (folder / "config.json").write_text("{"),
        "config-a-list": lambda folder: (folder / "config.json").write_text("[]"),
        "no-weights": lambda folder: (folder / "model.safetensors").unlink(),
        "half-the-weights": cut,
        "empty-weights": lambda folder: (folder / "model.safetensors").write_bytes(b""),
        "index-not-json": index("{"),
        "index-without-map": index("{}"),
        "absent-shard": index('{"weight_map": {"a": "gone.safetensors"}}'),
        "shard-elsewhere": index('{"weight_map": {"a": "../model/config.json"}}'),
        "no-folder": shutil.rmtree,
    }


@pytest.mark.parametrize("damage", damaged_cases().values(), ids=damaged_cases())
def test_damage_is_one_clear_error(saved, damage):
    damage(saved)
    with pytest.raises(ModelError) as caught:
        load_model_dir(saved)
    assert str(saved) in str(caught.value.where)


def test_too_small_a_model_for_its_tokenizer_is_refused(tmp_path, tokenizer):
    model = decoder(tokenizer, vocab_size=tokenizer.vocab_size - 1)
    with pytest.raises(ModelError, match="pieces"):
        save_model_dir(tmp_path / "model", model, tokenizer, {})
    assert not (tmp_path / "model").exists()

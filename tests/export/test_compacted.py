"""A compacted tokenizer as AutoTokenizer sees it, and models whose rows follow: transformers is the judge."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer as Backend
from tokenizers import decoders, models, pre_tokenizers, processors, trainers

from lilliput.errors import ModelError
from lilliput.export.compacted import measure_tables, write_compacted
from lilliput.tokenizer.compact import Compaction, Compactor
from lilliput.tokenizer.source import read_source

transformers = pytest.importorskip("transformers")

TEXT = ["the cat sat on the mat and the dog sat on the log, 中文 naïve"] * 30
CHAT = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>{% endfor %}"
TINY = {
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": 64,
    "initializer_range": 0.5,
}


def make_model(folder: Path, architecture: str, padded: int, **changes: object) -> Path:
    """A random model of transformers with its tokenizer: special pieces last, as Qwen has them, and padded rows."""
    backend = Backend(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(vocab_size=300, initial_alphabet=alphabet, show_progress=False)
    backend.train_from_iterator(TEXT, trainer)
    backend.add_special_tokens(["<|endoftext|>", "<|im_start|>", "<|im_end|>"])
    backend.add_tokens(["dogma"])
    end = backend.token_to_id("<|im_end|>")
    backend.post_processor = processors.TemplateProcessing(
        single="$A <|im_end|>", special_tokens=[("<|im_end|>", end)]
    )
    fast = transformers.PreTrainedTokenizerFast(
        tokenizer_object=backend, eos_token="<|im_end|>", pad_token="<|endoftext|>", chat_template=CHAT
    )
    fast.save_pretrained(folder)
    rows = len(fast) + padded
    settings = {**TINY, "vocab_size": rows, "eos_token_id": end, "bos_token_id": backend.token_to_id("<|endoftext|>")}
    if architecture == "distilbert":
        settings = {"vocab_size": rows, "dim": 16, "n_layers": 2, "n_heads": 2, "hidden_dim": 24}
        settings |= {"max_position_embeddings": 64, "initializer_range": 0.5}
    if architecture == "gpt2":
        settings = {"vocab_size": rows, "n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 64}
        settings |= {"eos_token_id": end, "bos_token_id": end, "initializer_range": 0.5}
    torch.manual_seed(0)
    config = transformers.AutoConfig.for_model(architecture, **settings, **changes)
    model = masked_or_causal(architecture).from_config(config)
    if "bert" not in architecture:
        model.generation_config.eos_token_id = [end, backend.token_to_id("<|endoftext|>")]
    model.save_pretrained(folder)
    return folder


def masked_or_causal(architecture: str):
    return transformers.AutoModelForMaskedLM if "bert" in architecture else transformers.AutoModelForCausalLM


def cut(folder: Path, size: int) -> Compaction:
    source = read_source(folder)
    ids = [n for part in source.backend().encode_batch(TEXT, add_special_tokens=False) for n in part.ids]
    return Compactor(source, np.bincount(ids, minlength=source.vocab_size)).at(size)


@pytest.mark.parametrize(
    ("architecture", "changes"),
    [
        ("llama", {"tie_word_embeddings": True}),
        ("llama", {"tie_word_embeddings": False}),
        ("qwen2", {"tie_word_embeddings": False}),
        ("qwen3", {"tie_word_embeddings": True, "head_dim": 8}),
        ("mistral", {}),
        ("gpt2", {}),
        ("bert", {}),
        ("distilbert", {}),
        ("roberta", {"tie_word_embeddings": False}),
    ],
)
def test_the_new_model_says_of_kept_pieces_what_the_old_one_said(tmp_path, architecture, changes):
    folder = make_model(tmp_path / "old", architecture, padded=7, **changes)
    compaction = cut(folder, 280)
    (tmp_path / "new").mkdir()
    write_compacted(tmp_path / "new", compaction, folder)
    kind = masked_or_causal(architecture)
    old, new = kind.from_pretrained(folder).eval(), kind.from_pretrained(tmp_path / "new").eval()
    assert new.config.vocab_size == 280 == new.get_input_embeddings().weight.shape[0]
    kept = torch.from_numpy(compaction.ids)
    ids = torch.randint(0, 280, (2, 20), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        theirs, ours = old(kept[ids]).logits[..., kept], new(ids).logits
    assert torch.allclose(theirs, ours, atol=1e-6, rtol=1e-6)


def test_special_pieces_templates_and_added_tokens_keep_their_meaning(tmp_path):
    folder = make_model(tmp_path / "old", "llama", padded=3)
    compaction = cut(folder, 270)
    (tmp_path / "new").mkdir()
    write_compacted(tmp_path / "new", compaction, folder)
    old, new = (transformers.AutoTokenizer.from_pretrained(tmp_path / name) for name in ("old", "new"))
    assert len(new) == 270
    assert (new.eos_token, new.pad_token, new.chat_template) == (old.eos_token, old.pad_token, old.chat_template)
    back = dict(enumerate(compaction.ids.tolist()))
    for text in ("<|im_start|>", "dogma", "a dogmatic <|im_end|>", ""):
        pieces = new.convert_ids_to_tokens(new(text).input_ids)
        assert new.decode(new(text).input_ids) == old.decode(old(text).input_ids)
        assert [back[i] for i in new(text).input_ids if new.convert_ids_to_tokens(i) in new.all_special_tokens] == [
            i for i in old(text).input_ids if old.convert_ids_to_tokens(i) in old.all_special_tokens
        ]
        assert pieces[-1] == "<|im_end|>"
    chat = [{"role": "user", "content": "the cat"}]
    assert new.apply_chat_template(chat, tokenize=False) == old.apply_chat_template(chat, tokenize=False)
    generation = json.loads((tmp_path / "new" / "generation_config.json").read_text())
    assert generation["eos_token_id"] == [new.eos_token_id, new.convert_tokens_to_ids("<|endoftext|>")]
    assert json.loads((tmp_path / "new" / "config.json").read_text())["eos_token_id"] == new.eos_token_id


def test_the_tokenizer_loads_with_no_model_beside_it(tmp_path):
    folder = make_model(tmp_path / "old", "llama", padded=0)
    for file in (*folder.glob("*.safetensors"), folder / "config.json", folder / "generation_config.json"):
        file.unlink()
    compaction = cut(folder, 265)
    (tmp_path / "new").mkdir()
    write_compacted(tmp_path / "new", compaction, folder)
    assert sorted(file.name for file in (tmp_path / "new").iterdir()) == [
        "ids.json",
        "tokenizer.json",
        "tokenizer_config.json",
    ]
    new = transformers.AutoTokenizer.from_pretrained(tmp_path / "new")
    assert len(new) == 265
    assert set(new("the cat")) == {"input_ids", "attention_mask"}
    assert new.decode(new("the cat 中文").input_ids, skip_special_tokens=True) == "the cat 中文"
    assert json.loads((tmp_path / "new" / "ids.json").read_text())["old"] == compaction.ids.tolist()


def test_names_that_are_no_pieces_do_not_swell_the_tokenizer(tmp_path, capfd):
    folder = make_model(tmp_path / "old", "llama", padded=3)
    config = json.loads((folder / "tokenizer_config.json").read_text())
    config |= {"pad_token": "<pad>", "extra_special_tokens": ["<|im_start|>", "<|not there|>"]}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    compaction = cut(folder, 270)
    (tmp_path / "new").mkdir()
    write_compacted(tmp_path / "new", compaction, folder)
    assert len(transformers.AutoTokenizer.from_pretrained(tmp_path / "new")) == 270
    assert "pad_token '<pad>' is no piece" in capfd.readouterr().err


def test_numbers_in_the_generation_configuration_follow(tmp_path):
    folder = make_model(tmp_path / "old", "llama", padded=3)
    compaction = cut(folder, 270)
    gone, kept = int(compaction.dropped[0]), int(compaction.ids[200])
    file = folder / "generation_config.json"
    more = {"suppress_tokens": [kept, gone], "bad_words_ids": [[kept], [kept, gone]], "forced_decoder_ids": [[1, kept]]}
    file.write_text(json.dumps({**json.loads(file.read_text()), **more}))
    (tmp_path / "new").mkdir()
    write_compacted(tmp_path / "new", compaction, folder)
    found = json.loads((tmp_path / "new" / "generation_config.json").read_text())
    assert (found["suppress_tokens"], found["bad_words_ids"]) == ([200], [[200]])
    assert found["forced_decoder_ids"] == [[1, 200]]


def test_an_architecture_whose_tables_are_not_known_is_refused(tmp_path):
    folder = make_model(tmp_path / "old", "llama", padded=3)
    compaction = cut(folder, 270)
    weights = load_file(folder / "model.safetensors")
    rows = weights["model.embed_tokens.weight"].shape[0]
    save_file({**weights, "final_logits_bias": torch.zeros(1, rows)}, folder / "model.safetensors", {"format": "pt"})
    (tmp_path / "new").mkdir()
    with pytest.raises(ModelError, match="final_logits_bias has a dimension"):
        write_compacted(tmp_path / "new", compaction, folder)


def test_a_qwen_directory_whose_class_builds_the_tokenizer_anew(tmp_path):
    """transformers takes model_type qwen2 for its own class, whatever tokenizer_config.json says."""
    plain = json.loads((make_model(tmp_path / "plain", "llama", padded=0) / "tokenizer.json").read_text())["model"]
    merges = [tuple(pair) for pair in plain["merges"]]
    theirs = transformers.Qwen2Tokenizer(vocab=plain["vocab"], merges=merges, extra_special_tokens=["<|im_start|>"])
    folder = make_model(tmp_path / "old", "qwen2", padded=9)
    theirs.save_pretrained(folder)
    compaction = cut(folder, 272)
    (tmp_path / "new").mkdir()
    write_compacted(tmp_path / "new", compaction, folder)
    old, new = (transformers.AutoTokenizer.from_pretrained(tmp_path / name) for name in ("old", "new"))
    assert type(new) is type(old) is transformers.Qwen2Tokenizer
    assert len(new) == 272
    ours = compaction.source.backend()
    for text in ("the cat 中文 naïve", "e\u0301 12 345", "<|im_start|>the mat<|endoftext|>"):
        assert new.decode(new(text).input_ids) == old.decode(old(text).input_ids)
        plain_ids = new(text, split_special_tokens=True).input_ids
        assert plain_ids == ours.encode(text, add_special_tokens=False).ids


def test_the_full_size_changes_nothing(tmp_path):
    folder = make_model(tmp_path / "old", "llama", padded=5)
    source = read_source(folder)
    compaction = cut(folder, len(source.pieces))
    assert compaction.source.definition == source.definition
    (tmp_path / "new").mkdir()
    write_compacted(tmp_path / "new", compaction, folder)
    old, new = (transformers.AutoTokenizer.from_pretrained(tmp_path / name) for name in ("old", "new"))
    assert old.get_vocab() == new.get_vocab()


def test_weights_in_several_files_and_half_precision_stay_so(tmp_path):
    folder = make_model(tmp_path / "old", "llama", padded=2, tie_word_embeddings=False)
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16)
    (folder / "model.safetensors").unlink()
    model.save_pretrained(folder, max_shard_size="12KB")
    assert len(list(folder.glob("model-*.safetensors"))) > 2
    compaction = cut(folder, 275)
    (tmp_path / "new").mkdir()
    write_compacted(tmp_path / "new", compaction, folder)
    new, loading = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "new", output_loading_info=True)
    assert not any(loading.values())
    assert new.dtype == torch.bfloat16
    assert torch.equal(new.lm_head.weight, model.lm_head.weight[torch.from_numpy(compaction.ids)])


@pytest.mark.parametrize(
    ("break_it", "reason"),
    [
        (lambda config: config.update(vocab_size=999), "config.json says vocab_size 999"),
        (lambda config: config.pop("vocab_size"), "does not say vocab_size"),
        (lambda config: config.update(quantization_config={"bits": 4}), "quantised"),
    ],
)
def test_models_that_cannot_be_cut_are_refused_before_anything_is_written(tmp_path, break_it, reason):
    folder = make_model(tmp_path / "old", "llama", padded=0)
    compaction = cut(folder, 270)
    config = json.loads((folder / "config.json").read_text())
    break_it(config)
    (folder / "config.json").write_text(json.dumps(config))
    (tmp_path / "new").mkdir()
    with pytest.raises(ModelError, match=reason):
        write_compacted(tmp_path / "new", compaction, folder)
    assert not list((tmp_path / "new").glob("*.safetensors"))


def test_the_tables_are_measured_from_the_headers(tmp_path):
    for tied, sides in ((True, 1), (False, 2)):
        folder = make_model(tmp_path / str(tied), "llama", padded=1, tie_word_embeddings=tied)
        model = transformers.AutoModelForCausalLM.from_pretrained(folder)
        tables = measure_tables(folder)
        assert (tables.rows, tables.row) == (model.config.vocab_size, 16 * sides)
        assert tables.rows * tables.row + tables.body == model.num_parameters()

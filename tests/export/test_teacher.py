"""A teacher is read as transformers reads it, one tensor at a time, and what is none is refused by name."""

import json
import os
import shutil
import struct
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from test_architectures import save_theirs
from test_llama2c import SHAPES, legacy, weights
from test_model_dir import decoder, ids

from lilliput.errors import ConfigError, ModelError, TokenizerError, UserError
from lilliput.export.hf import load_model_dir, save_model_dir
from lilliput.export.teacher import Teacher, open_teacher
from lilliput.export.weights import WEIGHTS, fill
from lilliput.inherit.neurons import choose, scores_of
from lilliput.model.carve import carve, child_config, whole
from lilliput.model.decoder import Decoder
from lilliput.store import file_hash
from lilliput.tokenizer.train import train_tokenizer

BENCH = Path(__file__).resolve().parents[2] / "bench" / "carve_memory.py"
TEXT = ["the cat sat on the mat and the dog sat on the log"] * 20
TYPES = {"llama": "float32", "mistral": "float16", "qwen2": "bfloat16", "qwen3": "bfloat16"}
CHAT = "{% for turn in messages %}<|im_start|>{{ turn['role'] }}\n{{ turn['content'] }}<|im_end|>\n{% endfor %}"


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return train_tokenizer(TEXT, 300)


@pytest.fixture
def ours(tmp_path: Path, tokenizer: Any) -> Path:
    """A directory of ours, tied."""
    return save_model_dir(tmp_path / "ours", decoder(tokenizer), tokenizer, {})


def carved(teacher: Teacher, **sizes: int) -> Decoder:
    """A child by the weights' squares, carved tensor by tensor; of everything where no size is given."""
    config, layers = teacher.config, range(sizes.pop("layers", teacher.config.depth))
    kept = choose(scores_of(teacher.tensors(), config, "l2"), config, layers, **sizes) if sizes else whole(config)
    return fill(child_config(config, kept), carve(teacher.tensors(), config, kept), teacher.dtype)


@pytest.mark.parametrize("kind", TYPES)
def test_shards_of_transformers_are_read_and_carved_as_they_are(tmp_path: Path, tokenizer: Any, kind: str) -> None:
    transformers = pytest.importorskip("transformers")
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2}
    plain = {"sliding_window": None} if kind == "mistral" else {}
    theirs = save_theirs(tmp_path, tokenizer, kind, {**heads, **plain})
    dtype = getattr(torch, TYPES[kind])
    (tmp_path / WEIGHTS).unlink()
    theirs.to(dtype).save_pretrained(tmp_path, max_shard_size="20KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 3

    teacher = open_teacher(tmp_path)
    assert (teacher.kind, teacher.place, teacher.dtype) == ("transformers", tmp_path, dtype)
    found, state = dict(teacher.tensors()), theirs.state_dict()
    assert found.keys() == state.keys()
    for name, tensor in found.items():
        assert tensor.dtype == dtype
        assert torch.equal(tensor, state[name]), name
    with torch.no_grad():
        # Read again: a type for all of a model rounds its rotary table, too.
        in_fp32 = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)
        expected = in_fp32(ids(tokenizer)).logits
        torch.testing.assert_close(teacher.model()(ids(tokenizer)), expected, atol=1e-4, rtol=0)

    save_model_dir(tmp_path / "child", carved(teacher), teacher.tokenizer, {}, beside=teacher.beside())
    same, loading = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "child", output_loading_info=True)
    assert not any(loading.values())
    assert same.dtype == dtype
    for name, tensor in same.state_dict().items():
        assert torch.equal(tensor, found[name]), name

    child = carved(teacher, layers=2, hidden=24, ffn=32, kv_heads=1)
    save_model_dir(tmp_path / "small", child, teacher.tokenizer, {}, beside=teacher.beside())
    small = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "small", dtype=torch.float32)
    ours, _ = load_model_dir(tmp_path / "small")
    assert small.config.model_type == kind
    with torch.no_grad():
        torch.testing.assert_close(ours(ids(tokenizer)), small(ids(tokenizer)).logits, atol=1e-4, rtol=0)


def test_types_that_differ_are_kept_exactly_in_fp32(ours: Path) -> None:
    tensors = load_file(ours / WEIGHTS)
    mixed = {name: tensor if tensor.ndim == 1 else tensor.bfloat16() for name, tensor in tensors.items()}
    save_file(mixed, ours / WEIGHTS)
    teacher = open_teacher(ours)
    assert teacher.dtype == torch.float32
    child = carved(teacher).state_dict()
    for name, tensor in teacher.tensors():
        assert tensor.dtype == mixed[name].dtype
        assert torch.equal(child[name], tensor.float()), name


def test_a_tied_head_is_not_given_twice(ours: Path) -> None:
    tensors = load_file(ours / WEIGHTS)
    save_file({**tensors, "lm_head.weight": tensors["model.embed_tokens.weight"].clone()}, ours / WEIGHTS)
    teacher = open_teacher(ours)
    names = [name for name, _ in teacher.tensors()]
    assert sorted(names) == sorted(tensors)
    assert names == [name for name, _ in teacher.tensors()]
    save_file({**tensors, "lm_head.weight": tensors["model.embed_tokens.weight"] + 1}, ours / WEIGHTS)
    with pytest.raises(ModelError, match="ties the head to the embedding, but"):
        open_teacher(ours)


def test_a_model_with_blocks_of_its_own_is_a_teacher(tmp_path: Path, tokenizer: Any) -> None:
    model = decoder(tokenizer, family="pangu")
    teacher = open_teacher(save_model_dir(tmp_path / "pangu", model, tokenizer, {}))
    assert teacher.config == model.config
    child = carved(teacher, layers=1, hidden=24, ffn=30, kv_heads=3)
    folder = save_model_dir(tmp_path / "child", child, teacher.tokenizer, {})
    assert (folder / "modeling_lilliput_pangu.py").is_file()
    again, _ = load_model_dir(folder)
    with torch.no_grad():
        assert torch.equal(again(ids(tokenizer)), child(ids(tokenizer)))


def test_a_child_takes_licence_template_and_special_tokens_along(tmp_path: Path, ours: Path) -> None:
    transformers = pytest.importorskip("transformers")
    theirs = transformers.AutoTokenizer.from_pretrained(ours)
    theirs = transformers.PreTrainedTokenizerFast(
        tokenizer_object=theirs.backend_tokenizer, bos_token=theirs.bos_token, eos_token=theirs.eos_token
    )
    theirs.add_special_tokens({"extra_special_tokens": ["<|im_start|>", "<|im_end|>"]})
    theirs.chat_template = CHAT
    theirs.save_pretrained(ours)
    end = theirs.convert_tokens_to_ids("<|im_end|>")
    sampling = {"bos_token_id": theirs.bos_token_id, "eos_token_id": [end, theirs.eos_token_id], "temperature": 0.6}
    (ours / "generation_config.json").write_text(json.dumps(sampling), encoding="utf-8")
    (ours / "LICENSE").write_text("Do as you like.", encoding="utf-8")
    config = json.loads((ours / "config.json").read_text(encoding="utf-8")) | {"vocab_size": len(theirs)}
    (ours / "config.json").write_text(json.dumps(config), encoding="utf-8")
    tensors = load_file(ours / WEIGHTS)
    rows = torch.zeros(len(theirs) - len(tensors["model.embed_tokens.weight"]), config["hidden_size"])
    tensors["model.embed_tokens.weight"] = torch.cat([tensors["model.embed_tokens.weight"], rows])
    save_file(tensors, ours / WEIGHTS)

    teacher = open_teacher(ours)
    save_model_dir(tmp_path / "child", carved(teacher), teacher.tokenizer, {}, beside=teacher.beside())
    assert (tmp_path / "child" / "LICENSE").read_text(encoding="utf-8") == "Do as you like."
    assert json.loads((tmp_path / "child" / "generation_config.json").read_text(encoding="utf-8")) == sampling
    child = transformers.AutoTokenizer.from_pretrained(tmp_path / "child")
    turns = [{"role": "user", "content": "the cat sat"}, {"role": "assistant", "content": "on the mat"}]
    found = child.apply_chat_template(turns)["input_ids"]
    assert found == theirs.apply_chat_template(turns)["input_ids"]
    assert found.count(end) == 2
    assert child.decode(found, skip_special_tokens=True) == theirs.decode(found, skip_special_tokens=True)
    assert set(child.all_special_tokens) == set(theirs.all_special_tokens)


def test_its_identity_follows_all_that_is_read(ours: Path) -> None:
    first = open_teacher(ours).identity()
    assert {"tokenizer", "config.json", WEIGHTS, "generation_config.json"} == first.keys()
    (ours / "README.md").write_text("Other words.", encoding="utf-8")
    assert open_teacher(ours).identity() == first
    raw = bytearray((ours / WEIGHTS).read_bytes())
    raw[-1] ^= 1
    (ours / WEIGHTS).write_bytes(raw)
    settings = json.loads((ours / "tokenizer_config.json").read_text(encoding="utf-8"))
    (ours / "tokenizer_config.json").write_text(json.dumps({**settings, "chat_template": CHAT}), encoding="utf-8")
    second = open_teacher(ours).identity()
    assert {name for name in first if first[name] != second[name]} == {WEIGHTS, "tokenizer"}


def put(folder: Path, files: dict[str, str | bytes]) -> Path:
    folder.mkdir()
    for name, content in files.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(content.encode() if isinstance(content, str) else content)
    return folder


@pytest.mark.parametrize(
    ("files", "says", "mend"),
    [
        ({}, "the folder is empty", "hf download"),
        ({"config.json": '{"model_type": "gpt2"}'}, "model_type 'gpt2' is not supported: it has learned pos", "llama"),
        ({"config.json": '{"model_type": "bert"}'}, "model_type 'bert' is not supported", "qwen3"),
        ({"config.json": "{"}, "config.json is damaged", "download the file again"),
        ({"config.json": "[]"}, "config.json holds no object", "download the file again"),
        (
            {"config.json": '{"model_type": "llama"}', "model.safetensors.index.json": "{"},
            "the index of the weights is damaged", "download the file again",
        ),
        (
            {"config.json": '{"model_type": "llama"}', "model.safetensors.index.json": '{"weight_map": [1]}'},
            "the index of the weights is damaged", "download the file again",
        ),
        ({"config.json": '{"model_type": "llama"}'}, "there is no model.safetensors", "Hugging Face layout"),
        ({"config.json": '{"model_type": "llama"}', "pytorch_model.bin": b"PK"}, "weights are pickled", "convert"),
        ({"pytorch_model.bin": b"PK"}, r"pickled weights without config.json \(pytorch_model.bin\)", "llama2.c"),
        ({"model.pth": b"PK"}, r"pickled weights without config.json \(model.pth\)", "llama2.c"),
        ({"tiny.gguf": b"GGUF"}, r"a GGUF model \(tiny.gguf\)", "converted from"),
        ({"adapter_config.json": "{}", "adapter_model.safetensors": b""}, "an adapter, no model", "merge"),
        ({"model.safetensors": b""}, "weights without config.json", "config.json beside them"),
        ({"recipe.yaml": "", "model/config.json": "{}"}, "this is a run, not its model", "model"),
        ({"README.md": "Hello."}, "no model here: config.json is absent", "Hugging Face layout"),
    ],
)
def test_folders_that_are_no_teacher(tmp_path: Path, files: dict[str, str | bytes], says: str, mend: str) -> None:
    with pytest.raises(ModelError, match=says) as caught:
        open_teacher(put(tmp_path / "folder", files))
    assert str(tmp_path / "folder") in str(caught.value.where)
    assert mend in str(caught.value.mend)


def test_a_place_that_is_not_there_may_be_a_name_of_the_hub() -> None:
    with pytest.raises(ModelError, match=r"no such file or folder.*hf download"):
        open_teacher("HuggingFaceTB/SmolLM2-135M")


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"GGUF" + bytes(300), "a GGUF model"),
        (b"\x80\x02}q\x00" + bytes(300), "it is a pickle"),
        (b"PK\x03\x04" + bytes(300), "a zip archive, as PyTorch writes"),
        (struct.pack("<Q", 300) + b'{"a": 1}' + bytes(300), "a safetensors file"),
        (b"", "which is empty"),
    ],
)
def test_files_that_are_no_teacher(tmp_path: Path, data: bytes, says: str) -> None:
    (tmp_path / "model.bin").write_bytes(data)
    with pytest.raises(ModelError, match=f"not a llama2.c checkpoint: .*{says}") as caught:
        open_teacher(tmp_path / "model.bin", tmp_path / "absent.bin")
    assert "a model folder in the Hugging Face layout" in str(caught.value.mend)


def test_a_file_of_a_model_folder_is_answered_with_the_folder(ours: Path) -> None:
    for name, kind in ((WEIGHTS, "a safetensors file"), ("config.json", "a text")):
        with pytest.raises(ModelError, match=f"it is {kind}") as caught:
            open_teacher(ours / name)
        assert caught.value.mend == f"name the folder: {ours}"


def shards(folder: Path, ours: Path) -> Path:
    """The model of `ours` in three shards with an index."""
    shutil.copytree(ours, folder)
    tensors = load_file(folder / WEIGHTS)
    (folder / WEIGHTS).unlink()
    place = {name: f"model-{number % 3}.safetensors" for number, name in enumerate(tensors)}
    for file in set(place.values()):
        save_file({name: tensors[name] for name in tensors if place[name] == file}, folder / file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": place}), encoding="utf-8")
    return folder


def test_damaged_shards_are_refused_by_name(tmp_path: Path, ours: Path) -> None:
    folder = shards(tmp_path / "shards", ours)
    whole_model, shard = open_teacher(folder), folder / "model-1.safetensors"
    raw = shard.read_bytes()
    for cut in (0, 5, 100, len(raw) - 1):
        shard.write_bytes(raw[:cut])
        with pytest.raises(ModelError, match="the weights cannot be read") as caught:
            open_teacher(folder)
        assert caught.value.where == str(shard)
        # One that was opened before says it on its way.
        with pytest.raises(ModelError, match="cannot be read"):
            list(whole_model.tensors())
    shard.unlink()
    with pytest.raises(ModelError, match=r"1 of 3 weight files are absent: model-1\.safetensors"):
        open_teacher(folder)
    shutil.copyfile(folder / "model-0.safetensors", shard)
    with pytest.raises(ModelError, match=r"missing: .*; stored twice: .* \(in model-0\.safetensors and model-1\."):
        open_teacher(folder)


@pytest.mark.parametrize(
    ("number", "says"), [(float("nan"), "not finite"), (float("-inf"), "not finite"), (-1e9, r"-1e\+09, which no")]
)
def test_a_number_that_is_no_weight_is_refused_by_name(ours: Path, number: float, says: str) -> None:
    tensors = load_file(ours / WEIGHTS)
    tensors["model.norm.weight"][3] = number
    save_file(tensors, ours / WEIGHTS)
    with pytest.raises(ModelError, match=says) as caught:
        list(open_teacher(ours).tensors())
    assert caught.value.where == f"{ours}: model.norm.weight"


def test_a_file_that_is_not_what_was_downloaded_is_refused(ours: Path) -> None:
    """Beside the notes of huggingface_hub: commit, ETag (SHA-256 of a large file) and when it was there."""
    noted = ours / ".cache" / "huggingface" / "download" / f"{WEIGHTS}.metadata"
    noted.parent.mkdir(parents=True)
    whole = file_hash(ours / WEIGHTS)
    noted.write_text(f"main\n{whole}\n{time.time()}\n", encoding="utf-8")
    os.utime(ours / WEIGHTS, (0, 0))
    assert open_teacher(ours).identity()[WEIGHTS] == whole
    raw = bytearray((ours / WEIGHTS).read_bytes())
    raw[-1] ^= 1
    (ours / WEIGHTS).write_bytes(raw)
    os.utime(ours / WEIGHTS, (0, 0))
    with pytest.raises(ModelError, match="it is damaged: its SHA-256") as caught:
        open_teacher(ours).identity()
    assert caught.value.where == str(ours / WEIGHTS)
    # Written since, on purpose.
    later = time.time() + 60
    os.utime(ours / WEIGHTS, (later, later))
    assert open_teacher(ours).identity()[WEIGHTS] != whole
    noted.write_text("another layout\n", encoding="utf-8")
    os.utime(ours / WEIGHTS, (0, 0))
    assert open_teacher(ours).identity()[WEIGHTS] != whole


def test_a_damaged_file_of_the_hubs_cache_is_refused(tmp_path: Path, ours: Path) -> None:
    """There a large file is a link to a blob of its SHA-256's name."""
    blob = tmp_path / "blobs" / file_hash(ours / WEIGHTS)
    blob.parent.mkdir()
    shutil.move(ours / WEIGHTS, blob)
    (ours / WEIGHTS).symlink_to(blob)
    assert open_teacher(ours).identity()[WEIGHTS] == blob.name
    raw = bytearray(blob.read_bytes())
    raw[-1] ^= 1
    blob.write_bytes(raw)
    with pytest.raises(ModelError, match="it is damaged: its SHA-256") as caught:
        open_teacher(ours).identity()
    assert str(blob) in str(caught.value.mend)


def test_it_is_opened_and_hashed_once(ours: Path) -> None:
    first = open_teacher(ours)
    assert open_teacher(str(ours)) is first
    os.utime(ours / "config.json")
    assert open_teacher(ours) is not first


def test_whole_numbers_are_no_weights(ours: Path) -> None:
    tensors = load_file(ours / WEIGHTS)
    save_file({**tensors, "model.norm.weight": tensors["model.norm.weight"].to(torch.int8)}, ours / WEIGHTS)
    with pytest.raises(ModelError, match=r"model\.norm\.weight is stored as I8"):
        open_teacher(ours)


def test_another_tokenizer_is_refused(tmp_path: Path, ours: Path, tokenizer: Any) -> None:
    larger = train_tokenizer([*TEXT, "quite another text, with pieces of its own"] * 9, 310)
    larger.save(tmp_path / "larger")
    assert larger.vocab_size > tokenizer.vocab_size
    with pytest.raises(TokenizerError, match="has a tokenizer of its own, which gives other numbers"):
        open_teacher(ours, tmp_path / "larger")
    assert open_teacher(ours, ours / "tokenizer.json").tokenizer.hash == tokenizer.hash
    (ours / "tokenizer.json").unlink()
    with pytest.raises(TokenizerError, match="no tokenizer there"):
        open_teacher(ours)
    with pytest.raises(ModelError, match=rf"the tokenizer has {larger.vocab_size} pieces, the model only"):
        open_teacher(ours, tmp_path / "larger")
    tokenizer.save(tmp_path / "same")
    assert open_teacher(ours, tmp_path / "same" / "tokenizer.json").tokenizer.hash == tokenizer.hash


def tokenizer_bin(pieces: list[str]) -> bytes:
    """As llama2.c's tokenizer.py writes it."""
    rows = [(piece.encode(), -float(number)) for number, piece in enumerate(pieces)]
    head = struct.pack("<i", max(len(text) for text, _ in rows))
    return head + b"".join(struct.pack("<fi", score, len(text)) + text for text, score in rows)


BYTES = [f"<0x{byte:02X}>" for byte in range(256)]
LETTERS = list("abcdefghijklmnopqrstuvwxyz.,!?")


@pytest.mark.parametrize("space", [True, False], ids=["space", "no-space"])
@pytest.mark.parametrize("with_bytes", [True, False], ids=["bytes", "no-bytes"])
def test_a_checkpoint_of_llama2c_with_its_tokenizer(tmp_path: Path, with_bytes: bool, space: bool) -> None:
    pieces = ["<unk>", "\n<s>\n", "\n</s>\n", *(BYTES if with_bytes else []), *([" "] if space else []), *LETTERS]
    shape = (*SHAPES["grouped"][:5], len(pieces), 16)
    folder = put(tmp_path / "llama2c", {"tok.bin": tokenizer_bin(pieces)})
    checkpoint = folder / "model.bin"
    checkpoint.write_bytes(legacy(shape, weights(shape, tied=True)))

    with pytest.raises(ConfigError, match="does not hold its tokenizer") as caught:
        open_teacher(checkpoint)
    assert caught.value.where == "--tokenizer"
    assert str(folder / "tok.bin") in str(caught.value.mend)
    with pytest.raises(ModelError, match=r"it holds a checkpoint of llama2\.c") as refused:
        open_teacher(folder)
    assert str(checkpoint) in str(refused.value.mend)

    teacher = open_teacher(checkpoint, folder / "tok.bin")
    assert (teacher.kind, teacher.config.bos_id, teacher.config.eos_id) == ("llama2.c", 1, 2)
    expected = [pieces.index(letter) for letter in ([" "] if space else []) + list("abc")]
    assert teacher.tokenizer.encode("abc") == expected
    child = carved(teacher, layers=2, hidden=24, ffn=20, kv_heads=1)
    folder = save_model_dir(tmp_path / "child", child, teacher.tokenizer, {}, beside=teacher.beside())
    again, tokenizer = load_model_dir(folder)
    assert tokenizer.encode("abc") == expected
    assert torch.equal(again.head_weight(), child.head_weight())
    assert teacher.identity().keys() == {"tokenizer", "model.bin"}


def test_pieces_and_rows_of_a_checkpoint_agree_or_it_is_refused(tmp_path: Path) -> None:
    pieces = ["<unk>", "\n<s>\n", "\n</s>\n", " ", *LETTERS]
    for rows in (len(pieces) - 1, len(pieces) + 1):
        shape = (*SHAPES["grouped"][:5], rows, 16)
        folder = put(tmp_path / str(rows), {"model.bin": legacy(shape, weights(shape, tied=True))})
        (folder / "tok.bin").write_bytes(tokenizer_bin(pieces))
        with pytest.raises(TokenizerError, match=f"it has {len(pieces)} pieces, and model.bin has {rows} rows"):
            open_teacher(folder / "model.bin", folder / "tok.bin")


def test_special_pieces_of_a_checkpoint_are_known_by_name(tmp_path: Path) -> None:
    pieces = ["\n</s>\n", "\n<s>\n", "<unk>", " ", *LETTERS]
    shape = (*SHAPES["grouped"][:5], len(pieces), 16)
    folder = put(tmp_path / "odd", {"model.bin": legacy(shape, weights(shape, tied=True))})
    (folder / "tok.bin").write_bytes(tokenizer_bin(pieces))
    config = open_teacher(folder / "model.bin", folder / "tok.bin").config
    assert (config.bos_id, config.eos_id) == (1, 0)


def test_every_refusal_is_a_request_that_was_wrong(tmp_path: Path) -> None:
    for place in (tmp_path, tmp_path / "absent"):
        with pytest.raises(UserError):
            open_teacher(place)


@pytest.mark.data
def test_stories260k_is_a_teacher(tmp_path: Path, data_dir: Path) -> None:
    transformers = pytest.importorskip("transformers")
    folder = data_dir / "weights" / "stories260K"
    teacher = open_teacher(folder / "stories260K.bin", folder / "tok512.bin")
    child = carved(teacher, layers=3, hidden=48, ffn=96, kv_heads=3)
    save_model_dir(tmp_path / "child", child, teacher.tokenizer, {}, beside=teacher.beside())
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "child")
    reader = transformers.AutoTokenizer.from_pretrained(tmp_path / "child")
    ids_BT = reader("Once upon a time, there was a little girl.", return_tensors="pt").input_ids
    with torch.no_grad():
        torch.testing.assert_close(theirs(ids_BT).logits, child(ids_BT), atol=1e-4, rtol=0)
    whole_child = carved(teacher)
    for name, tensor in teacher.tensors():
        assert torch.equal(whole_child.state_dict()[name], tensor)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="the peak is read from /proc")
def test_memory_stays_near_a_layer_and_the_child() -> None:
    done = subprocess.run([sys.executable, BENCH], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr

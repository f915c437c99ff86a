"""What a file is, is told by its content; folders, Hugging Face's own files, and everything that is no tokenizer."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizer_support import (
    END_OF_TEXT,
    HARD,
    sample,
    train_byte_level,
    train_sentencepiece,
    train_wordpiece,
    write_tiktoken,
)
from tokenizers import Tokenizer as Backend

from lilliput.errors import TokenizerError
from lilliput.tokenizer.changes import changes
from lilliput.tokenizer.formats import format_of
from lilliput.tokenizer.source import forget, read_once, read_source

pytest.importorskip("sentencepiece")


def write_pair(folder: Path) -> Path:
    """`vocab.json` and `merges.txt` of a byte-level BPE."""
    backend = Backend.from_file(str(train_byte_level(folder / "whole")))
    backend.model.save(str(folder))
    shutil.move(folder / "whole", folder.with_name(folder.name + "-whole"))
    return folder / "vocab.json"


KINDS: dict[str, tuple[Callable[[Path], Path], str]] = {
    "byte-level": (train_byte_level, "byte-level BPE"),
    "sentencepiece": (train_sentencepiece, "BPE"),
    "unigram": (lambda folder: train_sentencepiece(folder, "unigram"), "Unigram"),
    "tiktoken": (write_tiktoken, "byte-level BPE"),
    "wordpiece": (train_wordpiece, "WordPiece"),
    "pair": (write_pair, "byte-level BPE"),
}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {name: write(tmp_path_factory.mktemp(name)) for name, (write, _) in KINDS.items()}


@pytest.mark.parametrize("name", KINDS)
def test_content_tells_the_format(files: dict[str, Path], name: str, tmp_path: Path) -> None:
    source = read_source(files[name])
    assert source.kind == KINDS[name][1]
    assert read_source(files[name].parent).definition == source.definition
    # As `Backend.to_str()` gives it, so that what is equal is written equally.
    assert json.loads(source.backend().to_str())["model"] == source.definition["model"]
    assert sorted(source.pieces.values()) == list(range(source.vocab_size))
    if name != "pair":
        shutil.copy(files[name], tmp_path / "any name.bin")
        assert read_source(tmp_path / "any name.bin").definition == source.definition


@pytest.mark.parametrize("name", KINDS)
def test_it_loads_in_transformers(files: dict[str, Path], name: str, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    source = read_source(files[name])
    (tmp_path / "tokenizer.json").write_text(json.dumps(source.definition), encoding="utf-8")
    theirs = transformers.PreTrainedTokenizerFast(tokenizer_file=str(tmp_path / "tokenizer.json"))
    backend = source.backend()
    assert len(theirs) == source.vocab_size
    for text in (*HARD, *sample()[:20]):
        if "<" not in text and "[" not in text:
            assert theirs(text)["input_ids"] == backend.encode(text).ids


def test_a_pair_reads_as_the_whole(files: dict[str, Path]) -> None:
    folder = files["pair"].parent
    pair, whole = read_source(folder / "merges.txt"), read_source(folder.with_name(folder.name + "-whole"))
    assert pair.definition["model"]["merges"] == whole.definition["model"]["merges"]
    assert [token["content"] for token in pair.definition["added_tokens"]] == [END_OF_TEXT]
    for text in (*HARD, *sample()[:20]):
        ours, theirs = (source.backend().encode(text, add_special_tokens=False).ids for source in (pair, whole))
        assert ours == theirs


def test_a_folder_with_several_or_none(files: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(TokenizerError, match="no tokenizer there"):
        read_source(tmp_path)
    shutil.copy(files["tiktoken"], tmp_path / "a.tiktoken")
    assert read_source(tmp_path).kind == "byte-level BPE"
    shutil.copy(files["tiktoken"], tmp_path / "b.tiktoken")
    with pytest.raises(TokenizerError, match=r"several tokenizers there: a\.tiktoken, b\.tiktoken"):
        read_source(tmp_path)
    shutil.copy(files["byte-level"], tmp_path / "tokenizer.json")
    assert END_OF_TEXT in read_source(tmp_path).pieces


def test_half_a_pair_names_the_other(files: dict[str, Path], tmp_path: Path) -> None:
    for name, other in (("vocab.json", "merges.txt"), ("merges.txt", "vocab.json")):
        folder = tmp_path / name[:3]
        folder.mkdir()
        shutil.copy(files["pair"].with_name(name), folder)
        with pytest.raises(TokenizerError, match=f"there is no {other}"):
            read_source(folder / name)
    (tmp_path / "voc" / "merges.txt").write_text("#version: 0.2\na b c\n")
    with pytest.raises(TokenizerError, match="line 2 of the merges"):
        read_source(tmp_path / "voc")


def test_pattern_and_special_are_for_tiktoken(files: dict[str, Path]) -> None:
    for name in ("byte-level", "sentencepiece", "wordpiece"):
        with pytest.raises(TokenizerError, match="holds its own pattern"):
            read_source(files[name], pattern="x")
        with pytest.raises(TokenizerError, match="holds its own pattern"):
            read_source(files[name], special=["<x>"])


def test_added_tokens_that_only_the_configuration_knows(tmp_path: Path) -> None:
    file = train_byte_level(tmp_path)
    size = read_source(file).vocab_size
    entries = {
        str(size + 1): {"content": "<late>", "special": False, "lstrip": True, "normalized": True},
        str(size): {"content": "<early>", "special": True},
        "0": {"content": END_OF_TEXT, "special": True},
    }
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"added_tokens_decoder": entries}))
    source = read_source(file)
    assert (source.pieces["<early>"], source.pieces["<late>"], source.notes) == (size, size + 1, ())
    backend = source.backend()
    # One that is not special is found in text, as Hugging Face does; the special one is text here.
    assert backend.encode("a <late>b").ids == [*backend.encode("a").ids, size + 1, *backend.encode("b").ids]
    assert size not in backend.encode("<early>").ids
    entries = {str(size + 5): {"content": "<far>", "special": True}}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"added_tokens_decoder": entries}))
    assert "other numbers" in read_source(file).notes[0]


def test_a_sentencepiece_model_takes_declared_tokens_too(tmp_path: Path) -> None:
    file = train_sentencepiece(tmp_path, user_defined_symbols=["<sep>"])
    size = read_source(file).vocab_size
    entries = {
        "1": {"content": "<s>", "special": True},
        "3": {"content": "<sep>", "special": False},
        str(size): {"content": "<|im_start|>", "special": True},
    }
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"added_tokens_decoder": entries}))
    source = read_source(file)
    added = {token["content"]: token["id"] for token in source.definition["added_tokens"]}
    assert added == {"<unk>": 0, "<s>": 1, "</s>": 2, "<|im_start|>": size}


def test_a_normaliser_stays(tmp_path: Path) -> None:
    file = train_byte_level(tmp_path)
    definition = json.loads(file.read_text(encoding="utf-8"))
    definition["normalizer"] = {"type": "NFC"}
    file.write_text(json.dumps(definition), encoding="utf-8")
    assert read_source(file).definition["normalizer"] == {"type": "NFC"}
    assert read_source(file).hash != read_source(train_byte_level(tmp_path / "plain")).hash


@pytest.mark.parametrize("kind", ["WordLevel", "Neural"])
def test_another_kind_of_model_is_refused_by_name(tmp_path: Path, kind: str) -> None:
    model: dict[str, Any] = {"type": kind, "vocab": {"a": 0, "[UNK]": 1}, "unk_token": "[UNK]"}
    (tmp_path / "tokenizer.json").write_text(json.dumps({"version": "1.0", "added_tokens": [], "model": model}))
    with pytest.raises(TokenizerError, match=f"kind {kind}"):
        read_source(tmp_path)


FOREIGN = {
    "empty": b"",
    "blank": b" \n\n",
    "zeros": b"\x00" * 4096,
    "png": b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR" + bytes(range(256)),
    "safetensors": b"\x40" + bytes(7) + b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}'.ljust(64) + bytes(4),
    "gguf": b"GGUF\x03\x00\x00\x00" + bytes(64),
    "zip": b"PK\x03\x04" + bytes(64),
    "gzip": b"\x1f\x8b\x08" + bytes(64),
    "xz": b"\xfd7zXZ\x00" + bytes(64),
    "lfs": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n",
    "text": b"Once upon a time there was a cat.\nIt sat.\n",
    "latin": "Käse und Brot, dann heim.\n".encode("latin-1"),
    "json": b'{"hidden_size": 8, "model_type": "llama"}',
    "list": b"[1, 2, 3]",
    "cut json": b'{"version": "1.0", "model": {"type": "BPE", "vocab": {"a": ',
    "deep json": b'{"a":' * 100_000,
    "protobuf": b"\n\x0c\n\x05<unk>\x15\x00\x00\x00\x00\x18\x02",
    "cut protobuf": b"\n\x0c\n\x05<u",
}


@pytest.mark.parametrize("name", FOREIGN)
@pytest.mark.parametrize("called", ["tokenizer.json", "tokenizer.model", "vocab.txt", "x.tiktoken"])
def test_what_is_no_tokenizer_is_refused(
    tmp_path: Path, name: str, called: str, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / called).write_bytes(FOREIGN[name])
    for path in (tmp_path, tmp_path / called):
        with pytest.raises(TokenizerError) as caught:
            read_source(path)
        assert caught.value.where is not None
        assert called in caught.value.where
        assert caught.value.mend
        assert "\n" not in str(caught.value)
    assert capfd.readouterr().err == ""


def test_a_huge_file_is_refused_unread(tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.model"
    with path.open("wb") as file:
        file.truncate(3_000_000_000)
    with pytest.raises(TokenizerError, match="3000 MB are no tokenizer"):
        read_source(path)


@settings(max_examples=300, deadline=None)
@given(st.one_of(st.binary(max_size=300), st.text(max_size=100).map(str.encode)))
def test_any_bytes_have_a_format_or_none(data: bytes) -> None:
    try:
        found = format_of(data, "x")
    except TokenizerError:
        found = "none"
    assert found in ("json", "sentencepiece", "tiktoken", "wordpiece", "merges", "none")


@pytest.mark.parametrize("name", KINDS)
def test_a_cut_file_is_refused(files: dict[str, Path], name: str, tmp_path: Path) -> None:
    data = files[name].read_bytes()
    path = tmp_path / files[name].name
    # A WordPiece vocabulary has no end by which a cut could be told, but for its marks at the beginning.
    for share in (0.003,) if name == "wordpiece" else (0.01, 0.3, 0.6, 0.97):
        end = int(len(data) * share)
        # Whole lines of ranks are a whole vocabulary of fewer: only a cut line shows.
        path.write_bytes(data[: data.index(b" ", end) if name == "tiktoken" else end])
        with pytest.raises(TokenizerError):
            read_source(path)


def test_added_tokens_that_lie_in_a_file_of_their_own(tmp_path: Path) -> None:
    train_sentencepiece(tmp_path, "bpe", 600, byte_fallback=True)
    size = read_source(tmp_path).vocab_size
    (tmp_path / "added_tokens.json").write_text(json.dumps({"<|im_end|>": size + 1, "<|im_start|>": size}))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"eos_token": "<|im_end|>", "bos_token": "<gone>"}))
    source = read_source(tmp_path)
    assert [source.pieces[name] for name in ("<|im_start|>", "<|im_end|>")] == [size, size + 1]
    assert source.config["eos_token"] == "<|im_end|>"
    # A role given to what is no piece stays with the piece that the model itself names.
    assert source.config["bos_token"] == "<s>"


def test_merges_that_are_not_whole(tmp_path: Path) -> None:
    model = json.loads(train_byte_level(tmp_path / "whole", 1500).read_text(encoding="utf-8"))["model"]
    (tmp_path / "vocab.json").write_text(json.dumps(model["vocab"]), encoding="utf-8")
    lines = ["#version: 0.2", *(" ".join(pair) for pair in model["merges"])]
    (tmp_path / "merges.txt").write_text("\n".join(lines), encoding="utf-8")
    assert read_source(tmp_path / "merges.txt").vocab_size == 1500
    (tmp_path / "merges.txt").write_text("\n".join(lines[:700]), encoding="utf-8")
    with pytest.raises(TokenizerError, match="the merges are not whole"):
        read_source(tmp_path / "merges.txt")


def test_a_file_is_read_once_until_it_or_one_beside_it_changes(tmp_path: Path) -> None:
    folder = tmp_path / "own"
    train_byte_level(folder)
    first = read_once(folder)
    assert read_once(folder) is first
    assert read_once(folder / "tokenizer.json").where == str(folder / "tokenizer.json")
    config = folder / "tokenizer_config.json"
    config.write_text(json.dumps({"bos_token": END_OF_TEXT, "chat_template": "{{ x }}"}), encoding="utf-8")
    assert read_once(folder).config["chat_template"] == "{{ x }}"
    (folder / "chat_template.jinja").write_text("{{ y }}", encoding="utf-8")
    second = read_once(folder)
    assert second.config["chat_template"] == "{{ y }}"
    assert second.definition == first.definition
    train_byte_level(folder, 500)
    third = read_once(folder)
    assert third.vocab_size == 500
    forget()
    assert read_once(folder) is not third
    with pytest.raises(TokenizerError, match="own pattern"):
        read_once(folder, pattern="x")
    (folder / "tokenizer.json").unlink()
    with pytest.raises(TokenizerError, match="no tokenizer there"):
        read_once(folder)


def test_a_file_without_a_decoder_gives_its_pieces_with_blanks_between(tmp_path: Path) -> None:
    file = train_byte_level(tmp_path)
    definition = json.loads(file.read_text(encoding="utf-8"))
    file.write_text(json.dumps(definition | {"decoder": None}), encoding="utf-8")
    source = read_source(file)
    found = source.backend().encode("the cat")
    assert source.backend().decode(found.ids) == " ".join(found.tokens)
    # What the report of a compaction shows and warns of.
    assert changes(source, ["the cat"])

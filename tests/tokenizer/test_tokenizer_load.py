"""Saving and loading: the same numbers here and in transformers, foreign tokenizers, damaged files."""

import json
from pathlib import Path

import pytest

from lilliput.errors import TokenizerError
from lilliput.tokenizer.check import check_lossless
from lilliput.tokenizer.load import Tokenizer
from lilliput.tokenizer.train import END_OF_TEXT, train_tokenizer

TEXTS = [
    "",
    " leading blank",
    "It's said that they'll come , don 't you think ?",
    f"special {END_OF_TEXT} inside{END_OF_TEXT}{END_OF_TEXT}",
    "tabs\tand\r\nlines\n\n\n",
    "nul \x00 中文 👩‍👩‍👧 e\u0301",
]


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train_tokenizer([Path(__file__).read_text(encoding="utf-8")], 400)


def test_a_saved_tokenizer_loads_as_the_same(tokenizer: Tokenizer, tmp_path: Path) -> None:
    tokenizer.save(tmp_path, model_max_length=128)
    for path in (tmp_path, tmp_path / "tokenizer.json"):
        loaded = Tokenizer.load(path)
        assert loaded.hash == tokenizer.hash
        assert (loaded.bos_id, loaded.eos_id, loaded.vocab_size) == (tokenizer.bos_id, tokenizer.eos_id, 400)
        assert loaded.encode_batch(TEXTS) == tokenizer.encode_batch(TEXTS)
    loaded.save(tmp_path / "again")
    assert Tokenizer.load(tmp_path / "again").hash == tokenizer.hash


@pytest.mark.parametrize("model_type", [None, "llama"])
def test_transformers_gives_the_same_numbers(tokenizer: Tokenizer, tmp_path: Path, model_type: str | None) -> None:
    transformers = pytest.importorskip("transformers")
    tokenizer.save(tmp_path, model_max_length=128)
    if model_type:
        (tmp_path / "config.json").write_text(json.dumps({"model_type": model_type, "vocab_size": 400}))
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    assert len(theirs) == tokenizer.vocab_size
    assert (theirs.bos_token_id, theirs.eos_token_id) == (tokenizer.bos_id, tokenizer.eos_id)
    assert theirs.model_max_length == 128
    assert theirs.pad_token is not None
    for text, ours in zip(TEXTS, tokenizer.encode_batch(TEXTS), strict=True):
        assert theirs(text, add_special_tokens=False).input_ids == ours
        assert theirs(text).input_ids == [tokenizer.bos_id, *ours]
        assert theirs.encode(text) == [tokenizer.bos_id, *ours]
        assert theirs.decode(ours) == text
    theirs.save_pretrained(tmp_path / "theirs")
    assert Tokenizer.load(tmp_path / "theirs").encode_batch(TEXTS) == tokenizer.encode_batch(TEXTS)


def test_hashes_differ_where_numbers_would(tokenizer: Tokenizer) -> None:
    text = Path(__file__).read_text(encoding="utf-8")
    assert train_tokenizer([text], 399).hash != tokenizer.hash
    assert train_tokenizer([text + "zz zz zz zz"], 400).hash != tokenizer.hash


def test_what_is_no_tokenizer_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TokenizerError, match="no tokenizer there"):
        Tokenizer.load(tmp_path)
    for content in ("", "{", "[]", '{"model": {}}', '{"a": 1}', "\x00" * 100):
        (tmp_path / "tokenizer.json").write_text(content)
        with pytest.raises(TokenizerError, match="not a tokenizer"):
            Tokenizer.load(tmp_path)
    (tmp_path / "tokenizer.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(TokenizerError, match="not a tokenizer"):
        Tokenizer.load(tmp_path)


def test_a_cut_file_is_refused(tokenizer: Tokenizer, tmp_path: Path) -> None:
    tokenizer.save(tmp_path)
    text = (tmp_path / "tokenizer.json").read_text()
    (tmp_path / "tokenizer.json").write_text(text[: len(text) // 2])
    with pytest.raises(TokenizerError, match="not a tokenizer"):
        Tokenizer.load(tmp_path)
    tokenizer.save(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text("{")
    with pytest.raises(TokenizerError, match=r"damaged JSON.*tokenizer_config\.json"):
        Tokenizer.load(tmp_path)


def foreign(folder: Path, specials: list[str]) -> None:
    """A tokenizer of another maker: other special tokens, truncation and padding left switched on."""
    from tokenizers import Tokenizer as Backend
    from tokenizers import models, pre_tokenizers, trainers

    backend = Backend(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=300, special_tokens=specials, initial_alphabet=alphabet, show_progress=False
    )
    backend.train_from_iterator(["some text to learn from, some text"], trainer)
    backend.enable_truncation(3)
    backend.enable_padding()
    backend.save(str(folder / "tokenizer.json"))


def test_begin_and_end_of_a_foreign_tokenizer(tmp_path: Path) -> None:
    foreign(tmp_path, ["<pad>", "<s>", "</s>", "<go>"])
    found = Tokenizer.load(tmp_path)
    assert (found.bos_id, found.eos_id) == (1, 2)
    (tmp_path / "config.json").write_text('{"bos_token_id": 3, "eos_token_id": [2, 0]}')
    assert (Tokenizer.load(tmp_path).bos_id, Tokenizer.load(tmp_path).eos_id) == (3, 2)
    (tmp_path / "tokenizer_config.json").write_text('{"bos_token": {"content": "<s>"}, "chat_template": "x"}')
    found = Tokenizer.load(tmp_path)
    assert (found.bos_id, found.eos_id, found.chat_template) == (1, 2, "x")
    assert found.backend.encode("some text to learn").ids == [1, *found.encode("some text to learn")]
    assert len(found.encode("some text to learn from, and more")) > 3
    found.save(tmp_path / "copy")
    assert Tokenizer.load(tmp_path / "copy").hash == found.hash
    assert Tokenizer.load(tmp_path / "copy").chat_template == "x"


def test_one_special_token_serves_as_both_and_none_is_refused(tmp_path: Path) -> None:
    foreign(tmp_path, ["[other]"])
    with pytest.raises(TokenizerError, match="begins or ends a document"):
        Tokenizer.load(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text('{"eos_token": "[other]"}')
    assert (Tokenizer.load(tmp_path).bos_id, Tokenizer.load(tmp_path).eos_id) == (0, 0)


@pytest.mark.data
def test_the_tokenizer_of_gpt2(data_dir: Path, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    found = Tokenizer.load(data_dir / "tokenizers" / "gpt2" / "tokenizer.json")
    assert (found.bos_id, found.eos_id, found.vocab_size) == (50256, 50256, 50257)
    check_lossless(found, TEXTS)
    found.save(tmp_path)
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    for text in TEXTS:
        assert theirs(text).input_ids == [50256, *found.encode(text)]

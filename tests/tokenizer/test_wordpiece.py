"""BERT's vocab.txt gives the numbers of transformers, of its fast tokenizer and of the first one in Python."""

import unicodedata
from pathlib import Path

import pytest
from hypothesis import given, settings
from tokenizer_support import HARD, sample, texts, train_wordpiece

from lilliput.errors import TokenizerError
from lilliput.tokenizer.source import read_source

transformers = pytest.importorskip("transformers")


@pytest.mark.parametrize("lowercase", [True, False])
def test_the_numbers_are_those_of_transformers(tmp_path: Path, lowercase: bool) -> None:
    from transformers.models.bert.tokenization_bert_legacy import BertTokenizerLegacy

    path = train_wordpiece(tmp_path, 900, lowercase=lowercase)
    source = read_source(path)
    ours = source.backend()
    fast = transformers.BertTokenizer(vocab=str(path), do_lower_case=lowercase)
    first = BertTokenizerLegacy(str(path), do_lower_case=lowercase, split_special_tokens=True)
    # The first one composes characters before anything else, the fast one does not.
    for text in (unicodedata.normalize("NFC", text) for text in sample()[::3]):
        found = ours.encode(text, add_special_tokens=False).ids
        assert found == fast(text, add_special_tokens=False, split_special_tokens=True, verbose=False)["input_ids"]
        assert found == first.convert_tokens_to_ids(first.tokenize(text))
    marked = ours.encode("a cat", "the dog")
    assert marked.ids == fast("a cat", "the dog")["input_ids"]
    assert marked.type_ids == fast("a cat", "the dog")["token_type_ids"]
    assert ours.decode(marked.ids) == fast.decode(marked.ids, skip_special_tokens=True)

    @settings(max_examples=200, deadline=None)
    @given(texts)
    def on_generated_text(text: str) -> None:
        found = ours.encode(text, add_special_tokens=False).ids
        assert found == fast.backend_tokenizer.encode(text, add_special_tokens=False).ids or "[" in text

    on_generated_text()


def test_special_names_in_text_are_text(tmp_path: Path) -> None:
    source = read_source(train_wordpiece(tmp_path))
    special = {token["id"] for token in source.definition["added_tokens"]}
    unknown = source.pieces["[UNK]"]
    for text in ("[CLS] a [SEP] [MASK][PAD]", *HARD):
        assert not (special - {unknown}) & set(source.backend().encode(text, add_special_tokens=False).ids)


def test_case_and_roles_are_told_by_content(tmp_path: Path) -> None:
    lower = read_source(train_wordpiece(tmp_path / "lower"))
    cased = read_source(train_wordpiece(tmp_path / "cased", lowercase=False))
    assert lower.definition["normalizer"]["lowercase"] is True
    assert cased.definition["normalizer"]["lowercase"] is False
    assert "not lower-cased" in cased.notes[0]
    assert lower.config["bos_token"] == "[CLS]"
    assert lower.config["eos_token"] == "[SEP]"
    assert lower.config["mask_token"] == "[MASK]"
    (tmp_path / "lower" / "tokenizer_config.json").write_text('{"do_lower_case": false, "strip_accents": true}')
    told = read_source(tmp_path / "lower")
    assert told.notes == ()
    assert told.definition["normalizer"]["lowercase"] is False
    assert told.definition["normalizer"]["strip_accents"] is True


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("[UNK]\na\n##b\na\n", "a is there twice"),
        ("[UNK]\na\n\n##b\n", "an empty line"),
        ("[PAD]\na\n##b\n", r"no \[UNK\]"),
    ],
)
def test_a_damaged_vocabulary_is_refused(tmp_path: Path, content: str, reason: str) -> None:
    path = tmp_path / "vocab.txt"
    path.write_text(content)
    with pytest.raises(TokenizerError, match=reason):
        read_source(path)


def test_line_ends_and_line_separators(tmp_path: Path) -> None:
    path = tmp_path / "vocab.txt"
    path.write_bytes("[UNK]\r\n[CLS]\r\na\r\n\u2028\r\n\x85\r\n##b".encode())
    assert list(read_source(path).pieces) == ["[UNK]", "[CLS]", "a", "\u2028", "\x85", "##b"]

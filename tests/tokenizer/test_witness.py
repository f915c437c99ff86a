"""Every piece that can come out is found, with a text that proves it; what cannot is not."""

import json
import lzma
import random
from collections.abc import Callable, Iterable
from itertools import islice
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from odd_tokenizers import FAMILIES, SHORT_TEXTS, as_source, names_of, unigram_that_lacks_a_letter
from tokenizers import Regex, decoders, models, normalizers, pre_tokenizers, trainers
from tokenizers import Tokenizer as Backend

from lilliput.tokenizer.completions import missing_after, missing_before, texts_holding
from lilliput.tokenizer.source import Source, read_source
from lilliput.tokenizer.spelling import byte_letters
from lilliput.tokenizer.witness import witnesses


def given_by(source: Source, texts: Iterable[str]) -> set[int]:
    encoded = source.backend().encode_batch_fast(list(texts), add_special_tokens=False)
    return {number for encoding in encoded for number in encoding.ids}


def proven(source: Source, found: dict[int, str]) -> bool:
    encoded = source.backend().encode_batch_fast(list(found.values()), add_special_tokens=False)
    return all(number in encoding.ids for number, encoding in zip(found, encoded, strict=True))


@pytest.mark.parametrize("family", [*FAMILIES.values(), unigram_that_lacks_a_letter])
def test_all_that_any_short_text_gives_is_found(family: Callable[[random.Random], Source]) -> None:
    for seed in range(12):
        source = family(random.Random(seed))
        found = witnesses(source)
        assert proven(source, found)
        names = names_of(source)
        missed = {names[number] for number in given_by(source, SHORT_TEXTS) - found.keys()}
        assert not missed, f"seed {seed}"


def bytes_bpe(texts: Iterable[str], size: int, cutter: pre_tokenizers.PreTokenizer | None = None) -> Backend:
    backend = Backend(models.BPE())
    level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=cutter is None)
    backend.pre_tokenizer = level if cutter is None else pre_tokenizers.Sequence([cutter, level])
    backend.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=size, initial_alphabet=alphabet, special_tokens=["<|end|>"], show_progress=False
    )
    backend.train_from_iterator(texts, trainer)
    return backend


MIXED = "".join(chr(number) for number in [*range(0x4E00, 0x5400, 3), *range(0x905, 0x939), *range(0x1F600, 0x1F640)])


@pytest.mark.parametrize("width", [1, 5])
def test_pieces_cut_inside_characters_are_completed(width: int) -> None:
    draw = random.Random(width)
    texts = [" ".join("".join(draw.choices(MIXED, k=width)) for _ in range(40)) for _ in range(200)]
    source = as_source(bytes_bpe(texts, 1500))
    letters = byte_letters()
    data = {
        number: bytes(letters[letter] for letter in piece)
        for piece, number in source.pieces.items()
        if piece != "<|end|>"
    }
    broken = {number for number, piece in data.items() if piece.decode("utf-8", "ignore").encode() != piece}
    assert len(broken) > 256 - 128
    found = witnesses(source)
    assert proven(source, found)
    assert not given_by(source, texts) - found.keys()
    # Of the bytes, those that no UTF-8 holds.
    left = {data[number] for number in broken - found.keys() if len(data[number]) == 1}
    assert left == {bytes([byte]) for byte in (0xC0, 0xC1, *range(0xF5, 0x100))}
    assert source.pieces["<|end|>"] not in found


@given(st.text(min_size=1, max_size=5), st.data())
def test_texts_that_hold_bytes_do(text: str, data: st.DataObject) -> None:
    whole = text.encode("utf-8", "replace")
    start = data.draw(st.integers(0, len(whole) - 1))
    part = whole[start : data.draw(st.integers(start + 1, len(whole)))]
    texts = list(islice(texts_holding(part), 100))
    assert texts
    assert all(part in candidate.encode() for candidate in texts)
    rest = part[missing_before(part) :]
    if rest and not missing_before(part) and not missing_after(part):
        assert texts == [part.decode()]


def test_bytes_that_no_text_holds_have_no_texts() -> None:
    for data in (b"\xc0", b"\xff", b"a\xc3a", b"\x80\x80\x80\x80", b"\xed\xa0", b"\xe0\x80", b"\xf4\x90", b"\xc3\xc3"):
        assert not list(texts_holding(data)), data


def test_what_the_pattern_cuts_is_left_soon() -> None:
    digits = map(str, range(10))
    vocab = {piece: number for number, piece in enumerate([*digits, "12", "123", "1234"])}
    backend = Backend(models.BPE(vocab, [("1", "2"), ("12", "3"), ("123", "4")]))
    backend.pre_tokenizer = pre_tokenizers.Split(Regex(r"\p{N}{1,3}"), "isolated")
    assert witnesses(as_source(backend)).keys() == set(range(12))


def test_only_looked_up_pieces_are_found_as_whole_words() -> None:
    vocab = {"a": 0, "b": 1, "aba": 2, "bb": 3}
    for looks_up in (True, False):
        backend = Backend(models.BPE(vocab, [], ignore_merges=looks_up))
        backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
        assert (2 in witnesses(as_source(backend))) is looks_up


def test_a_byte_piece_is_found_through_a_character_that_is_no_piece() -> None:
    spelt = {f"<0x{byte:02X}>": byte for byte in range(256)}
    vocab = {**spelt, "a": 256, "é": 257, "▁": 258, "<unk>": 259}
    backend = Backend(models.BPE(vocab, [], byte_fallback=True, unk_token="<unk>"))
    backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    found = witnesses(as_source(backend))
    never = {ord("a"), ord(" "), 0xC0, 0xC1, *range(0xF5, 0x100), 259}
    assert found.keys() == set(range(260)) - never


def test_the_unknown_piece_is_found() -> None:
    for model in (
        models.WordPiece({"[UNK]": 0, "a": 1}, unk_token="[UNK]"),
        models.BPE({"<unk>": 0, "a": 1}, [], unk_token="<unk>"),
        models.Unigram([("<unk>", 0.0), ("a", -1.0)], 0, False),
    ):
        source = as_source(Backend(model))
        found = witnesses(source)
        assert found.keys() == {0, 1}
        assert proven(source, found)


@pytest.mark.parametrize("cutter", [pre_tokenizers.Digits(), pre_tokenizers.UnicodeScripts()])
def test_insides_of_words_that_go_with_their_like_only(cutter: pre_tokenizers.PreTokenizer) -> None:
    letters = [chr(number) for start in (0x30, 0x61, 0x430, 0xE01) for number in range(start, start + 8)]
    pieces = ["[UNK]", "##", *letters, *(f"##{letter}" for letter in letters), "##" + 2 * letters[-1], "##1a", "##7"]
    vocab = {piece: number for number, piece in enumerate(dict.fromkeys(pieces))}
    backend = Backend(models.WordPiece(vocab, unk_token="[UNK]"))
    backend.pre_tokenizer = cutter
    source = as_source(backend)
    names = names_of(source)
    missed = {names[number] for number in names.keys() - witnesses(source).keys()}
    assert missed == {"##", "##1a"}


def test_what_a_normaliser_changes_is_no_witness() -> None:
    vocab = {"[UNK]": 0, "a": 1, "A": 2, "é": 3, "e": 4, "##e": 5, "##E": 6}
    backend = Backend(models.WordPiece(vocab, unk_token="[UNK]"))
    backend.normalizer = normalizers.BertNormalizer(lowercase=True)
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    source = as_source(backend)
    assert witnesses(source).keys() == {0, 1, 4, 5}
    # Only what is turned into capitals gives them.
    backend.normalizer = normalizers.Sequence([normalizers.Lowercase(), normalizers.Replace("a", "A")])
    assert 2 in witnesses(as_source(backend))


def test_added_tokens_are_found_where_text_gives_them() -> None:
    backend = Backend(models.BPE({"a": 0, "b": 1}, []))
    backend.add_special_tokens(["<s>"])
    backend.add_tokens(["<tool>"])
    source = as_source(backend)
    assert witnesses(source) == {0: "a", 1: "b", source.pieces["<tool>"]: "<tool>"}


def test_only_what_is_asked_for_is_sought() -> None:
    source = as_source(Backend(models.BPE({"a": 0, "b": 1, "ab": 2, "ba": 3}, [("a", "b")])))
    assert witnesses(source, [2, 3]) == {2: "ab"}
    assert witnesses(source, []) == {}
    assert witnesses(source, [17]) == {}


def test_documents_are_read_for_what_no_made_up_text_gives_and_shortened() -> None:
    # A blank before the text, and a pattern that lets "ab" through only before a certain word.
    backend = Backend(models.BPE({**{c: i for i, c in enumerate("abcdwxyz ")}, "ab": 9}, [("a", "b")]))
    backend.pre_tokenizer = pre_tokenizers.Split(Regex("ab(?=wxyz)|."), "isolated")
    source = as_source(backend)
    assert 9 not in witnesses(source)
    document = "d" * 5000 + "abwxyz" + "d" * 5000
    found = witnesses(source, texts=["dab", document])
    assert "abwxyz" in found[9]
    assert len(found[9]) < 50
    assert proven(source, found)


def test_the_same_is_found_again() -> None:
    source = FAMILIES["word_piece"](random.Random(5))
    assert json.dumps(witnesses(source)) == json.dumps(witnesses(source))


def documents(data_dir: Path, size: int) -> list[str]:
    """About `size` bytes of each of three corpora."""
    texts: list[str] = []
    for name in ("childlike", "chinese", "mixed_domains"):
        with lzma.open(data_dir / f"corpora/{name}.train.jsonl.xz", "rt", encoding="utf-8") as lines:
            left = size
            for line in lines:
                texts.append(json.loads(line)["text"])
                left -= len(texts[-1].encode())
                if left < 0:
                    break
    return texts


SLOW = pytest.mark.slow


@pytest.mark.data
@pytest.mark.parametrize(
    ("name", "left"),
    [
        ("gpt2/tokenizer.json", 14),
        ("llama2/tokenizer.model", 113),
        ("bert/vocab.txt", 1335),
        pytest.param("llama3/tokenizer.model", 14, marks=SLOW),
        pytest.param("qwen/qwen.tiktoken", 1692, marks=SLOW),
    ],
)
def test_real_tokenizers(data_dir: Path, name: str, left: int) -> None:
    """All that real text gives is found; what is left is what the module says."""
    source = read_source(data_dir / "tokenizers" / name)
    found = witnesses(source)
    assert proven(source, found)
    special = {token["id"] for token in source.definition["added_tokens"] if token["special"]}
    assert len(set(names_of(source)) - found.keys() - special) <= left
    assert not given_by(source, documents(data_dir, 300_000)) - found.keys()

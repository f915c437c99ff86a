"""Whatever engine encodes, the numbers are those of `tokenizers`."""

import random
import sys
import unicodedata
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizer_support import END_OF_TEXT, HARD, sample, texts, train_byte_level, train_sentencepiece, train_wordpiece
from tokenizers import Regex
from tokenizers import pre_tokenizers as stages

from lilliput.errors import TokenizerError
from lilliput.tokenizer import encode as encode_module
from lilliput.tokenizer import lone as lone_module
from lilliput.tokenizer.definition import added_token, compose
from lilliput.tokenizer.encode import Encoder
from lilliput.tokenizer.patterns import CL100K, GPT2, O200K, QWEN
from lilliput.tokenizer.regular import alternatives, grouped, is_common, unsettled
from lilliput.tokenizer.source import Source, read_source
from lilliput.tokenizer.spelling import byte_letters

tiktoken = pytest.importorskip("tiktoken")
PATTERNS = {"gpt2": GPT2, "cl100k": CL100K, "qwen": QWEN, "o200k": O200K}
_LETTERS = {byte: letter for letter, byte in byte_letters().items()}


def byte_level(
    merges: list[tuple[str, str]],
    pattern: str = GPT2,
    *,
    extra: tuple[str, ...] = (),
    looks_up: bool = False,
    **more: Any,
) -> Source:
    """A byte-level BPE of the bytes, these merges in this order, and `extra` pieces without a merge."""
    vocab = dict.fromkeys([*_LETTERS.values(), *("".join(pair) for pair in merges), *extra])
    model = {
        "type": "BPE",
        "vocab": {piece: number for number, piece in enumerate(vocab)},
        "merges": merges,
        "ignore_merges": looks_up,
    }
    split = {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    words = {"type": "Sequence", "pretokenizers": [split, level]}
    definition = compose(model, pre_tokenizer=words, decoder={"type": "ByteLevel"} | level, **more)
    return Source(definition, {}, "test")


def trained_merges(folder: Path, size: int = 900) -> list[tuple[str, str]]:
    definition = read_source(train_byte_level(folder, size)).definition
    return [tuple(pair) for pair in definition["model"]["merges"]]


@pytest.fixture(scope="module")
def merges(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[str, str]]:
    return trained_merges(tmp_path_factory.mktemp("merges"))


def same(encoder: Encoder, source: Source, some: list[str]) -> None:
    """The encoder's numbers are the backend's, one way and the other, and so are its counts."""
    backend = source.backend()
    expected = [backend.encode(text, add_special_tokens=False).ids for text in some]
    assert encoder.encode_batch(some) == expected
    flat = [number for ids in expected for number in ids]
    ids, lengths = encoder.encode_flat(some)
    assert ids.tolist() == flat
    assert lengths.tolist() == list(map(len, expected))
    counts, lengths = encoder.count(some)
    assert counts.tolist() == [flat.count(number) for number in range(source.vocab_size)]
    assert lengths.tolist() == list(map(len, expected))


@pytest.mark.parametrize("kind", ["byte level", "BPE", "Unigram", "WordPiece"])
def test_numbers_are_those_of_the_backend(kind: str, tmp_path: Path) -> None:
    train = {
        "byte level": lambda: train_byte_level(tmp_path),
        "BPE": lambda: train_sentencepiece(tmp_path, byte_fallback=True, character_coverage=0.99),
        "Unigram": lambda: train_sentencepiece(tmp_path, "unigram"),
        "WordPiece": lambda: train_wordpiece(tmp_path),
    }[kind]
    source = read_source(train())
    encoder = Encoder(source, prepare=True)
    assert encoder.engine == ("tiktoken" if kind == "byte level" else "tokenizers")
    same(encoder, source, [*HARD, "\n".join(sample())[:200_000]])
    assert encoder.encode_batch([]) == []


@settings(max_examples=150, deadline=None)
@given(st.lists(texts, max_size=5), st.sampled_from(sorted(PATTERNS)))
def test_any_text_and_every_known_pattern(merges: list[tuple[str, str]], some: list[str], name: str) -> None:
    source = byte_level(merges, PATTERNS[name], special={END_OF_TEXT: 256 + len(merges)})
    encoder = Encoder(source, prepare=True)
    assert encoder.engine == "tiktoken"
    same(encoder, source, [*some, *HARD])


@st.composite
def merge_lists(draw: st.DrawFn) -> list[tuple[str, str]]:
    """Lists of merges in any order, as no training would make them: pieces that cannot be built or not from their own
    bytes, several pairs for one piece, pairs of pieces that come later."""
    pieces = list("abc")
    for _ in range(draw(st.integers(1, 14))):
        pieces.append(draw(st.sampled_from(pieces)) + draw(st.sampled_from(pieces)))
    built = [piece for piece in dict.fromkeys(pieces) if len(piece) > 1]
    pairs = [(piece[:at], piece[at:]) for piece in built for at in range(1, len(piece))]
    known = [pair for pair in pairs if set(pair) <= set(pieces)]
    return draw(st.permutations(known)) if draw(st.booleans()) else known


@settings(max_examples=400, deadline=None)
@given(merge_lists(), st.booleans(), st.lists(st.text("abc ", max_size=40), min_size=1, max_size=4))
def test_any_list_of_merges(pairs: list[tuple[str, str]], looks_up: bool, some: list[str]) -> None:
    source = byte_level(pairs, extra=("abcabc", "cab"), looks_up=looks_up)
    pieces = [piece for piece in source.pieces if set(piece) <= set("abc")]
    same(Encoder(source, prepare=True), source, [*some, *pieces, *(f"a{piece}{piece} {piece}b" for piece in pieces)])


def test_the_proof_covers_many_lists_and_not_all() -> None:
    letters = [("a", "b"), ("ab", "c"), ("b", "c"), ("a", "bc")]
    # Pairs of one piece apart from each other in the list.
    assert Encoder(byte_level(letters), prepare=True).engine == "tokenizers"
    assert Encoder(byte_level([*letters[:2], ("a", "bc"), ("b", "c")]), prepare=True).engine == "tiktoken"
    # A whole word that is looked up, and that two neighbours would make in the midst of another.
    assert Encoder(byte_level(letters[:1], extra=("abc",), looks_up=True), prepare=True).engine == "tokenizers"
    assert Encoder(byte_level(letters[:1], extra=("cccabc",), looks_up=True), prepare=True).engine == "tiktoken"
    assert Encoder(byte_level(letters[:1], extra=("abc",)), prepare=True).engine == "tiktoken"


@pytest.mark.parametrize(
    "pattern",
    [
        *(r"\w+|\s", r"\p{L}+$|\s+", r"\p{N}{1,3}+|\s", r"\p{L}*|\s+", r"[a-z]+?|\s", r"(?<=a)b|\s+"),
        *(r"\p{Han}+|\s+", "(a|b)+", "a||b", r"(?!\S)", r"(?i:strasse)|\s+"),
    ],
)
def test_patterns_that_may_mean_something_else_stay_with_tokenizers(pattern: str) -> None:
    assert not is_common(pattern)
    assert Encoder(byte_level([("a", "b")], pattern), prepare=True).engine == "tokenizers"


def test_what_a_pattern_leaves_out_is_still_encoded() -> None:
    source = byte_level([("a", "b"), ("1", "2")], r"\p{L}+|\s+")
    encoder = Encoder(source, prepare=True)
    assert encoder.engine == "tiktoken"
    same(encoder, source, ["ab12ab", "ab ab", "!!"])


def test_grouping_takes_neighbours_that_do_not_look_ahead() -> None:
    assert alternatives(r"'s| ?[^\s|(]+|(?:a|b)|\|") == ["'s", r" ?[^\s|(]+", "(?:a|b)", r"\|"]
    assert grouped(r"a|b+|\s+(?!\S)|\s+") == r"(?:a|b+)|\s+(?!\S)|(?:\s+)"


@pytest.mark.parametrize("name", sorted(PATTERNS))
def test_settled_characters_are_of_one_class_in_both_engines(name: str) -> None:
    """Of every class in the patterns, over all of Unicode."""
    everything = "".join(chr(at) for at in range(0x110000) if not 0xD800 <= at < 0xE000)
    table = {bytes([at]): at for at in range(256)}
    classes = {"gpt2": (r"\p{L}", r"\p{N}", r"\s"), "o200k": (r"\p{Lu}", r"\p{Lm}", r"\p{Lo}", r"\p{M}", r"\p{Lt}")}
    for one in classes.get(name, (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)",)):
        text = "'".join(everything) if "'" in one else everything
        encoding = tiktoken.Encoding("class", pat_str=one, mergeable_ranks=table, special_tokens={})
        theirs = bytes(encoding.encode_ordinary(text)).decode()
        ours = "".join(part for part, _ in stages.Split(Regex(one), "removed", invert=True).pre_tokenize_str(text))
        assert [one for one in set(theirs) ^ set(ours) if not unsettled(one)] == []


def test_unsettled_characters_are_few_and_the_right_ones() -> None:
    plain = ["", "plain", "naïve 中文。हिन्दी русский 한국어 かな ½ ①", "😀🇩🇪\U0001f3fd", "\ue000", "𠀀"]
    assert not any(map(unsettled, plain))
    # New letters, characters that are none yet, lone surrogates.
    assert all(map(unsettled, ["\u0560", "\u1c90", "a\u0378b", "\U00016f00", "\U0003fffd", "x\ud800"]))
    assert unicodedata.ucd_3_2_0.category("\u0560") == "Cn"


@pytest.mark.parametrize("unit", [" ", "x", " \n", "。"])
def test_long_runs_neither_break_an_engine_nor_change_numbers(merges: list[tuple[str, str]], unit: str) -> None:
    text = unit * (1_200_000 // len(unit))
    for pattern in (GPT2, CL100K):
        source = byte_level(merges, pattern)
        expected = source.backend().encode(text, add_special_tokens=False).ids
        assert Encoder(source, prepare=True).encode_batch([text, "a", text[:100_000]])[0] == expected


@settings(max_examples=150, deadline=None)
@given(st.lists(texts, min_size=1, max_size=12).map("a1 ,".join), st.sampled_from(sorted(PATTERNS)), st.booleans())
def test_cuts_change_nothing(merges: list[tuple[str, str]], text: str, name: str, prepare: bool) -> None:
    source = byte_level(merges, PATTERNS[name])
    encoder = Encoder(source, prepare=prepare)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(encode_module, "_LONG", 3)
        # Between "1" and the blank behind it, if that lies beyond the first three characters.
        assert len(list(encoder._parts([text]))) > 1 or "1 ," not in text[3:]
        same(encoder, source, [text])


def test_long_texts_are_cut_also_where_there_are_no_blanks(merges: list[tuple[str, str]]) -> None:
    text = "小猫坐在垫子上，小狗看着它。" * 30_000
    encoder = Encoder(byte_level(merges))
    assert max(len(part) for _, part in encoder._parts([text])) < 65_000


@pytest.fixture(scope="module")
def over_characters(tmp_path_factory: pytest.TempPathFactory) -> list[Source]:
    """SentencePiece's BPE with byte fall-back: as it is, without the dummy prefix, and with a normaliser."""
    options: list[dict[str, Any]] = [{}, {"add_dummy_prefix": False}, {"normalization_rule_name": "nmt_nfkc_cf"}]
    found = []
    for number, more in enumerate(options):
        folder = tmp_path_factory.mktemp(f"spm{number}")
        found.append(read_source(train_sentencepiece(folder, byte_fallback=True, character_coverage=0.98, **more)))
    return found


@settings(max_examples=200, deadline=None)
@given(st.lists(texts, max_size=5), st.integers(0, 2), st.booleans())
def test_lone_characters_are_counted_apart(
    over_characters: list[Source], some: list[str], number: int, always: bool
) -> None:
    source = over_characters[number]
    encoder = Encoder(source, prepare=True)
    assert encoder._lone is not None
    with pytest.MonkeyPatch.context() as patch:
        if always:
            patch.setattr(lone_module, "_SHARE", -1.0)
        same(encoder, source, [*some, *HARD, *(text + "仮名交じり文 ▁ 漢字" for text in some)])


def test_lone_characters_are_only_taken_out_where_that_is_proved(over_characters: list[Source], tmp_path: Path) -> None:
    definition = over_characters[0].definition
    model = definition["model"]
    changed: list[dict[str, Any]] = [
        {"added_tokens": [*definition["added_tokens"], added_token("<tool>", 10_000, special=False)]},
        {"pre_tokenizer": {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": True}},
        *({"model": model | {key: True}} for key in ("ignore_merges",)),
        {"model": model | {"byte_fallback": False}},
        {"model": model | {"merges": [*model["merges"], ["<0x41>", "<0x42>"]]}},
    ]
    assert lone_module.lone(definition, over_characters[0].backend()) is not None
    for change in changed:
        assert lone_module.lone(definition | change, over_characters[0].backend()) is None
    assert Encoder(read_source(train_sentencepiece(tmp_path, "unigram")), prepare=True)._lone is None


def test_added_tokens_in_text_and_normalisers_are_respected(merges: list[tuple[str, str]]) -> None:
    source = byte_level(merges, normalizer={"type": "NFC"})
    definition = source.definition | {"added_tokens": [added_token("<tool>", source.vocab_size, special=False)]}
    source = Source(definition, {}, "test")
    encoder = Encoder(source, prepare=True)
    assert encoder.engine == "tiktoken"
    some = ["a <tool> b", "plain", "e\u0301 decomposed", "é composed", "<tool", ""]
    same(encoder, source, some)
    assert source.vocab_size - 1 in encoder.encode_batch(some)[0]
    assert Encoder(byte_level(merges, normalizer={"type": "Lowercase"}), prepare=True).engine == "tokenizers"


@pytest.mark.parametrize("prepare", [False, True])
def test_lone_surrogates_are_refused(merges: list[tuple[str, str]], prepare: bool) -> None:
    encoder = Encoder(byte_level(merges), prepare=prepare)
    for call in (encoder.encode_batch, encoder.encode_flat, encoder.count):
        with pytest.raises(TokenizerError, match="surrogates"):
            call(["fine", "a\ud800b"])


def test_the_faster_engine_is_made_ready_once_there_is_enough_text(merges: list[tuple[str, str]]) -> None:
    encoder = Encoder(byte_level(merges))
    few, many = ["word " * 10] * 10, ["word " * 10_000] * 50
    assert encoder.encode_batch(few)
    assert encoder.engine == "tokenizers"
    assert encoder.encode_batch(many)[0] == encoder.encode_batch(many[:1])[0]
    assert encoder.engine == "tiktoken"


def test_without_tiktoken_all_goes_as_before(merges: list[tuple[str, str]], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tiktoken", None)
    source = byte_level(merges)
    encoder = Encoder(source, prepare=True)
    assert encoder.engine == "tokenizers"
    same(encoder, source, HARD)


@pytest.mark.data
@pytest.mark.parametrize("name", ["gpt2", "qwen", "llama3", "llama2", "bert"])
def test_the_tokenizers_of_real_models(name: str, data_dir: Path) -> None:
    from lilliput.corpus import ReadReport
    from lilliput.corpus import read_source as read_text
    from lilliput.recipe import SourceSpec

    source = read_source(data_dir / "tokenizers" / name)
    encoder = Encoder(source, prepare=True)
    assert encoder.engine == ("tokenizers" if name in ("llama2", "bert") else "tiktoken")
    backend = source.backend()
    for corpus in ("childlike", "chinese", "indic_hindi", "mixed_domains"):
        spec = SourceSpec(source=str(data_dir / "corpora" / f"{corpus}.dev.jsonl.xz"))
        some = list(read_text(spec, ReadReport()))
        some = random.Random(1).sample(some, min(len(some), 150))
        expected = [one.ids for one in backend.encode_batch_fast(some, add_special_tokens=False)]
        assert encoder.encode_batch(some) == expected
        counts, lengths = encoder.count(some)
        assert counts.tolist() == np.bincount(np.concatenate(expected), minlength=source.vocab_size).tolist()
        assert lengths.tolist() == list(map(len, expected))

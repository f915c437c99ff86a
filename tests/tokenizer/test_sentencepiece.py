"""SentencePiece models give the numbers and texts of the sentencepiece package, whatever their options."""

from collections import Counter
from itertools import chain, product
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizer_support import HARD, sample, texts, train_sentencepiece
from tokenizers import Tokenizer as Backend

from lilliput.errors import MissingExtra, TokenizerError
from lilliput.tokenizer.source import Source, read_source

sentencepiece = pytest.importorskip("sentencepiece")
model_pb2 = pytest.importorskip("sentencepiece.sentencepiece_model_pb2")

USER = ["<sep>", "ing", "the", "@@", "q\u2581", "\u2581\u2581\u2581", "e\u0301", "a-b", "$^.*", "\\", "(x", "[y]", "😀"]
# Options without a character map: exact on every text.
PLAIN: dict[str, dict[str, Any]] = {
    "identity": {},
    "no dummy prefix": {"add_dummy_prefix": False},
    "bare": {"add_dummy_prefix": False, "remove_extra_whitespaces": False},
    "blanks kept, bytes": {"remove_extra_whitespaces": False, "byte_fallback": True},
    "user-defined": {"user_defined_symbols": USER, "remove_extra_whitespaces": False, "byte_fallback": True},
    "user-defined, no dummy prefix": {"user_defined_symbols": USER, "add_dummy_prefix": False},
    "control": {"control_symbols": ["<ctl>", "the"], "user_defined_symbols": ["<sep>"], "pad_id": 3},
    "blank after words": {"treat_whitespace_as_suffix": True},
    "blank after words, kept": {"treat_whitespace_as_suffix": True, "remove_extra_whitespaces": False},
    "no special pieces": {"bos_id": -1, "eos_id": -1, "byte_fallback": True},
}
MAPPED: dict[str, dict[str, Any]] = {
    "nmt_nfkc": {},
    "nmt_nfkc, bytes": {"byte_fallback": True, "remove_extra_whitespaces": False},
    "nfkc": {"normalization_rule_name": "nfkc"},
    "nmt_nfkc_cf": {"normalization_rule_name": "nmt_nfkc_cf", "byte_fallback": True},
    "user-defined": {"user_defined_symbols": ["<sep>", "ing", "@@"]},
}
# Runs that overlap with themselves, on which the order of equal joins matters.
runs = st.text(st.sampled_from("ab-= \u2581"), max_size=50)


class Pair:
    """A model as we read it and as its package does."""

    def __init__(self, path: Path) -> None:
        self.source: Source = read_source(path)
        self.ours: Backend = self.source.backend()
        self.theirs = sentencepiece.SentencePieceProcessor(model_file=str(path))

    def numbers(self, text: str) -> tuple[list[int], list[int]]:
        return self.ours.encode(text, add_special_tokens=False).ids, self.theirs.encode(text)

    def agree(self, text: str) -> None:
        ours, theirs = self.numbers(text)
        assert ours == theirs, (text, self.theirs.id_to_piece(ours), self.theirs.id_to_piece(theirs))
        # Our default leaves the unknown token out, theirs writes it as ⁇.
        if self.theirs.unk_id() not in theirs:
            assert self.ours.decode(ours) == self.theirs.decode(theirs), text


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Pair]:
    """Models by `kind: options`, trained when the first test asks."""
    folder = tmp_path_factory.mktemp("models")
    found = {}
    for kind in ("bpe", "unigram"):
        for name, options in PLAIN.items():
            settled = {"normalization_rule_name": "identity", **options}
            found[f"{kind}: {name}"] = Pair(train_sentencepiece(folder / f"{kind}{name}", kind, 700, **settled))
        for name, options in MAPPED.items():
            found[f"{kind}: map {name}"] = Pair(train_sentencepiece(folder / f"{kind}m{name}", kind, 700, **options))
    return found


def _near(pair: Pair, text: str) -> bool:
    """Whether a Unigram's two spellings are as good as equal: single precision decides, over the whole text."""
    ours, theirs = pair.numbers(text)
    if Counter(ours) == Counter(theirs):
        return True
    score = {at: score for at, (_, score) in enumerate(pair.source.definition["model"]["vocab"])}
    return abs(sum(map(score.__getitem__, ours)) - sum(map(score.__getitem__, theirs))) < 1e-3


@pytest.mark.parametrize("name", PLAIN)
def test_bpe_is_exact(pairs: dict[str, Pair], name: str) -> None:
    pair = pairs[f"bpe: {name}"]
    for text in (*HARD, *sample()):
        pair.agree(text)

    @settings(max_examples=150, deadline=None)
    @given(st.one_of(texts, runs))
    def on_generated_text(text: str) -> None:
        pair.agree(text)

    on_generated_text()


def test_blanks_written_out_at_the_start_come_back_as_from_sentencepiece(pairs: dict[str, Pair]) -> None:
    for name in ("user-defined", "user-defined, no dummy prefix", "identity", "bare"):
        for blanks in product(" \u2581", repeat=6):
            pairs[f"bpe: {name}"].agree("".join(blanks) + "0")


@pytest.mark.parametrize("kind", ["bpe", "unigram"])
@pytest.mark.parametrize("name", [*PLAIN, *(f"map {name}" for name in MAPPED)])
def test_any_numbers_decode_as_by_sentencepiece(pairs: dict[str, Pair], kind: str, name: str) -> None:
    """Pieces in any order, blanks first more often than not; bytes as they spell characters."""
    pair = pairs[f"{kind}: {name}"]
    decode, size = pair.theirs.decode, pair.theirs.get_piece_size()
    plain = [at for at in range(size) if not (pair.theirs.is_byte(at) or pair.theirs.is_unknown(at))]
    blanks = [at for at in plain if pair.theirs.id_to_piece(at).startswith("\u2581")]
    found = [st.sampled_from(plain).map(lambda at: [at]), st.sampled_from(blanks or plain).map(lambda at: [at])]
    if pair.source.definition["model"]["byte_fallback"]:
        spelled = [[pair.source.pieces[f"<0x{byte:02X}>"] for byte in text.encode()] for text in ("\u2581", "é", "😀")]
        found.append(st.sampled_from(spelled))

    @settings(max_examples=100, deadline=None)
    @given(st.lists(st.one_of(found), max_size=8).map(lambda parts: list(chain(*parts))))
    def on_generated_numbers(numbers: list[int]) -> None:
        assert pair.ours.decode(numbers) == decode(numbers), pair.theirs.id_to_piece(numbers)

    on_generated_numbers()


def test_a_denormaliser_is_noted(model: bytes, tmp_path: Path) -> None:
    proto = model_pb2.ModelProto()
    proto.ParseFromString(model)
    proto.denormalizer_spec.precompiled_charsmap = proto.normalizer_spec.precompiled_charsmap
    path = tmp_path / "tokenizer.model"
    path.write_bytes(proto.SerializeToString())
    assert "denormaliser" in read_source(path).notes[0]


@pytest.mark.parametrize("name", PLAIN)
def test_unigram_is_exact_but_for_ties(pairs: dict[str, Pair], name: str) -> None:
    pair = pairs[f"unigram: {name}"]
    for text in HARD:
        if not _near(pair, text):
            pair.agree(text)
    # Ties are runs of one character: a few of some hundred texts of many thousand characters.
    differ = [text for text in sample() if pair.numbers(text)[0] != pair.numbers(text)[1]]
    assert all(_near(pair, text) for text in differ)
    assert len(differ) <= (40 if "user" in name else 4)

    @settings(max_examples=150, deadline=None)
    @given(st.one_of(texts, runs))
    def on_generated_text(text: str) -> None:
        if not _near(pair, text):
            pair.agree(text)

    on_generated_text()


@pytest.mark.parametrize("name", MAPPED)
@pytest.mark.parametrize("kind", ["bpe", "unigram"])
def test_a_character_map_is_exact_on_real_text(pairs: dict[str, Pair], kind: str, name: str) -> None:
    pair = pairs[f"{kind}: map {name}"]
    for text in (*HARD, *sample()):
        if "ﬁ\u0308" not in text and (kind == "bpe" or not _near(pair, text)):
            pair.agree(text)


@pytest.mark.parametrize("name", MAPPED)
def test_a_character_map_differs_where_the_docstring_says(pairs: dict[str, Pair], name: str) -> None:
    """Of generated text, which is full of marks, one in fifty at most."""
    pair = pairs[f"bpe: map {name}"]
    seen = differ = 0

    @settings(max_examples=400, deadline=None, database=None, derandomize=True)
    @given(texts)
    def on_generated_text(text: str) -> None:
        nonlocal seen, differ
        seen += 1
        ours, theirs = pair.numbers(text)
        differ += ours != theirs

    on_generated_text()
    assert differ <= seen / 50


# What SentencePiece's longest entry gives, and `tokenizers`' map alone does not.
@pytest.mark.parametrize(
    "text",
    [
        *("ｅ\u0301", "か\u3099き\u309a", "\u1112\u1161\u11ab", "ﾊ\uff9f", "x\r\ny", "\u00a0\u0301", "²\ufe0f"),
        *("²\u0301", "e\u0302\u0323", "e\u0323\u0302", "é\u0323", "ê\u0301", "ש\u05c1\u05bc", "ب\u0651\u064e"),
        *("u\u031b\u0301", "α\u0313\u0301\u0345", "и\u0306", "A\u030a", "Å\u0301", "q\u0307\u0323", "क\u093c"),
    ],
)
def test_the_longest_entry_counts(pairs: dict[str, Pair], text: str) -> None:
    for kind in ("bpe", "unigram"):
        pairs[f"{kind}: map nmt_nfkc, bytes"].agree(text)


def test_a_map_of_ones_own(tmp_path: Path) -> None:
    rules = tmp_path / "rules.tsv"
    rules.write_text("41\t61\n63 61 74\t44 4F 47\n2460\t31\nE9\t65\n")
    pair = Pair(train_sentencepiece(tmp_path, normalization_rule_tsv=str(rules)))
    assert pair.source.notes == ()
    for text in ("A cat éA ①", "concatenated", "cacat", *sample()[:50]):
        pair.agree(text)
    rules.write_text("63 61 74\t64 6F 67\n74 6F\t78\n64\t65\n")
    unclear = read_source(train_sentencepiece(tmp_path, normalization_rule_tsv=str(rules)))
    assert "another order: 'cat'" in unclear.notes[0]


def test_a_user_defined_piece_that_the_map_changes_is_noted(tmp_path: Path) -> None:
    source = read_source(train_sentencepiece(tmp_path, user_defined_symbols=["ｅ"]))
    assert source.notes == ("1 user-defined pieces are changed before they are found and may not come out: 'ｅ'",)


def test_cuts_change_no_number(pairs: dict[str, Pair]) -> None:
    """Without the cut before blanks: the same numbers, so it is safe; with it, the words of the cache."""
    for name in ("bpe: blanks kept, bytes", "unigram: bare"):
        pair = pairs[name]
        definition = {**pair.source.definition, "pre_tokenizer": None}
        uncut = Source(definition, {}, "uncut").backend()
        assert pair.source.definition["pre_tokenizer"]["pattern"] == {"Regex": "\u2581+"}
        for text in (*HARD, *sample()):
            assert uncut.encode(text, add_special_tokens=False).ids == pair.numbers(text)[0]


def test_a_piece_that_holds_a_blank_within_forbids_the_cut(tmp_path: Path) -> None:
    pair = Pair(train_sentencepiece(tmp_path, split_by_whitespace=False, normalization_rule_name="identity"))
    assert any("\u2581" in piece[1:].lstrip("\u2581") for piece in pair.source.pieces)
    assert pair.source.definition["pre_tokenizer"] is None
    for text in sample()[::10]:
        pair.agree(text)


def test_blanks_that_stay_blanks(model: bytes, tmp_path: Path) -> None:
    proto = model_pb2.ModelProto()
    proto.ParseFromString(model)
    proto.normalizer_spec.escape_whitespaces = False
    path = tmp_path / "tokenizer.model"
    path.write_bytes(proto.SerializeToString())
    pair = Pair(path)
    for text in sample()[:100]:
        ours, theirs = pair.numbers(text)
        assert ours == theirs


def test_equal_scores_are_noted(model: bytes, tmp_path: Path) -> None:
    proto = model_pb2.ModelProto()
    proto.ParseFromString(model)
    words = [piece for piece in proto.pieces if piece.type == 1 and len(set(piece.piece)) > 1][:2]
    words[1].score = words[0].score
    path = tmp_path / "tokenizer.model"
    path.write_bytes(proto.SerializeToString())
    assert "2 pieces have equal scores" in read_source(path).notes[0]


def test_no_control_piece_comes_out_of_text(pairs: dict[str, Pair]) -> None:
    text = "<s></s><unk><pad><0x41><ctl> <s> the</s>"
    for name, pair in pairs.items():
        ours, _ = pair.numbers(text)
        assert not [at for at in ours if pair.theirs.is_control(at)], name
        pair.agree(text)


def test_what_is_declared(pairs: dict[str, Pair]) -> None:
    source = pairs["bpe: control"].source
    roles = {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"}
    assert source.config == roles | {"user_defined_symbols": ["<sep>"]}
    assert source.kind == "BPE"
    assert source.backend().encode("a").ids[0] == source.pieces["<s>"]
    assert pairs["unigram: identity"].source.kind == "Unigram"
    assert pairs["bpe: no special pieces"].source.config == {"unk_token": "<unk>"}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return train_sentencepiece(tmp_path_factory.mktemp("model")).read_bytes()


def test_a_cut_model_is_refused(model: bytes, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "tokenizer.model"
    for share in (0.001, 0.01, 0.1, 0.5, 0.9, 0.99, 0.999):
        path.write_bytes(model[: int(len(model) * share)])
        with pytest.raises(TokenizerError):
            read_source(path)
    assert capfd.readouterr().err == ""


@settings(max_examples=300, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), min_size=1, max_size=20))
def test_a_damaged_model_is_read_or_refused(model: bytes, flips: list[tuple[int, int]]) -> None:
    from lilliput.tokenizer.sentencepiece import read_sentencepiece

    damaged = bytearray(model)
    for at, byte in flips:
        damaged[at % len(model)] = byte
    definition, refused = {}, False
    try:
        definition = read_sentencepiece(bytes(damaged), "damaged.model").definition
    except TokenizerError:
        refused = True
    assert refused or definition["model"]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda proto: setattr(proto.trainer_spec, "model_type", 3), "word model is not known"),
        (lambda proto: setattr(proto.pieces[300], "type", 5), "marked as unused"),
        (lambda proto: setattr(proto.pieces[300], "piece", proto.pieces[301].piece), "is there 2 times"),
        (lambda proto: setattr(proto.pieces[0], "type", 3), "0 pieces for the unknown"),
        (lambda proto: setattr(proto.trainer_spec, "byte_fallback", True), "0 of 256"),
        (lambda proto: setattr(proto.pieces[300], "score", float("nan")), "no number"),
        (lambda proto: setattr(proto.normalizer_spec, "precompiled_charsmap", b"\xff" * 9), "map is damaged"),
    ],
)
def test_what_is_not_known_is_refused_by_name(model: bytes, tmp_path: Path, change: Any, reason: str) -> None:
    proto = model_pb2.ModelProto()
    proto.ParseFromString(model)
    change(proto)
    path = tmp_path / "tokenizer.model"
    path.write_bytes(proto.SerializeToString())
    with pytest.raises(TokenizerError, match=reason):
        read_source(path)


def test_without_the_package_the_extra_is_named(model: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "tokenizer.model").write_bytes(model)
    monkeypatch.setitem(__import__("sys").modules, "sentencepiece.sentencepiece_model_pb2", None)
    with pytest.raises(MissingExtra, match=r"sentencepiece.*lilliput\[tokenizers\]"):
        read_source(tmp_path)

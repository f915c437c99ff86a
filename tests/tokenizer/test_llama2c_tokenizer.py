"""A llama2.c tokenizer.bin gives the numbers of run.c, wherever those are not wrong ones."""

import json
import lzma
import struct
from collections.abc import Callable
from itertools import chain, islice
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizer_support import HARD, sample, texts, train_sentencepiece

from lilliput.errors import TokenizerError
from lilliput.tokenizer.encode import Encoder
from lilliput.tokenizer.llama2c import read_tokenizer_bin
from lilliput.tokenizer.load import Tokenizer
from lilliput.tokenizer.source import Source, read_source

Pieces = list[tuple[str, float]]
CONTROL: Pieces = [("<unk>", 0.0), ("\n<s>\n", 0.0), ("\n</s>\n", 0.0)]
BYTES: Pieces = [(f"<0x{byte:02X}>", 0.0) for byte in range(256)]


def written(pieces: Pieces) -> bytes:
    """The file: the longest piece's bytes, then score, length and text of each."""
    spelled = [(name.encode(), score) for name, score in pieces]
    parts = [struct.pack("<fi", score, len(name)) + name for name, score in spelled]
    return struct.pack("<i", max(len(name) for name, _ in spelled)) + b"".join(parts)


def parsed(data: bytes) -> list[tuple[bytes, float]]:
    """The pieces of a file, read independently of the reader."""
    at, found = 4, []
    while at < len(data):
        score, size = struct.unpack_from("<fi", data, at)
        found.append((data[at + 8 : at + 8 + size], score))
        at += 8 + size
    return found


def by_runc(pieces: list[tuple[bytes, float]]) -> Callable[[str], list[int]]:
    """`run.c`'s encode without begin and end, told from its description: bytes, look-ups by text, best join first."""
    number = {name: at for at, (name, _) in enumerate(pieces)}

    def encode(text: str) -> list[int]:
        ids = [number[b" "]] if text and b" " in number else []
        for character in text:
            spelled = character.encode()
            ids += [number[spelled]] if spelled in number else [byte + 3 for byte in spelled]
        while True:
            best, place, join = -1e10, -1, -1
            for at in range(len(ids) - 1):
                found = number.get(pieces[ids[at]][0] + pieces[ids[at + 1]][0], -1)
                if found >= 0 and pieces[found][1] > best:
                    best, place, join = pieces[found][1], at, found
            if place < 0:
                return ids
            ids[place : place + 2] = [join]

    return encode


def source_of(data: bytes) -> Source:
    read = read_tokenizer_bin(data, "tok.bin")
    return Source(read.definition, read.config, "tok.bin", read.notes)


def ours(source: Source) -> Callable[[str], list[int]]:
    backend = source.backend()
    return lambda text: list(backend.encode(text, add_special_tokens=False).ids)


def exported(folder: Path, size: int = 800, **options: object) -> bytes:
    """A small SentencePiece BPE in llama2.c's form."""
    sentencepiece = pytest.importorskip("sentencepiece")
    pytest.importorskip("sentencepiece.sentencepiece_model_pb2")
    settled = {"normalization_rule_name": "identity", "allow_whitespace_only_pieces": True, "byte_fallback": True}
    model = train_sentencepiece(folder, "bpe", size, **(settled | options))
    return as_llama2c(sentencepiece.SentencePieceProcessor(model_file=str(model)))


def as_llama2c(package: Any) -> bytes:
    """A model of the sentencepiece package as llama2.c's tokenizer.py writes it."""
    names = [package.id_to_piece(at).replace("\u2581", " ") for at in range(package.get_piece_size())]
    for at in (package.bos_id(), package.eos_id()):
        names[at] = f"\n{names[at]}\n"
    return written([(name, package.get_score(at)) for at, name in enumerate(names)])


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return exported(tmp_path_factory.mktemp("model"))


def test_numbers_are_run_cs(data: bytes) -> None:
    source, theirs = source_of(data), by_runc(parsed(data))
    encode, fast = ours(source), Encoder(source, prepare=True)
    assert source.notes == ()
    assert source.config == {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>"}
    real = [text[:600] for text in sample()[:40]]
    for text in (*HARD, *real):
        # A text ends for run.c where a string of C does.
        cut = text.split("\0")[0]
        assert encode(cut) == theirs(cut), cut
    assert fast.encode_batch(real) == [theirs(text) for text in real]

    @settings(max_examples=150, deadline=None)
    @given(texts)
    def on_generated_text(text: str) -> None:
        assert encode(text.replace("\0", "")) == theirs(text.replace("\0", ""))

    on_generated_text()


def test_numbers_are_sentencepieces_where_blanks_are_kept(tmp_path: Path) -> None:
    sentencepiece = pytest.importorskip("sentencepiece")
    encode = ours(source_of(exported(tmp_path, remove_extra_whitespaces=False)))
    package = sentencepiece.SentencePieceProcessor(model_file=str(tmp_path / "tokenizer.model"))
    for text in (*HARD, *sample()[:60]):
        # U+2581 is a blank there and a character here.
        plain = text.replace("\u2581", "_")
        assert encode(plain) == package.encode(plain), plain


def test_text_comes_back(data: bytes) -> None:
    source = source_of(data)
    tokenizer = Tokenizer.of(source)
    assert (tokenizer.bos_id, tokenizer.eos_id) == (1, 2)
    for text in (*HARD, *sample()[:20]):
        assert tokenizer.decode(tokenizer.encode(text)) == text

    @settings(max_examples=100, deadline=None)
    @given(texts)
    def on_generated_text(text: str) -> None:
        assert tokenizer.decode(tokenizer.encode(text)) == text

    on_generated_text()


def test_names_of_special_pieces_are_plain_text(data: bytes) -> None:
    source = source_of(data)
    found = ours(source)("<s></s><unk>\n<s>\n<0x41><0x0A>")
    assert not {0, 1, 2} & set(found)
    assert source.backend().decode(found) == "<s></s><unk>\n<s>\n<0x41><0x0A>"


letters = st.text("ab ", min_size=1, max_size=4)
scores = st.one_of(st.integers(-4, 0).map(float), st.just(-1e10), st.floats(-99, 9, width=32))


@settings(max_examples=300, deadline=None)
@given(st.dictionaries(letters, scores, min_size=1, max_size=9), st.lists(st.text("ab ", max_size=24), min_size=3))
def test_any_scores_give_run_cs_numbers_or_are_noted(pieces: dict[str, float], written_texts: list[str]) -> None:
    """Scores as no trainer gives them: equal ones, and joins better than their parts."""
    whole = written(CONTROL + BYTES + list(pieces.items()))
    source, theirs = source_of(whole), by_runc(parsed(whole))
    if any("another order" in note for note in source.notes):
        return
    encode, prefix = ours(source), " " in pieces
    for text in written_texts:
        # Without a piece for the blank, run.c reads outside of its list; the transcription puts nothing there.
        assert encode(text) == theirs(text), (prefix, text)


@pytest.mark.parametrize(
    ("pieces", "text", "named"),
    [
        # Leftmost first is `ab` in one text and `ba` in another, which no order of the two gives.
        ([("a", -9.0), ("b", -9.0), ("ab", -1.0), ("ba", -1.0)], "aba bab", "'ab'"),
        # `aab` takes the b that `bb` of the same score needs, once `aa` is there.
        ([("a", -9.0), ("b", -9.0), ("bb", -2.0), ("aa", -2.0), ("aab", -1.0)], "aabb", "'aab'"),
        # Runs of one character grow from the left if all have one score, not if some do.
        ([("a", -9.0), ("aaaaa", -4.0), ("aaaa", -4.0), ("aaa", -2.0), ("aa", -1.0)], "a" * 7, "'aaaaa'"),
    ],
)
def test_an_order_that_ranks_cannot_give_is_noted(pieces: Pieces, text: str, named: str) -> None:
    whole = written(CONTROL + BYTES + pieces)
    source = source_of(whole)
    assert ours(source)(text) != by_runc(parsed(whole))(text)
    assert "in another order than by llama2.c" in source.notes[-1]
    assert named in source.notes[-1]


def test_runs_of_one_score_grow_from_the_left() -> None:
    """As in LLaMA's vocabulary, where every run of blanks has the lowest score."""
    pieces = [(" ", -99.0), ("a", -98.0), (" a", -1.0), *((" " * size, -99.0) for size in range(2, 17))]
    whole = written(CONTROL + BYTES + pieces)
    source = source_of(whole)
    assert source.notes == ()
    for size in range(70):
        text = f"a{' ' * size}a"
        assert ours(source)(text) == by_runc(parsed(whole))(text)


def test_without_byte_pieces_what_is_unknown_stays_unknown() -> None:
    pieces = [(" ", -9.0), ("a", -9.0), ("b", -9.0), (" a", -1.0), ("ab", -2.0)]
    source = source_of(written(CONTROL + pieces))
    assert "no byte pieces: an unknown character becomes <unk>" in source.notes[0]
    # One number for a run, as SentencePiece gives.
    assert ours(source)("ab xyz") == [6, 5, 3, 0]
    assert source.backend().decode([6, 5], skip_special_tokens=False) == "ab"


def test_with_some_byte_pieces_characters_are_bytes_or_unknown() -> None:
    source = source_of(written([*CONTROL, (" ", -9.0), *BYTES[:128]]))
    assert "128 of 256 byte pieces" in source.notes[0]
    assert ours(source)("Aé") == [3, 0x41 + 4, 0]


def test_byte_pieces_elsewhere_are_found_by_name() -> None:
    source = source_of(written([*CONTROL, (" ", -9.0), ("a", -9.0), *BYTES]))
    assert "<0x00> is piece 5, not where llama2.c looks" in source.notes[0]
    assert ours(source)("aé") == [3, 4, 0xC3 + 5, 0xA9 + 5]


def test_without_a_blank_nothing_is_put_before_a_text() -> None:
    source = source_of(written([*CONTROL, *BYTES, ("a", -9.0), (" a", -1.0), ("aa", -2.0)]))
    assert "no piece for the blank" in source.notes[0]
    encode = ours(source)
    assert encode("aa a") == [261, 0x20 + 3, 259]
    assert source.backend().decode(encode(" a")) == " a"
    assert encode("") == []


def test_a_piece_with_a_blank_within_forbids_cuts() -> None:
    pieces = [*CONTROL, *BYTES, (" ", -9.0), ("a", -9.0), ("a ", -1.0), ("a a", -2.0)]
    source = source_of(written(pieces))
    assert source.definition["pre_tokenizer"] is None
    for text in ("a a", "a a a", "aa  a"):
        assert ours(source)(text) == by_runc(parsed(written(pieces)))(text)


def test_joins_to_control_and_byte_pieces_are_left_out_and_noted() -> None:
    spelling = [("<", -9.0), ("s", -9.0), (">", -9.0), ("s>", -1.0), (" ", -9.0)]
    source = source_of(written([("<unk>", 0.0), ("<s>", 0.0), ("</s>", 0.0), *BYTES, *spelling]))
    assert source.notes == (
        "text never becomes these, of special or byte pieces' names, as it could by llama2.c: '<s>'",
    )
    assert ours(source)("<s>") == [263, 259, 262]


def test_begin_and_end_elsewhere_are_found_by_name() -> None:
    source = source_of(written([("<unk>", 0.0), ("\n</s>\n", 0.0), *BYTES, (" ", -9.0), ("\n<s>\n", 0.0)]))
    assert [note for note in source.notes if "taken by its name" in note][1:] == [
        "<s> is piece 259, not 1, which llama2.c takes for it: it is taken by its name",
        "</s> is piece 1, not 2, which llama2.c takes for it: it is taken by its name",
    ]
    tokenizer = Tokenizer.of(source)
    assert (tokenizer.bos_id, tokenizer.eos_id) == (259, 1)


def test_a_piece_called_like_the_begin_keeps_its_name() -> None:
    source = source_of(written([*CONTROL, *BYTES, (" ", -9.0), ("<s>", -1.0)]))
    assert source.config["bos_token"] == "\n<s>\n"
    assert source.pieces["<s>"] == 260


def test_a_tokenizer_without_begin_and_end_is_refused_in_use() -> None:
    source = source_of(written([("<unk>", 0.0), *BYTES, (" ", -9.0)]))
    with pytest.raises(TokenizerError, match="no token that begins or ends"):
        Tokenizer.of(source)


@pytest.mark.parametrize(
    ("pieces", "reason"),
    [
        ([*CONTROL, *BYTES, ("a", -1.0), ("a", -2.0)], "'a' is there 2 times"),
        ([*CONTROL, *BYTES, ("\u2581a", -1.0)], r"hold U\+2581"),
        ([*CONTROL, *BYTES, ("a\0", -1.0)], r"hold U\+0000"),
        ([*CONTROL[1:], *BYTES[:255], ("a", -1.0)], "no piece <unk> and 255 of 256"),
        ([*CONTROL, ("a", float("nan"))], "score of piece 3 is no number"),
        ([*CONTROL, ("a", float("inf"))], "score of piece 3 is no number"),
        ([*CONTROL, ("", -1.0)], "piece 3 has 0 bytes"),
    ],
)
def test_what_cannot_be_mapped_is_refused_by_name(pieces: Pieces, reason: str, tmp_path: Path) -> None:
    (tmp_path / "tokenizer.bin").write_bytes(written(pieces))
    with pytest.raises(TokenizerError, match=reason):
        read_source(tmp_path)


def test_pieces_of_bytes_are_refused_by_name() -> None:
    part = struct.pack("<fi", -1.0, 2) + b"\xe4\xb8"
    with pytest.raises(TokenizerError, match="piece 259 is no whole characters"):
        read_tokenizer_bin(written(CONTROL + BYTES) + part, "tok.bin")


def test_a_cut_or_longer_file_is_refused(data: bytes, tmp_path: Path) -> None:
    path = tmp_path / "tok800.bin"
    for size in (*range(40), len(data) // 4, *range(len(data) - 8, len(data))):
        path.write_bytes(data[:size])
        with pytest.raises(TokenizerError, match=r"ends within|not a tokenizer|pieces are missing"):
            read_source(path)
    for more in (b"\0", b"\0" * 8, b"text"):
        path.write_bytes(data + more)
        with pytest.raises(TokenizerError, match=r"ends within|has 0 bytes"):
            read_source(path)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), min_size=1, max_size=8))
def test_a_damaged_file_is_read_or_refused(data: bytes, flips: list[tuple[int, int]]) -> None:
    damaged = bytearray(data)
    for at, byte in flips:
        damaged[at % len(data)] = byte
    definition, refused = {}, False
    try:
        definition = read_tokenizer_bin(bytes(damaged), "tok.bin").definition
    except TokenizerError:
        refused = True
    assert refused or definition["model"]


def test_the_format_is_told_by_content(data: bytes, tmp_path: Path) -> None:
    (tmp_path / "tok800.bin").write_bytes(data)
    (tmp_path / "model.bin").write_bytes(struct.pack("<7i", 64, 172, 5, 8, 4, 512, 512) + bytes(400))
    assert read_source(tmp_path).hash == source_of(data).hash
    with pytest.raises(TokenizerError, match="not a tokenizer of a known format"):
        read_source(tmp_path / "model.bin")
    big_endian = struct.pack(">i", 7) + data[4:]
    (tmp_path / "turned.bin").write_bytes(big_endian)
    with pytest.raises(TokenizerError, match="not a tokenizer of a known format"):
        read_source(tmp_path / "turned.bin")


def test_auto_tokenizer_reads_what_is_saved(data: bytes, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    tokenizer = Tokenizer.of(source_of(data))
    tokenizer.save(tmp_path)
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    for text in ("Once upon  a time\n", "<s> é ▁", ""):
        assert theirs(text).input_ids == [1, *tokenizer.encode(text)]
        assert theirs.decode(tokenizer.encode(text)) == text


def test_a_definition_can_be_written_and_read(data: bytes, tmp_path: Path) -> None:
    source = source_of(data)
    (tmp_path / "tokenizer.json").write_text(json.dumps(source.definition), encoding="utf-8")
    again = read_source(tmp_path)
    assert again.hash == source.hash


def childlike(data_dir: Path, kind: str) -> list[str]:
    with lzma.open(data_dir / "corpora" / "childlike.dev.jsonl.xz", "rt", encoding="utf-8") as lines:
        documents = map(json.loads, lines)
        return [document["text"] for document in documents if document["source"] == kind]


@pytest.mark.data
def test_tok512_on_tiny_stories_is_run_cs(data_dir: Path) -> None:
    file = data_dir / "weights" / "stories260K" / "tok512.bin"
    source = read_source(file)
    assert source.notes == ()
    encode, theirs = ours(source), by_runc(parsed(file.read_bytes()))
    stories = childlike(data_dir, "tiny_story")
    assert len(stories) == 62
    for text in chain(islice(stories, 12), HARD):
        cut = text.split("\0")[0]
        assert encode(cut) == theirs(cut)


@pytest.mark.data
def test_llama_2_as_llama2c_writes_it(data_dir: Path) -> None:
    """32,000 pieces of LLaMA-2: no doubt about an order, and SentencePiece's numbers."""
    sentencepiece = pytest.importorskip("sentencepiece")
    model = data_dir / "tokenizers" / "llama2" / "tokenizer.model"
    package = sentencepiece.SentencePieceProcessor(model_file=str(model))
    whole = as_llama2c(package)
    source = source_of(whole)
    assert source.notes == ()
    encode, theirs = ours(source), by_runc(parsed(whole))
    for text in chain(islice(childlike(data_dir, "simple_wiki"), 30), HARD):
        plain = text.replace("\u2581", "_")
        assert encode(plain) == package.encode(plain)
        assert encode(text[:300].split("\0")[0]) == theirs(text[:300].split("\0")[0])

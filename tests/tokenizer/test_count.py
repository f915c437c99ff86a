"""Counts: exact, by language, the same in shards as in one go, in bounded memory."""

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizer_support import texts, train_byte_level, train_sentencepiece, train_wordpiece

from lilliput.corpus import ReadReport
from lilliput.corpus import read_source as read_text
from lilliput.errors import ConfigError, CorpusError, TokenizerError
from lilliput.recipe import SourceSpec
from lilliput.tokenizer.count import count_corpus, count_texts
from lilliput.tokenizer.counts import Counts, Group, coverage, curve, merge, missing
from lilliput.tokenizer.script import dominant_script
from lilliput.tokenizer.source import Source, read_source
from lilliput.tokenizer.usage import coverage_table, describe, find_usage

ROWS = ["The cat sat on the mat.", "小猫坐在垫子上。", "Она сидела.", "1 + 1 = 2", "Two cats, three dogs."] * 7


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Source:
    return read_source(train_byte_level(tmp_path_factory.mktemp("source")))


@pytest.fixture
def spec(tmp_path: Path) -> SourceSpec:
    return rows(tmp_path / "rows.jsonl", ROWS)


def rows(file: Path, some: list[str]) -> SourceSpec:
    file.write_text("".join(json.dumps({"text": text}) + "\n" for text in some), encoding="utf-8")
    return SourceSpec(source=str(file))


def brute_force(source: Source, some: list[str]) -> list[int]:
    backend = source.backend()
    found = Counter(number for text in some for number in backend.encode(text, add_special_tokens=False).ids)
    return [found[number] for number in range(source.vocab_size)]


@pytest.mark.parametrize("kind", ["byte level", "BPE", "Unigram", "WordPiece"])
def test_every_occurrence_is_counted(kind: str, tmp_path: Path) -> None:
    train = {
        "byte level": lambda: train_byte_level(tmp_path),
        "BPE": lambda: train_sentencepiece(tmp_path, byte_fallback=True),
        "Unigram": lambda: train_sentencepiece(tmp_path, "unigram"),
        "WordPiece": lambda: train_wordpiece(tmp_path),
    }[kind]
    source = read_source(train())
    spec = SourceSpec(source="builtin:python")
    documents = list(read_text(spec, ReadReport()))
    counts = count_corpus(source, [spec], shard=(2, 5))
    assert counts.ids.tolist() == brute_force(source, documents[1::5])
    assert counts.documents == len(documents[1::5])
    assert counts.bytes == sum(len(text.encode()) for text in documents[1::5])
    assert counts.tokens == int(counts.ids.sum())
    assert counts.vocab_size == source.vocab_size
    assert (counts.tokenizer, counts.shards) == (source.hash, [[2, 5]])


def test_languages_are_told_by_label_or_script(source: Source, spec: SourceSpec, tmp_path: Path) -> None:
    other = rows(tmp_path / "other.jsonl", ["नमस्ते दुनिया", "hello"])
    counts = count_corpus(source, [spec, other], [None, "hindi"])
    assert {name: group.documents for name, group in counts.groups.items()} == {
        "Cyrillic": 7, "Han": 7, "Latin": 14, "hindi": 2, "other": 7
    }  # fmt: skip
    assert counts.groups["Cyrillic"].bytes == 7 * len("Она сидела.".encode())
    alone = count_texts(source, [("Cyrillic", "Она сидела.")] * 7)
    assert alone.groups["Cyrillic"] == counts.groups["Cyrillic"]


@pytest.mark.parametrize(
    ("text", "script"),
    [
        *(("", "other"), ("12 + 3 😀", "other"), ("naïve café", "Latin"), ("ＦＵＬＬ", "Latin")),
        *(("中文abc文字", "Han"), ("हिन्दी में", "Devanagari"), ("বাংলা", "Bengali"), ("한국어", "Hangul")),
        ("ひらがなカタカナ", "Kana"),
        *(("שלום", "Hebrew"), ("العربية", "Arabic"), ("ქართული", "Georgian"), ("word " * 9999 + "中" * 99, "Latin")),
    ],
)
def test_the_dominant_script(text: str, script: str) -> None:
    assert dominant_script(text) == script


@pytest.mark.parametrize("n", [2, 3, 11])
def test_shards_merge_to_the_whole(source: Source, spec: SourceSpec, n: int, tmp_path: Path) -> None:
    some = list(read_text(SourceSpec(source="builtin:python"), ReadReport()))[::20]
    specs = [spec, rows(tmp_path / "some.jsonl", some)]
    whole = count_corpus(source, specs, ["a", None])
    parts = [count_corpus(source, specs, ["a", None], shard=(i, n)) for i in range(1, n + 1)]
    merged = merge(parts[::-1])
    assert merged.ids.tolist() == whole.ids.tolist()
    assert merged.groups == whole.groups
    assert merged.shards == [[i, n] for i in range(1, n + 1)]
    assert missing(merged) == []
    assert missing(merge(parts[1:])) == [[1, n]]
    # Shards of different divisions, merged in two steps, give the same file.
    if n == 2:
        finer = [count_corpus(source, specs, ["a", None], shard=(i, 4)) for i in (2, 4)]
        both = merge([parts[0], merge(finer)])
        assert both.ids.tolist() == whole.ids.tolist()
        assert missing(both) == []
        assert missing(merge([parts[0], finer[0]])) == [[4, 4]]


def test_what_must_not_be_merged(source: Source, spec: SourceSpec, tmp_path: Path) -> None:
    one, two = (count_corpus(source, [spec], shard=(i, 2)) for i in (1, 2))
    with pytest.raises(TokenizerError, match=r"shard 1/2 twice: rows\.jsonl"):
        merge([one, two, one])
    with pytest.raises(TokenizerError, match=r"1/2 and 2/3 overlap"):
        merge([one, count_corpus(source, [spec], shard=(2, 3))])
    other = rows(tmp_path / "other.jsonl", ["something else"])
    with pytest.raises(TokenizerError, match=r"share a source: rows\.jsonl"):
        merge([one, count_corpus(source, [spec, other])])
    with pytest.raises(TokenizerError, match="different tokenizers"):
        merge([one, count_corpus(read_source(train_byte_level(tmp_path, 500)), [spec])])
    # Counts of other text are added.
    both = merge([one, two, count_corpus(source, [other])])
    assert both.documents == len(ROWS) + 1
    assert both.names == ["other.jsonl", "rows.jsonl"]


def test_counts_are_kept_in_one_file(source: Source, spec: SourceSpec, tmp_path: Path) -> None:
    counts = count_corpus(source, [spec], shard=(1, 2))
    counts.save(tmp_path / "counts.json", {"more": [1]})
    again = Counts.load(tmp_path / "counts.json")
    assert again.to_dict() == counts.to_dict()
    assert json.loads((tmp_path / "counts.json").read_text())["more"] == [1]
    again.save(tmp_path / "again.json", {"more": [1]})
    assert (tmp_path / "again.json").read_bytes() == (tmp_path / "counts.json").read_bytes()


@pytest.mark.parametrize(
    "change",
    [
        *({"format": "other"}, {"ids": [1, 2]}, {"ids": "x"}, {"ids": [-1]}, {"groups": []}, {"tokenizer": None}),
        *({"corpus": [{}]}, {"corpus": [{"sources": [{}], "shards": [[3, 2]]}]}, {"vocab_size": 3}, {"tokens": 1}),
    ],
)
def test_foreign_files_are_refused(source: Source, tmp_path: Path, change: dict[str, object]) -> None:
    file = tmp_path / "counts.json"
    count_texts(source, [("a", "some text")]).save(file)
    held = json.loads(file.read_text())
    file.write_text(json.dumps(held | change))
    with pytest.raises(TokenizerError, match="no token counts"):
        Counts.load(file)
    for text in ("", "[]", "null", '{"a": 1}', "\x00\xff", "text", file.read_text()[:-30]):
        file.write_text(text)
        with pytest.raises(TokenizerError, match="no token counts") as caught:
            Counts.load(file)
        assert str(file) in str(caught.value)


@given(st.lists(st.integers(0, 50), min_size=1, max_size=40))
def test_the_curve_is_the_accumulated_frequency(numbers: list[int]) -> None:
    ids = np.array(numbers, np.int64)
    sizes, shares = curve(ids)
    ordered = sorted(numbers, reverse=True)
    assert sizes.tolist() == list(range(1, len(numbers) + 1))
    for k in range(len(numbers) + 3):
        expected = sum(ordered[:k]) / max(1, sum(ordered))
        assert coverage(ids, k) == pytest.approx(expected)
    assert shares.tolist() == pytest.approx([coverage(ids, k) for k in sizes.tolist()])


@settings(max_examples=60, deadline=None)
@given(st.lists(texts, max_size=8))
def test_any_texts(source: Source, some: list[str]) -> None:
    counts = count_texts(source, [("x", text) for text in some])
    assert counts.ids.tolist() == brute_force(source, some)
    assert counts.groups == (
        {"x": Group(len(some), sum(len(text.encode()) for text in some), int(counts.ids.sum()))} if some else {}
    )


def test_usage_names_what_is_not_needed(source: Source, spec: SourceSpec) -> None:
    counts = count_corpus(source, [spec])
    usage = find_usage(source, counts)
    backend = source.backend()
    unmet = {number for number in range(source.vocab_size) if not counts.ids[number]}
    special = {token["id"] for token in source.definition["added_tokens"]}
    assert usage.unreachable is not None
    assert {number for number, _ in [*usage.unused, *usage.unreachable]} == unmet - special
    assert all(backend.id_to_token(number) == piece for number, piece in usage.unused)
    # No text holds these bytes.
    assert {number for number, _ in usage.unreachable} >= {backend.token_to_id(letter) for letter in "ÀÁõö÷øùúûüýþÿ"}
    data = describe(counts, usage, source)
    assert data["unused"]["pieces"] == len(usage.unused)
    assert data["met"] + len(usage.unused) + len(usage.unreachable) + len(special) == source.vocab_size
    assert data["coverage"] == coverage_table(counts) == [{"pieces": 600, "coverage": 1.0}]
    with pytest.raises(TokenizerError, match="the counts are of the tokenizer"):
        find_usage(source, count_texts(read_source(train_byte_level(Path(source.where).parent / "b", 400)), []))


@pytest.mark.parametrize("shard", [(0, 3), (4, 3), (1, 0), (-1, 2)])
def test_impossible_shards_are_refused(source: Source, spec: SourceSpec, shard: tuple[int, int]) -> None:
    with pytest.raises(ConfigError, match="no shard"):
        count_corpus(source, [spec], shard=shard)


def test_no_text_is_refused_and_an_empty_shard_is_not(source: Source, spec: SourceSpec, tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match="no text"):
        count_corpus(source, [spec, rows(tmp_path / "empty.jsonl", ["", " "])])
    counts = count_corpus(source, [spec], shard=(99, 99))
    assert (counts.documents, counts.tokens, counts.groups) == (0, 0, {})
    assert coverage(counts.ids, 5) == 0.0


_MEASURE = """
import sys
from lilliput import progress
from lilliput.device import peak_rss
from lilliput.recipe import SourceSpec
from lilliput.tokenizer.count import count_corpus
from lilliput.tokenizer.source import read_source
progress.configure(quiet=True)
source = read_source(sys.argv[1])
found = count_corpus(source, [SourceSpec(source=file) for file in sys.argv[2:]])
print(peak_rss() // 1_000_000, found.tokens)
"""


def peak(*arguments: object) -> tuple[int, int]:
    """(peak resident MB of counting, tokens) in a process of its own."""
    command = [sys.executable, "-c", _MEASURE, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    memory, tokens = done.stdout.split()
    return int(memory), int(tokens)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("kind", ["byte level", "BPE"])
def test_peak_memory_does_not_grow_with_the_corpus(kind: str, source: Source, tmp_path: Path) -> None:
    named = Path(source.where) if kind == "byte level" else train_sentencepiece(tmp_path, byte_fallback=True)
    text = " ".join(ROWS) * 20
    small, big = tmp_path / "small.jsonl", tmp_path / "big.jsonl"
    rows(small, [f"{number} {text}" for number in range(400)])
    with open(big, "w", encoding="utf-8") as out:
        for number in range(8000):
            out.write(json.dumps({"text": f"{number} {text}"}, ensure_ascii=False) + "\n")
    assert big.stat().st_size > 100_000_000
    (low, few), (high, many) = peak(named, small), peak(named, big)
    assert many > 15 * few
    # Some batches of text are under way at once, whatever the corpus.
    assert high - low < 100

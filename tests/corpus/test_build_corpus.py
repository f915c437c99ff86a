"""What is held out, what is dropped, and how documents lie on disk."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lilliput.corpus import Documents, build_corpus
from lilliput.corpus.split import Seen, fingerprint
from lilliput.errors import CorpusError
from lilliput.recipe import SourceSpec


def built(folder: Path, *sources: list[str]) -> tuple[list[str], list[str]]:
    """(train, dev) of a corpus with these documents in each source."""
    folder.mkdir()
    specs = []
    for number, texts in enumerate(sources):
        file = folder / f"{number}.jsonl"
        file.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
        specs.append(SourceSpec(source=str(file)))
    build_corpus(specs, folder)
    return list(Documents(folder, "train")), list(Documents(folder, "dev"))


def texts(n: int, start: int = 0) -> list[str]:
    return [f"Document number {number} of the corpus, naïve 中文." for number in range(start, start + n)]


def test_about_two_percent_are_held_out_and_nothing_is_lost(tmp_path: Path) -> None:
    train, dev = built(tmp_path / "a", texts(10_000))
    assert sorted(train + dev) == sorted(texts(10_000))
    assert 150 <= len(dev) <= 250


def test_the_split_is_stable_when_documents_are_added_in_any_order(tmp_path: Path) -> None:
    _, before = built(tmp_path / "a", texts(2000))
    train, after = built(tmp_path / "b", texts(2000, start=2000)[::-1], texts(2000)[::-1])
    assert set(before) <= set(after)
    assert not set(before) & set(train)


def test_duplicates_are_dropped_across_sources_and_splits(tmp_path: Path) -> None:
    folder = tmp_path / "a"
    train, dev = built(folder, texts(500), texts(700))
    assert sorted(train + dev) == sorted(texts(700))
    for number in range(2):
        assert (folder / f"{number}.jsonl").exists()
    again = build_corpus([SourceSpec(source=str(folder / "*.jsonl"))], folder)
    assert again["read"]["odd"]["duplicates"]["n"] == 500
    assert again["documents"]["train"] == len(train)


@settings(max_examples=60, deadline=None)
@given(st.integers(2, 4), st.integers(0, 10_000))
def test_few_documents_fill_both_splits(tmp_path_factory: pytest.TempPathFactory, n: int, start: int) -> None:
    train, dev = built(tmp_path_factory.mktemp("few") / "a", texts(n, start))
    assert sorted(train + dev) == sorted(texts(n, start))
    assert len(train) >= 1
    assert len(dev) >= 1
    assert min(texts(n, start), key=lambda text: fingerprint(text.encode()).split) in dev


@pytest.mark.parametrize("held_out", [False, True])
def test_of_documents_that_fall_on_one_side_both_splits_get_some(tmp_path: Path, held_out: bool) -> None:
    one_sided = [text for text in texts(3000) if fingerprint(text.encode()).held_out is held_out][:3]
    train, dev = built(tmp_path / "a", one_sided)
    assert sorted(train + dev) == sorted(one_sided)
    assert (len(train), len(dev)) == ((1, 2) if held_out else (2, 1))


@pytest.mark.parametrize("held_out", [False, True])
def test_a_single_document_is_cut_at_its_end(tmp_path: Path, held_out: bool) -> None:
    only = next(
        text
        for number in range(1000)
        if fingerprint((text := f"{number} " + "A line of prose.\n" * 400).encode()).held_out is held_out
    )
    train, dev = built(tmp_path / "a", [only])
    assert train[0] + dev[0] == only
    assert 0.01 < len(dev[0]) / len(only) < 0.04
    assert train[0].endswith("\n")


@pytest.mark.parametrize("only", ["中" * 60, "👩" * 400, "a" * 64, "word " * 100])
def test_a_single_document_is_cut_between_characters(tmp_path: Path, only: str) -> None:
    train, dev = built(tmp_path / "a", [only])
    assert train[0] + dev[0] == only


def test_a_corpus_of_a_few_bytes_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match="too little to hold some out"):
        built(tmp_path / "a", ["tiny"])


def test_documents_know_their_source_sizes_and_text(tmp_path: Path) -> None:
    folder = tmp_path / "a"
    built(folder, texts(100), texts(50, start=1000))
    documents = Documents(folder, "train")
    assert [documents[number] for number in range(len(documents))] == list(documents)
    assert sum(documents.bytes_of(number) for number in range(len(documents))) == documents.total_bytes
    assert documents.total_bytes == (folder / "train.text").stat().st_size
    numbers = [int(text.split()[2]) for text in documents]
    assert [number >= 1000 for number in numbers] == [bool(source) for source in documents.sources]
    with pytest.raises(IndexError):
        documents[len(documents)]


def test_incomplete_documents_are_refused(tmp_path: Path) -> None:
    folder = tmp_path / "a"
    built(folder, texts(100))
    with open(folder / "train.text", "r+b") as file:
        file.truncate(100)
    with pytest.raises(CorpusError, match="incomplete or damaged"):
        Documents(folder, "train")
    with pytest.raises(CorpusError, match="no complete test split"):
        Documents(folder, "test")


def test_reading_is_the_same_twice(tmp_path: Path) -> None:
    built(tmp_path / "a", texts(300))
    built(tmp_path / "b", texts(300))
    for name in ("train.text", "train.offsets.npy", "train.source.npy", "dev.text"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(0, 2**64 - 1), max_size=3000), st.integers(0, 2**32))
def test_seen_is_a_set(numbers: list[int], seed: int) -> None:
    many = np.random.default_rng(seed).integers(0, 3000, 3000).tolist() + [number or 1 for number in numbers]
    seen, reference = Seen(), set()
    for number in many:
        number = number or 1
        assert seen.add(number) == (number not in reference)
        reference.add(number)

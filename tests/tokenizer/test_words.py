"""Encoding word by word gives the numbers that `tokenizers` gives to the whole."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from tokenizer_support import HARD, sample, texts, train_byte_level, train_sentencepiece

from lilliput.tokenizer import words as module
from lilliput.tokenizer.source import Source, read_source
from lilliput.tokenizer.words import Words, words

MODELS = {
    "as LLaMA": {"byte_fallback": True, "normalization_rule_name": "identity", "remove_extra_whitespaces": False},
    "no blank before": {"byte_fallback": True, "normalization_rule_name": "identity", "add_dummy_prefix": False},
    "blanks removed": {"byte_fallback": True, "normalization_rule_name": "identity"},
    "a character map": {"byte_fallback": True, "normalization_rule_name": "nmt_nfkc"},
}


@pytest.fixture(scope="module", params=MODELS)
def source(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Source:
    return read_source(train_sentencepiece(tmp_path_factory.mktemp("model"), "bpe", 700, **MODELS[request.param]))


@pytest.fixture(scope="module")
def engine(source: Source) -> Words:
    found = words(source.definition, source.backend())
    assert found is not None
    return found


def agree(source: Source, engine: Words, given: list[str]) -> None:
    theirs = [found.ids for found in source.backend().encode_batch_fast(given, add_special_tokens=False)]
    ids, lengths = engine.encode(given)
    assert lengths.tolist() == [len(part) for part in theirs]
    assert ids.tolist() == [number for part in theirs for number in part]
    totals, again = engine.count(given, source.vocab_size)
    assert again.tolist() == lengths.tolist()
    assert totals.tolist() == np.bincount(ids, minlength=source.vocab_size).tolist()


def test_hard_and_real_texts(source: Source, engine: Words) -> None:
    agree(source, engine, [*HARD, *sample()[::9]])


@settings(deadline=None)
@given(text=texts)
def test_generated_texts(source: Source, engine: Words, text: str) -> None:
    agree(source, engine, [text, "", text + " " + text])


def test_forgetting_changes_nothing(source: Source, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_REMEMBERED", 40)
    engine = words(source.definition, source.backend())
    assert engine is not None
    for document in sample()[:6]:
        agree(source, engine, document.split("\n")[:50])


def test_threads_share_what_is_known(source: Source, engine: Words, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_REMEMBERED", 500)
    parts = [list(sample()[at : at + 4]) for at in range(0, 40, 4)]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(engine.encode, parts))
    for part, (ids, _) in zip(parts, found, strict=True):
        backend = source.backend().encode_batch_fast(part, add_special_tokens=False)
        assert ids.tolist() == [number for one in backend for number in one.ids]


def test_what_it_takes(source: Source, engine: Words) -> None:
    assert engine.takes("a plain text, with “quotes” and an é")
    assert not engine.takes("中文没有空格")
    assert not engine.takes("\ud800")
    assert not engine.takes("ab" * 5000)


def test_other_kinds_are_left_alone(tmp_path: Path) -> None:
    for place in (
        train_byte_level(tmp_path / "bytes"),
        train_sentencepiece(tmp_path / "unigram", "unigram", 600, byte_fallback=True),
        train_sentencepiece(tmp_path / "unknown", "bpe", 600),
        train_sentencepiece(tmp_path / "user", "bpe", 600, byte_fallback=True, user_defined_symbols=["a b"]),
    ):
        found = read_source(place)
        assert words(found.definition, found.backend()) is None

"""Trained tokenizers: lossless on anything, deterministic, of the size asked for, from a bounded sample."""

import random
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lilliput.corpus import ReadReport, read_source
from lilliput.errors import TokenizerError
from lilliput.recipe import SourceSpec
from lilliput.tokenizer.check import check_lossless
from lilliput.tokenizer.load import Tokenizer
from lilliput.tokenizer.sample import LONGEST_RUN, draw, short_runs
from lilliput.tokenizer.train import END_OF_TEXT, train_tokenizer


@pytest.fixture(scope="module")
def documents() -> list[str]:
    texts = read_source(SourceSpec(source="builtin:python"), ReadReport())
    return [text for number, text in enumerate(texts) if number % 8 == 0]


@pytest.fixture(scope="module")
def tokenizer(documents: list[str]) -> Tokenizer:
    return train_tokenizer(documents, 1000)


@settings(max_examples=500, deadline=None)
@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_any_text_comes_back(tokenizer: Tokenizer, text: str) -> None:
    assert tokenizer.decode(tokenizer.encode(text)) == text


@settings(max_examples=200, deadline=None)
@given(st.lists(st.sampled_from([END_OF_TEXT, "<|endoftext", "|>", " ", "\r\n", "\x00", "中", "e\u0301", "x1"])))
def test_the_special_token_in_text_is_text(tokenizer: Tokenizer, parts: list[str]) -> None:
    text = "".join(parts)
    ids = tokenizer.encode(text)
    assert tokenizer.eos_id not in ids
    assert tokenizer.decode(ids) == text


def test_the_vocabulary_is_bytes_one_special_token_and_merges(tokenizer: Tokenizer) -> None:
    assert tokenizer.vocab_size == 1000
    assert tokenizer.bos_id == tokenizer.eos_id
    assert tokenizer.token(tokenizer.eos_id) == END_OF_TEXT
    assert all(len(tokenizer.encode(chr(number))) == 1 for number in range(128))
    assert len(tokenizer.encode("def __init__(self):")) < 8


def test_the_default_call_of_the_backend_puts_the_beginning_first(tokenizer: Tokenizer) -> None:
    assert tokenizer.backend.encode("self").ids == [tokenizer.bos_id, *tokenizer.encode("self")]


def test_the_same_documents_in_any_order_give_the_same_tokenizer(documents: list[str], tokenizer: Tokenizer) -> None:
    shuffled = random.Random(1).sample(documents, len(documents))
    assert train_tokenizer(shuffled, 1000).hash == tokenizer.hash


def test_the_smallest_vocabulary_is_the_bytes(documents: list[str]) -> None:
    smallest = train_tokenizer(documents[:3], 257)
    assert smallest.vocab_size == 257
    assert len(smallest.encode("naïve")) == 6
    with pytest.raises(TokenizerError, match=r"tokenizer\.vocab_size=257"):
        train_tokenizer(documents, 256)


def test_a_text_too_small_for_the_vocabulary_warns(capsys: pytest.CaptureFixture[str]) -> None:
    found = train_tokenizer(["the cat and the dog and the cat"], 5000)
    assert 257 < found.vocab_size < 300
    assert f"{found.vocab_size} pieces only, not 5000" in capsys.readouterr().err


@pytest.mark.parametrize("documents", [[], ["", ""]])
def test_no_text_is_refused(documents: list[str]) -> None:
    with pytest.raises(TokenizerError, match="no text"):
        train_tokenizer(documents, 300)


def test_lone_surrogates_are_refused(tokenizer: Tokenizer) -> None:
    with pytest.raises(TokenizerError, match="surrogates"):
        tokenizer.encode("a\ud800b")


def test_the_sample_is_bounded_spread_and_independent_of_order() -> None:
    texts = [f"{number} " * 3000 for number in range(300)]
    sample = draw(texts, 500_000, 10**9)
    assert 480_000 < sample.bytes <= 500_000
    assert sample.corpus_bytes == sum(map(len, texts))
    assert len({fragment.split()[0] for fragment in sample.fragments}) > 25
    assert draw(texts[::-1], 500_000, 10**9) == sample
    assert draw(texts, 10**9, 10**9).bytes == sample.corpus_bytes


def test_the_sample_is_bounded_by_distinct_runs() -> None:
    letters = random.Random(0)
    texts = ["".join(letters.choices("天地玄黄宇宙洪荒日月盈昃辰宿列张", k=5000)) for _ in range(20)]
    sample = draw(texts, 10**9, 100_000)
    assert 80_000 < sample.bytes <= 100_000


@settings(max_examples=200, deadline=None)
@given(st.text(st.sampled_from("ab中=  \n"), max_size=300).map(lambda text: text * 3))
def test_long_runs_are_broken_and_nothing_else(text: str) -> None:
    parts = list(short_runs(text))
    assert "".join(parts) == text
    if len(text) <= LONGEST_RUN:
        assert len(parts) == 1
    assert max(map(len, list(short_runs("x" * 10_000)))) == LONGEST_RUN
    assert list(short_runs("word " * 1000)) == ["word " * 1000]


def test_very_long_texts_give_the_same_numbers_as_in_one_piece(tokenizer: Tokenizer, documents: list[str]) -> None:
    text = "\n".join(documents)[:300_000] + "x" * 100_000 + " \n " * 50_000 + "'s 中文 " * 20_000
    expected = tokenizer.backend.encode(text, add_special_tokens=False).ids
    assert tokenizer.encode(text) == expected
    assert tokenizer.encode_batch(["a", text, "", "b c"]) == [
        tokenizer.encode("a"), expected, [], tokenizer.encode("b c")
    ]  # fmt: skip


def test_a_tokenizer_that_loses_text_is_found(documents: list[str]) -> None:
    from tokenizers import normalizers

    lossy = train_tokenizer(documents[:5], 300)
    lossy.backend.normalizer = normalizers.Lowercase()
    with pytest.raises(TokenizerError, match="loses text"):
        check_lossless(lossy)


def test_a_tokenizer_that_takes_text_for_special_tokens_is_found(documents: list[str]) -> None:
    naive = train_tokenizer(documents[:5], 300)
    naive.backend.encode_special_tokens = False
    with pytest.raises(TokenizerError, match="gives a special token"):
        check_lossless(naive)


@pytest.mark.data
def test_chinese_text_is_cheap_to_train_on(data_dir: Path) -> None:
    source = SourceSpec(source=str(data_dir / "corpora" / "chinese.dev.jsonl.xz"))
    texts = list(read_source(source, ReadReport()))[:100]
    found = train_tokenizer(texts, 2000)
    characters = sum(map(len, texts))
    assert sum(map(len, found.encode_batch(texts))) < 1.1 * characters

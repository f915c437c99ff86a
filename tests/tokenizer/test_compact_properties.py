"""What compaction promises, on tokenizers of every kind and on text that nobody chose."""

import json
import lzma
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest
from compact_support import Cut, counted, cuts_of
from hypothesis import given, settings
from odd_tokenizers import FAMILIES, SHORT_TEXTS, names_of
from tokenizer_support import (
    HARD,
    sample,
    texts,
    train_byte_level,
    train_sentencepiece,
    train_wordpiece,
    write_tiktoken,
)

from lilliput.export.compacted import write_tokenizer
from lilliput.tokenizer.compact import Compactor
from lilliput.tokenizer.source import Source, read_source
from lilliput.tokenizer.witness import witnesses

SIZE = 900
KINDS = {
    "byte-level": lambda place: train_byte_level(place, SIZE),
    "tiktoken": lambda place: write_tiktoken(place, SIZE),
    "sentencepiece-bpe": lambda place: train_sentencepiece(place, "bpe", SIZE, byte_fallback=True),
    "sentencepiece-bpe-nfkc": lambda place: train_sentencepiece(
        place, "bpe", SIZE, normalization_rule_name="nmt_nfkc", user_defined_symbols=["<tool>", "the"]
    ),
    "unigram": lambda place: train_sentencepiece(
        place, "unigram", SIZE, byte_fallback=True, normalization_rule_name="identity", remove_extra_whitespaces=False
    ),
    "unigram-nfkc": lambda place: train_sentencepiece(
        place, "unigram", SIZE, add_dummy_prefix=False, user_defined_symbols=["<tool>", "the"]
    ),
    "wordpiece": lambda place: train_wordpiece(place, SIZE),
    "wordpiece-cased": lambda place: train_wordpiece(place, SIZE, lowercase=False),
}


def trained(kind: str, place: Path) -> Source:
    options = {"pattern": "cl100k", "special": ["<|endoftext|>"]} if kind == "tiktoken" else {}
    return read_source(KINDS[kind](place), **options)


@pytest.fixture(scope="module", params=KINDS)
def compactor(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Compactor:
    """Of a tokenizer trained here, by the counts of a part of its text, so that many pieces are never met."""
    source = trained(request.param, tmp_path_factory.mktemp("source"))
    return Compactor(source, counted(source, sample()[:8] + sample()[-4:]))


@pytest.fixture(scope="module")
def cuts(compactor: Compactor) -> list[Cut]:
    return cuts_of(compactor)


def test_hard_and_real_texts_come_back_as_from_the_source(cuts: list[Cut]) -> None:
    for cut in cuts:
        cut.check([*HARD, *(line for document in sample()[::9] for line in document.split("\n"))])


@settings(deadline=None)
@given(text=texts)
def test_generated_texts_come_back_as_from_the_source(cuts: list[Cut], text: str) -> None:
    for cut in cuts[:2]:
        cut.check([text, text * 3])


def test_what_can_come_out_still_does(cuts: list[Cut]) -> None:
    possible = witnesses(cuts[0].source)
    for cut in cuts:
        cut.check_pieces(possible)
        assert len(cut.ids) == cut.size == cut.compaction.source.vocab_size == cut.new.get_vocab_size()


def test_the_full_size_changes_nothing(compactor: Compactor) -> None:
    same = compactor.at(compactor.full)
    assert same.source == compactor.source
    assert same.ids.tolist() == list(range(compactor.source.vocab_size))
    assert not len(same.dropped)


def test_special_pieces_and_what_is_put_around_a_text_keep_their_meaning(cuts: list[Cut]) -> None:
    for cut in cuts:
        new = cut.compaction.source
        assert [cut.names[old] for old in cut.ids.tolist()] == [names_of(new)[at] for at in range(cut.size)]
        before, after = cut.source.definition["added_tokens"], new.definition["added_tokens"]
        assert [{**token, "id": cut.ids[token["id"]]} for token in after] == before
        for text in ("", "a cat", "小猫"):
            old = cut.old.encode(text, add_special_tokens=True)
            put = [number for number, is_put in zip(old.ids, old.special_tokens_mask, strict=True) if is_put]
            found = cut.new.encode(text, add_special_tokens=True)
            where = zip(found.ids, found.special_tokens_mask, strict=True)
            assert [cut.ids[number] for number, is_put in where if is_put] == put


def test_transformers_loads_exactly_the_size_asked_for(cuts: list[Cut], tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    for cut in cuts:
        out = tmp_path / str(cut.size)
        out.mkdir()
        write_tokenizer(out, cut.compaction.source)
        theirs = transformers.AutoTokenizer.from_pretrained(out)
        assert len(theirs) == cut.size
        for role in ("bos_token", "eos_token", "unk_token"):
            if role in cut.source.config:
                assert getattr(theirs, role) == cut.source.config[role]
        for text in HARD:
            ours = cut.new.encode(text, add_special_tokens=False).ids
            assert theirs(text, add_special_tokens=False, split_special_tokens=True).input_ids == ours, text


@pytest.mark.parametrize("family", FAMILIES)
def test_every_short_text_through_every_odd_tokenizer(family: str) -> None:
    for seed in range(10):
        draw = random.Random(seed)
        source = FAMILIES[family](draw)
        counts = counted(source, draw.choices(SHORT_TEXTS, k=draw.choice([3, 30])))
        possible = witnesses(source)
        for cut in cuts_of(Compactor(source, counts)):
            cut.check(SHORT_TEXTS[seed % 4 :: 4])
            cut.check_pieces(possible)


_DIGEST = """
import hashlib, json, random, sys
import numpy as np
from odd_tokenizers import FAMILIES
from lilliput.tokenizer.compact import Compactor
for family in FAMILIES.values():
    source = family(random.Random(1))
    compactor = Compactor(source, np.arange(1, source.vocab_size + 1) % 7)
    for size in (compactor.least, compactor.most):
        cut = compactor.at(size)
        text = json.dumps([cut.source.definition, cut.ids.tolist(), cut.unreachable.tolist(), cut.kept])
        print(hashlib.sha256(text.encode()).hexdigest())
"""


def test_the_same_input_gives_the_same_bytes_in_another_process() -> None:
    def run(seed: str) -> str:
        path = os.pathsep.join([str(Path(__file__).parent), *sys.path])
        environment = {**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": path}
        return subprocess.run([sys.executable, "-c", _DIGEST], env=environment, check=True, capture_output=True).stdout

    assert run("1") == run("2") != b""


def read(data_dir: Path, size: int) -> list[str]:
    """About `size` bytes of each of three corpora, a line at a time."""
    lines: list[str] = []
    for name in ("childlike", "chinese", "mixed_domains"):
        left = size
        with lzma.open(data_dir / f"corpora/{name}.dev.jsonl.xz", "rt", encoding="utf-8") as documents:
            for document in documents:
                text = json.loads(document)["text"]
                lines += text.splitlines(keepends=True)
                left -= len(text.encode())
                if left < 0:
                    break
    return lines


@pytest.mark.data
@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("gpt2/tokenizer.json", 8192),
        pytest.param("llama2/tokenizer.model", 8192, marks=pytest.mark.slow),
        pytest.param("bert/vocab.txt", 8192, marks=pytest.mark.slow),
        pytest.param("llama3/tokenizer.model", 16384, marks=pytest.mark.slow),
        pytest.param("qwen/qwen.tiktoken", 16384, marks=pytest.mark.slow),
    ],
)
def test_real_tokenizers_on_real_text(data_dir: Path, name: str, size: int) -> None:
    source = read_source(data_dir / "tokenizers" / name)
    lines = read(data_dir, 200_000)
    cut = Cut(Compactor(source, counted(source, lines[::2])), size)
    cut.check([*HARD, *lines])
    cut.check_pieces(witnesses(source, texts=lines))
    assert len(cut.ids) == size == cut.new.get_vocab_size()

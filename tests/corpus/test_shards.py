"""Packing documents into shards, reading windows of them, and refusing what does not fit."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lilliput.corpus import Documents, Shards, pack, shards
from lilliput.corpus.documents import DocumentsWriter
from lilliput.corpus.split import fingerprint
from lilliput.errors import CorpusError, TokenizerError

BOS, EOS = 256, 257


def encode(texts: list[str]) -> list[list[int]]:
    return [list(text.encode()) for text in texts]


def packed(folder: Path, texts: list[str], vocab_size: int = 258) -> Shards:
    pack(
        texts, encode, bos=BOS, eos=EOS, vocab_size=vocab_size, tokenizer_hash="right", out=folder, split="train"
    )
    return Shards(folder, "train", "right")


@settings(max_examples=50, deadline=None)
@given(st.lists(st.text(max_size=30), min_size=1, max_size=20), st.integers(1, 12), st.sampled_from([258, 70_000]))
def test_shards_hold_the_documents_and_their_windows(
    tmp_path_factory: pytest.TempPathFactory, texts: list[str], context: int, vocab_size: int
) -> None:
    found = packed(tmp_path_factory.mktemp("shards"), texts, vocab_size)
    stream = [token for text in texts for token in (BOS, *text.encode(), EOS)]
    assert found.tokens.tolist() == stream
    assert found.tokens.dtype.itemsize == (2 if vocab_size <= 65_536 else 4)
    offsets = found.documents.tolist()
    for text, start, end, size in zip(texts, offsets[:-1], offsets[1:], found.bytes.tolist(), strict=True):
        assert found.tokens[start:end].tolist() == [BOS, *text.encode(), EOS]
        assert size == len(text.encode())
    if len(stream) <= context:
        with pytest.raises(CorpusError, match=r"fewer than one window.*model\.context"):
            found.windows(context)
        return
    n = found.windows(context)
    batch = found.batch(np.arange(n)[::-1], context)
    assert batch.dtype == np.int64
    assert batch.shape == (n, context + 1)
    for row, number in zip(batch, range(n)[::-1], strict=True):
        assert row.tolist() == stream[number * context : number * context + context + 1]


def test_another_tokenizer_is_refused(tmp_path: Path) -> None:
    packed(tmp_path, ["text"])
    with pytest.raises(TokenizerError, match=r"made with the tokenizer right.*pack the corpus again"):
        Shards(tmp_path, "train", "wrong")


def test_tokens_outside_the_vocabulary_are_refused(tmp_path: Path) -> None:
    with pytest.raises(TokenizerError, match="outside the vocabulary of 100"):
        packed(tmp_path, ["zebra"], vocab_size=100)


def test_no_document_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match="holds no document"):
        packed(tmp_path, [])


@pytest.mark.parametrize("name", ["train.tokens", "train.documents.npy", "train.bytes.npy", "train.json"])
@pytest.mark.parametrize("damage", ["cut", "gone", "zeros"])
def test_damaged_shards_are_refused(tmp_path: Path, name: str, damage: str) -> None:
    packed(tmp_path, [f"text number {number}" for number in range(100)])
    file = tmp_path / name
    data = file.read_bytes()
    if damage == "gone":
        file.unlink()
    else:
        file.write_bytes(data[: len(data) // 2] if damage == "cut" else bytes(len(data) // 3))
    with pytest.raises(CorpusError, match="shards"):
        Shards(tmp_path, "train", "right")


def test_the_manifest_says_what_is_there(tmp_path: Path) -> None:
    found = packed(tmp_path, ["one", "naïve"])
    assert json.loads((tmp_path / "train.json").read_text()) == found.manifest
    assert found.manifest == {
        "format": 1,
        "split": "train",
        "tokens": 3 + 6 + 4,
        "documents": 2,
        "text_bytes": 9,
        "dtype": "uint16",
        "vocab_size": 258,
        "bos": BOS,
        "eos": EOS,
        "tokenizer": "right",
    }


def test_weights_repeat_documents_and_share_fractions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shards, "_COPY_TOKENS", 1000)
    monkeypatch.setattr(shards, "BATCH_BYTES", 5000)
    weights = [1.0, 2.5, 0.3]
    texts = [f"Document {number} " + "x" * (number % 7) for number in range(3000)]
    with DocumentsWriter(tmp_path, "train") as writer:
        for number, text in enumerate(texts):
            writer.add(text.encode(), number % 3)
    pack(
        Documents(tmp_path, "train"), encode, bos=BOS, eos=EOS, vocab_size=258, tokenizer_hash="h", out=tmp_path,
        split="train", weights=weights,
    )  # fmt: skip
    found = Shards(tmp_path, "train", "h")
    seen: dict[str, int] = {}
    for start, end, size in zip(found.documents[:-1], found.documents[1:], found.bytes, strict=True):
        tokens = found.tokens[start:end].tolist()
        assert (tokens[0], tokens[-1], len(tokens) - 2) == (BOS, EOS, size)
        text = bytes(tokens[1:-1]).decode()
        seen[text] = seen.get(text, 0) + 1
    for number, text in enumerate(texts):
        weight = weights[number % 3]
        more = fingerprint(text.encode()).fraction < weight % 1
        assert seen.get(text, 0) == int(weight) + more
    per_source = [sum(seen.get(text, 0) for text in texts[source::3]) / 1000 for source in range(3)]
    assert per_source == pytest.approx(weights, rel=0.15)


def test_a_weight_for_each_source_is_needed(tmp_path: Path) -> None:
    with DocumentsWriter(tmp_path, "train") as writer:
        writer.add(b"text", 1)
    with pytest.raises(CorpusError, match="fewer weights than sources"):
        pack(
            Documents(tmp_path, "train"), encode, bos=BOS, eos=EOS, vocab_size=258, tokenizer_hash="h",
            out=tmp_path, split="train", weights=[1.0],
        )  # fmt: skip

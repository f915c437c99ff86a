"""Bits per byte against brute force, against transformers, and at the edges of the protocol."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer as Backend
from tokenizers import decoders, models, pre_tokenizers

from lilliput.errors import UserError
from lilliput.evaluate import bits as bits_module
from lilliput.evaluate.baselines import uniform, xz
from lilliput.evaluate.bits import Bits, bits_per_byte, windows
from lilliput.evaluate.unknown import UnknownBytes
from lilliput.export.hf import save_model_dir
from lilliput.model.config import ModelConfig
from lilliput.model.decoder import Decoder
from lilliput.model.init import initialise
from lilliput.tokenizer.load import Tokenizer
from lilliput.tokenizer.train import train_tokenizer

CONTEXT = 16
TEXTS = [
    "The cat sat on the mat.",
    "",
    "A",
    "In the beginning there was a rather long document, " * 12,
    "Grüße, 世界! \U0001f600 <|endoftext|> and ordinary words again.",
    "ends exactly",
    "\n\n  spaces\tand\x00odd bytes \x7f\n",
]


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train_tokenizer([text for text in TEXTS if text] * 3, 300)


@pytest.fixture(scope="module")
def model(tokenizer: Tokenizer) -> Decoder:
    config = ModelConfig(
        vocab_size=tokenizer.vocab_size,
        depth=2,
        width=32,
        heads=4,
        kv_heads=2,
        head_dim=8,
        ffn=48,
        bos_id=tokenizer.bos_id,
        eos_id=tokenizer.eos_id,
        context=CONTEXT,
    )
    decoder = Decoder(config)
    initialise(decoder, 3)
    with torch.no_grad():  # larger weights: predictions far from uniform, so that a wrong window shows
        for parameter in decoder.parameters():
            parameter.mul_(6.0 if parameter.ndim > 1 else 1.0)
    return decoder


def brute_force(logits_of: object, ids: list[int], context: int) -> float:
    """Nats of ids[1:], one window and one token at a time, from the protocol's words alone."""
    nats, scored, begin = 0.0, 1, 0
    while scored < len(ids):
        window = ids[begin : begin + context]
        logits = logits_of(window)  # type: ignore[operator]
        for position in range(len(window)):
            target = begin + position + 1
            if target >= scored and target < len(ids):
                row = logits[position].double()
                nats += float(torch.logsumexp(row, -1) - row[ids[target]])
                scored = target + 1
        begin += context // 2
    return nats


def test_equals_brute_force(model: Decoder, tokenizer: Tokenizer) -> None:
    found = bits_per_byte(model, tokenizer, TEXTS, title=None)

    def logits_of(window: list[int]) -> torch.Tensor:
        with torch.no_grad():
            return model(torch.tensor([window]))[0]

    expected = [brute_force(logits_of, [tokenizer.bos_id, *tokenizer.encode(text)], CONTEXT) for text in TEXTS]
    assert found.nats == pytest.approx(expected, rel=1e-5)
    assert found.bytes.tolist() == [len(text.encode()) for text in TEXTS]
    assert found.value == pytest.approx(sum(expected) / sum(found.bytes) / math.log(2), rel=1e-6)
    assert found.nats[1] == 0
    assert found.tokens == sum(len(tokenizer.encode(text)) for text in TEXTS)
    assert found.unk_share == 0
    assert found.low <= found.value <= found.high


def test_equals_transformers(model: Decoder, tokenizer: Tokenizer, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    save_model_dir(tmp_path / "model", model, tokenizer, {}, None)
    peer = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "model", dtype=torch.float32)
    words = transformers.AutoTokenizer.from_pretrained(tmp_path / "model")

    def logits_of(window: list[int]) -> torch.Tensor:
        with torch.no_grad():
            return peer(torch.tensor([window])).logits[0]

    plain = [text for text in TEXTS if "<|" not in text]
    ids = [words(text)["input_ids"] for text in plain]
    assert all(row[0] == tokenizer.bos_id for row in ids)
    expected = [brute_force(logits_of, row, CONTEXT) for row in ids]
    assert bits_per_byte(model, tokenizer, plain, title=None).nats == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("batch", [1, 17, 64, 100_000])
def test_batch_does_not_change_the_result(model: Decoder, tokenizer: Tokenizer, batch: int) -> None:
    reference = bits_per_byte(model, tokenizer, TEXTS, batch=40, title=None)
    found = bits_per_byte(model, tokenizer, TEXTS, batch=batch, title=None)
    assert found.nats == pytest.approx(reference.nats, rel=1e-5)
    assert (found.low, found.high) == pytest.approx((reference.low, reference.high), rel=1e-5)


def test_streams_in_bounded_groups(
    model: Decoder, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    reference = bits_per_byte(model, tokenizer, TEXTS, title=None)
    monkeypatch.setattr(bits_module, "_HELD_TOKENS", 30)
    most, held = 0, 0

    def stream() -> Iterator[str]:
        nonlocal held
        for text in TEXTS:
            held += 1
            yield text

    encode = tokenizer.encode_batch

    def watched(texts: list[str]) -> list[list[int]]:
        nonlocal most, held
        most, held = max(most, held), 0
        return encode(texts)  # type: ignore[return-value]

    monkeypatch.setattr(tokenizer, "encode_batch", watched)
    found = bits_per_byte(model, tokenizer, stream(), title=None)
    assert most < len(TEXTS)
    assert found.nats == pytest.approx(reference.nats, rel=1e-5)
    assert found.text_hash == reference.text_hash


def test_no_text_is_an_error(model: Decoder, tokenizer: Tokenizer) -> None:
    for nothing in ([], [""], ["", ""]):
        with pytest.raises(UserError, match="no text"):
            bits_per_byte(model, tokenizer, nothing, title=None)


def test_one_document_has_no_interval(model: Decoder, tokenizer: Tokenizer) -> None:
    found = bits_per_byte(model, tokenizer, TEXTS[:1], title=None)
    assert math.isnan(found.low)
    assert found.to_dict()["low"] is None
    assert found.to_dict()["value"] == found.value


def test_model_goes_back_to_training(model: Decoder, tokenizer: Tokenizer) -> None:
    model.train()
    bits_per_byte(model, tokenizer, ["text"], title=None)
    assert model.training
    assert all(parameter.grad is None for parameter in model.parameters())


def test_text_hash_tells_documents_apart(model: Decoder, tokenizer: Tokenizer) -> None:
    def text_hash(texts: list[str]) -> str:
        return bits_per_byte(model, tokenizer, texts, title=None).text_hash

    assert text_hash(["ab", "c"]) != text_hash(["a", "bc"]) != text_hash(["abc"])


@given(st.integers(1, 80), st.integers(1, 20))
def test_windows_score_each_token_once_with_half_a_context_behind(tokens: int, context: int) -> None:
    ids = np.arange(tokens + 1)
    scored: list[int] = []
    for number, window in enumerate(windows(ids, context)):
        length = len(window.ids) - 1
        assert 1 <= window.scored <= length <= context
        assert window.ids.tolist() == list(range(window.ids[0], window.ids[0] + length + 1))
        assert window.ids[0] == number * max(1, context // 2)
        assert number == 0 or length - window.scored >= context - max(1, context // 2) - 1
        scored += window.ids[-window.scored :].tolist()
    assert scored == list(range(1, tokens + 1))


# Tokenizers that cannot represent everything


def foreign(backend: Backend) -> SimpleNamespace:
    return SimpleNamespace(backend=backend)


def test_a_byte_level_tokenizer_is_complete(tokenizer: Tokenizer) -> None:
    assert UnknownBytes(tokenizer).complete


def test_bytes_behind_an_unknown_token_are_counted() -> None:
    backend = Backend(models.WordLevel({"[UNK]": 0, "the": 1, "cat": 2}, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    unknown = UnknownBytes(foreign(backend))  # type: ignore[arg-type]
    assert not unknown.complete
    for text, lost in (("the cat", 0), ("the cät", 4), ("猫 the", 3), ("", 0), ("dog dog", 6)):
        assert unknown.count(text, backend.encode(text).ids) == lost


def test_characters_dropped_without_a_token_are_counted() -> None:
    backend = Backend(models.BPE({"a": 0, "b": 1, "ab": 2}, [("a", "b")]))
    unknown = UnknownBytes(foreign(backend))  # type: ignore[arg-type]
    assert unknown.count("abé a", backend.encode("abé a").ids) == 2


def test_byte_fallback_is_complete_only_with_all_bytes() -> None:
    pieces = {"<unk>": 0, "a": 1} | {f"<0x{byte:02X}>": byte + 2 for byte in range(256)}
    whole = Backend(models.BPE(pieces, [], unk_token="<unk>", byte_fallback=True))
    whole.decoder = decoders.ByteFallback()
    assert UnknownBytes(foreign(whole)).complete  # type: ignore[arg-type]
    del pieces["<0xC3>"]
    part = UnknownBytes(foreign(Backend(models.BPE(pieces, [], unk_token="<unk>", byte_fallback=True))))  # type: ignore[arg-type]
    assert not part.complete
    assert part.count("aé", part._backend.encode("aé").ids) == 2


# Baselines


def test_baselines(tmp_path: Path) -> None:
    import lzma

    assert uniform() == 8.0
    texts = ["some words, " * 50, "ö" * 100]
    raw = "".join(texts).encode()
    assert xz(texts) == 8 * len(lzma.compress(raw, preset=9)) / len(raw)
    with pytest.raises(UserError):
        xz([""])


def test_bits_is_plain_data() -> None:
    fields = Bits(1.0, 0.9, 1.1, np.ones(2), np.ones(2, np.int64), 2, 0.0, "00").to_dict()
    assert all(isinstance(value, int | float | str) for value in fields.values())

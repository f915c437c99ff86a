"""Comparing tokenizers: every figure against its definition, on tokenizers small enough to reason about."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Regex, decoders, models, normalizers, pre_tokenizers, trainers
from tokenizers import Tokenizer as Backend

from lilliput.recipe import SourceSpec
from lilliput.tokenizer import loss
from lilliput.tokenizer.compare import compare, pieces_for, renyi_efficiency, short_names
from lilliput.tokenizer.count import count_texts
from lilliput.tokenizer.encode import Encoder
from lilliput.tokenizer.loss import Tally, tallies
from lilliput.tokenizer.source import Source

COUNTS = st.lists(st.integers(0, 10_000), min_size=2, max_size=60).filter(any)
# Letters of one to four bytes, some in no training text.
TEXTS = st.lists(st.text(st.sampled_from("ab é न\n中नमस्ते😀☃"), max_size=40), min_size=1, max_size=6)
LINES = ["the cat sat on the mat", "नमस्ते दुनिया नमस्ते", "café ab aé बने"]


def source_of(backend: Backend, where: str = "tiny") -> Source:
    return Source(json.loads(backend.to_str()), {}, where)


def byte_level(lines: list[str], size: int = 300) -> Source:
    backend = Backend(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(vocab_size=size, initial_alphabet=alphabet, show_progress=False)
    backend.train_from_iterator(lines, trainer)
    return source_of(backend)


def fallback() -> Source:
    """A BPE over characters with byte pieces, of the letters a and b and a piece of two."""
    pieces = ["<unk>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁", "a", "b", "ab"]
    model = models.BPE(
        {piece: number for number, piece in enumerate(pieces)}, [("a", "b")], unk_token="<unk>", byte_fallback=True,
        fuse_unk=True,
    )  # fmt: skip
    backend = Backend(model)
    backend.normalizer = normalizers.Replace(" ", "▁")
    return source_of(backend)


def wordpiece() -> Source:
    pieces = ["[UNK]", "the", "cat", "c", "##a", "##t", "!"]
    backend = Backend(models.WordPiece({piece: n for n, piece in enumerate(pieces)}, unk_token="[UNK]"))
    backend.normalizer = normalizers.BertNormalizer(lowercase=True)
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    return source_of(backend)


def corpus(folder: Path, name: str, lines: list[str]) -> SourceSpec:
    file = folder / f"{name}.jsonl"
    file.write_text("".join(json.dumps({"text": line}) + "\n" for line in lines), encoding="utf-8")
    return SourceSpec(source=str(file))


def figures(source: Source, texts: list[str], folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = compare([source], [corpus(folder, "text", texts)])["tokenizers"][0]
    return found


def test_renyi_efficiency_is_its_definition() -> None:
    # Four pieces, one of them unused: ln(0.17678 + 0.04930 + 0.01789) = -1.4107; over -1.5 it is 0.9405, over ln 4
    # 0.6784.
    by_hand = math.log(0.5**2.5 + 0.3**2.5 + 0.2**2.5) / -1.5 / math.log(4)
    assert renyi_efficiency(np.array([50, 0, 30, 20])) == pytest.approx(by_hand, rel=1e-12)
    assert by_hand == pytest.approx(0.6784, abs=1e-4)


def test_renyi_efficiency_of_order_one_is_shannons() -> None:
    stats = pytest.importorskip("scipy.stats")
    counts = np.array([7, 1, 0, 12, 30])
    assert renyi_efficiency(counts, 1.0) == pytest.approx(stats.entropy(counts, base=5))
    assert renyi_efficiency(counts, 1.0 + 1e-7) == pytest.approx(stats.entropy(counts, base=5), rel=1e-5)


@given(COUNTS, st.randoms())
def test_renyi_efficiency_depends_on_the_shares_alone(counts: list[int], random: Any) -> None:
    value = renyi_efficiency(np.array(counts))
    assert value is not None
    assert 0 <= value <= 1
    shuffled = random.sample(counts, len(counts))
    assert renyi_efficiency(np.array(shuffled) * 3) == pytest.approx(value, abs=1e-9)
    # Pieces that are never met are wasted, and a higher order weighs the frequent ones more.
    assert renyi_efficiency(np.array([*counts, 0])) <= value + 1e-12
    assert renyi_efficiency(np.array(counts), 3.5) <= value + 1e-9


@given(st.integers(2, 500), st.integers(1, 1000))
def test_renyi_efficiency_is_one_where_all_are_alike_and_zero_for_one(size: int, count: int) -> None:
    assert renyi_efficiency(np.full(size, count)) == pytest.approx(1)
    assert renyi_efficiency(np.array([count] + [0] * (size - 1))) == pytest.approx(0)


def test_renyi_efficiency_of_nothing_is_unknown() -> None:
    assert renyi_efficiency(np.zeros(5, np.int64)) is None
    assert renyi_efficiency(np.array([3])) is None


@given(COUNTS, st.integers(1, 100))
def test_pieces_for_a_share_are_the_fewest_that_reach_it(counts: list[int], hundredths: int) -> None:
    found = pieces_for(np.array(counts), hundredths)
    ranked = sorted(counts, reverse=True)
    assert sum(ranked[:found]) * 100 >= hundredths * sum(ranked)
    assert sum(ranked[: found - 1]) * 100 < hundredths * sum(ranked)


def test_pieces_for_an_exact_share() -> None:
    assert pieces_for(np.array([9, 1]), 90) == 1
    assert pieces_for(np.array([99, 1]), 99) == 1
    assert pieces_for(np.zeros(3, np.int64), 90) == 0


@settings(deadline=None, max_examples=60)
@given(TEXTS)
def test_characters_in_bytes_are_those_a_token_border_cuts(tmp_path_factory: Any, texts: list[str]) -> None:
    source = byte_level(LINES)
    texts = [text for text in texts if text.strip()]
    if not texts:
        return
    backend = source.backend()
    cut = characters = 0
    for text in texts:
        # One letter of a byte-level piece is one byte, so the pieces' lengths are where the tokens end.
        lengths = [len(piece) for piece in backend.encode(text, add_special_tokens=False).tokens]
        borders = set(np.cumsum(lengths).tolist())
        at = 0
        for character in text:
            size = len(character.encode())
            cut += bool(borders & set(range(at + 1, at + size)))
            characters += 1
            at += size
    found = figures(source, texts, tmp_path_factory.mktemp("texts"))
    assert found["characters"] == characters
    assert found["in_bytes"] == pytest.approx(cut / characters)
    assert found["unknown"] == 0


def test_a_piece_of_a_character_and_a_half_leaves_the_second_in_bytes(tmp_path: Path) -> None:
    pieces = sorted(pre_tokenizers.ByteLevel.alphabet())
    # "é" is Ã©; the piece holds it and the first byte of the next.
    vocab = {piece: number for number, piece in enumerate([*pieces, "Ã©", "Ã©Ã"])}
    backend = Backend(models.BPE(vocab, [("Ã", "©"), ("Ã©", "Ã")]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    assert figures(source_of(backend), ["éé"], tmp_path)["in_bytes"] == 0
    assert figures(source_of(backend), ["éèa"], tmp_path)["in_bytes"] == pytest.approx(1 / 3)


@pytest.mark.parametrize(
    ("text", "in_bytes"), [("ab", 0), ("a中b", 1 / 3), ("a\nb", 1 / 3), ("😀é", 1.0), ("ab <0x41>", 6 / 9)]
)
def test_byte_pieces_count_once_a_character(text: str, in_bytes: float, tmp_path: Path) -> None:
    # In the last one the text `<0x41>` is no byte piece: its six characters are spelled like any other.
    found = figures(fallback(), [text], tmp_path)
    assert found["in_bytes"] == pytest.approx(in_bytes)
    assert found["unknown"] == 0


@pytest.mark.parametrize(
    ("text", "lost"),
    [
        ("the cat", 0),
        ("the dog", 3),
        ("THE Cat!", 0),
        # the whole word is lost, not only the letter that is unknown
        ("the cats cat", 4),
        # a character the normaliser drops, alone and inside a lost word, where it counts once
        ("the\x01 cat", 1),
        ("the do\x01g", 4),
    ],
)
def test_unknown_characters_are_those_behind_the_unknown_token(text: str, lost: int, tmp_path: Path) -> None:
    found = figures(wordpiece(), [text], tmp_path)
    assert found["unknown"] == pytest.approx(lost / len(text))
    assert found["in_bytes"] == 0


def test_a_tokenizer_that_loses_text_says_so(tmp_path: Path) -> None:
    data = compare([wordpiece(), byte_level(LINES)], [corpus(tmp_path, "text", ["the dog"])])
    losing, lossless = (row["notes"] for row in data["tokenizers"])
    assert losing == ["42.9% of the characters are lost, which flatters its bytes per token"]
    assert lossless == []


def test_characters_that_vanish_are_lost(tmp_path: Path) -> None:
    backend = Backend(models.BPE({"a": 0, "b": 1, " ": 2}, []))
    assert figures(source_of(backend), ["ab xb"], tmp_path)["unknown"] == pytest.approx(1 / 5)


def test_unigram_loses_what_it_has_no_piece_for(tmp_path: Path) -> None:
    backend = Backend(models.Unigram([("<unk>", -10.0), ("a", -1.0), ("b", -1.5), ("ab", -2.0)], unk_id=0))
    assert figures(source_of(backend), ["abzzb"], tmp_path)["unknown"] == pytest.approx(2 / 5)


def test_languages_add_up_to_the_whole_and_agree_with_count(tmp_path: Path) -> None:
    source = byte_level(LINES)
    english, hindi = ["the cat", "a hat"], ["नमस्ते", "दुनिया"]
    specs = [corpus(tmp_path, "a", english), corpus(tmp_path, "b", hindi), corpus(tmp_path, "c", hindi)]
    data = compare([source], specs, [None, None, "labelled"])
    row = data["tokenizers"][0]
    assert list(row["languages"]) == ["Devanagari", "Latin", "labelled"]
    for key in ("documents", "bytes", "characters", "tokens"):
        assert row[key] == sum(one[key] for one in row["languages"].values())
    counted = count_texts(source, [("Latin", text) for text in english] + [("x", text) for text in hindi * 2])
    assert row["tokens"] == counted.tokens
    assert row["bytes"] == counted.bytes == data["bytes"]
    assert row["pieces_met"] == np.count_nonzero(counted.ids)
    assert row["bytes_per_token"] == counted.bytes / counted.tokens
    assert row["used"] == np.count_nonzero(counted.ids) / source.vocab_size
    assert row["languages"]["Latin"]["tokens"] == counted.groups["Latin"].tokens


def test_the_curve_ends_where_all_tokens_are_covered(tmp_path: Path) -> None:
    row = compare([byte_level(LINES)], [corpus(tmp_path, "a", LINES)])["tokenizers"][0]
    assert row["curve"]["sizes"][0] == 1
    assert row["curve"]["sizes"][-1] == row["pieces_met"]
    assert row["curve"]["coverage"][-1] == 1.0
    assert row["curve"]["coverage"] == sorted(row["curve"]["coverage"])
    at = row["curve"]["sizes"].index(row["pieces_for"]["0.9"])
    assert row["curve"]["coverage"][at] >= 0.9


@settings(deadline=None, max_examples=25)
@given(TEXTS, st.sampled_from([byte_level, fallback, wordpiece]))
def test_how_texts_are_batched_changes_nothing(texts: list[str], make: Callable[..., Source]) -> None:
    source = make(LINES) if make is byte_level else make()
    labelled = [("one" if at % 2 else "two", text) for at, text in enumerate(texts)]

    def counted() -> dict[str, Tally]:
        found: dict[str, Tally] = {}
        for language, tally in tallies(source, labelled):
            found[language] = found.get(language, Tally.empty(source.vocab_size)) + tally
        return found

    whole = counted()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loss, "_BATCH_BYTES", 7)
        small = counted()
    assert small.keys() == whole.keys()
    for language, tally in whole.items():
        assert tally.ids.tolist() == small[language].ids.tolist()
        assert vars(tally) | {"ids": None} == vars(small[language]) | {"ids": None}


def test_text_is_read_one_batch_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loss, "_BATCH_BYTES", 500)
    read = 0

    def documents() -> Iterator[tuple[str, str]]:
        nonlocal read
        for _ in range(1000):
            read += 1
            yield "en", "a" * 100

    counted = tallies(fallback(), documents())
    assert next(counted)[1].bytes == 500
    # Two batches for each worker, and the one handed out.
    assert read == 5 * (2 * Encoder(fallback()).workers + 1)
    assert sum(tally.bytes for _, tally in counted) == 99_500


def test_a_language_has_only_the_tokens_of_its_own_text(tmp_path: Path) -> None:
    backend = Backend(models.BPE({"a": 0, "b": 1}, []))
    specs = [corpus(tmp_path, "a", ["aaa"]), corpus(tmp_path, "b", ["bb"])]
    row = compare([source_of(backend)], specs, ["first", "second"])["tokenizers"][0]
    assert row["languages"]["first"]["pieces_met"] == row["languages"]["second"]["pieces_met"] == 1
    assert row["languages"]["first"]["renyi_efficiency"] == 0
    assert row["pieces_met"] == 2


def test_names_are_short_and_unlike() -> None:
    assert short_names(["/x/gpt2/tokenizer.json", "/x/llama", "a.tiktoken"]) == ["gpt2", "llama", "a.tiktoken"]
    assert short_names(["/x/own", "/y/own", "/z"]) == ["/x/own", "/y/own", "z"]
    assert short_names(["tokenizer.json", "runs/tiny/model"]) == ["tokenizer.json", "tiny"]


def test_a_tokenizer_with_another_pattern_is_compared_as_it_is(tmp_path: Path) -> None:
    backend = Backend(models.BPE({"a": 0, "b": 1, "ab": 2}, [("a", "b")]))
    backend.pre_tokenizer = pre_tokenizers.Split(Regex("b"), "isolated")
    assert figures(source_of(backend), ["abab"], tmp_path)["tokens"] == 4


@pytest.mark.data
def test_a_language_is_better_off_with_its_own_tokenizer(data_dir: Path, tmp_path: Path) -> None:
    import lzma

    from lilliput.tokenizer.source import read_source

    spec = SourceSpec(source=str(data_dir / "corpora" / "indic_hindi.dev.jsonl.xz"))
    with lzma.open(spec.source, "rt", encoding="utf-8") as opened:
        texts = [json.loads(line)["text"] for line in opened]
    own = byte_level(texts, 2000)
    general = read_source(data_dir / "tokenizers" / "gpt2")
    data = compare([own, general], [spec])
    mine, theirs = data["tokenizers"]
    assert mine["bytes_per_token"] > 2 * theirs["bytes_per_token"]
    assert mine["in_bytes"] < 0.05 < 0.5 < theirs["in_bytes"]
    assert mine["renyi_efficiency"] > theirs["renyi_efficiency"]

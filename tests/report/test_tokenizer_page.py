"""The pages about tokenizers: whole, self-contained, escaped, readable, and silent about what is absent."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from page_support import read

from lilliput.report.chart import compared_dots
from lilliput.report.tokenizer_page import compact_page, compare_page, count_page
from lilliput.report.tokenizer_parts import change, percent, spread

CURVE = {"sizes": list(range(1, 501)), "coverage": [1 - (1 - n / 500) ** 3 for n in range(1, 501)]}
COUNT: dict[str, Any] = {
    "source": "/models/big <one>/tokenizer.json",
    "kind": "byte-level BPE",
    "vocab_size": 151_643,
    "documents": 1200,
    "bytes": 4_000_000,
    "tokens": 1_000_000,
    "corpus": ["stories.jsonl"],
    "curve": CURVE,
    "languages": {
        "hindi": {"documents": 700, "bytes": 3_000_000, "tokens": 900_000},
        "Latin": {"documents": 500, "bytes": 1_000_000, "tokens": 100_000},
    },
    "most_frequent": [["Ġthe", 5000], ["à¤¨", 4000], ["à¤", 12]],
    "unused": {"pieces": 151_000, "examples": ["Ġ<b>", "ĊĊ"]},
    "unreachable": {"pieces": 0, "examples": []},
    "notes": ["the pattern is GPT-4's"],
}
COMPACT: dict[str, Any] = {
    "source": "/models/llama2",
    "kind": "BPE",
    "vocab_size": {"before": 32_000, "after": 4096},
    "coverage": 0.9731,
    "curve": CURVE,
    "bytes_per_token": {"before": 3.6, "after": 3.3},
    "languages": {
        "Latin": {"documents": 9, "bytes": 3600, "tokens": {"before": 1000, "after": 1100}},
        "Han": {"documents": 1, "bytes": 300, "tokens": {"before": 100, "after": 100}},
    },
    "share": {"before": 0.8, "after": 0.34, "row": 128, "rows": 32_064, "body": 1_024_000},
    "kept": {"special": 3, "byte": 256, "character": 90, "frequent": 3700, "parent": 47},
    "dropped": {"pieces": 27_904, "never_met": 20_000, "most_frequent": [["▁however", 31], ["<tag>", 30]]},
    "unreachable": {"pieces": 12, "kept": 2, "examples": ["▁▁▁x"]},
    "normaliser": {"changes": [["e\u0301", "\u00e9"], ["x", ""]], "name": "NFC"},
    "unproved": ["▁zq"],
    "notes": ["a note"],
}


def figures(ratio: float) -> dict[str, Any]:
    return {
        "documents": 10, "bytes": 1000, "characters": 900, "tokens": int(1000 / ratio), "bytes_per_token": ratio,
        "pieces_met": 77, "used": 0.05, "pieces_for": {"0.9": 40, "0.99": 70}, "renyi_efficiency": 0.41,
        "in_bytes": 0.00004, "unknown": 0.0,
    }  # fmt: skip


def compared(names: list[str], languages: list[str]) -> dict[str, Any]:
    rows = [
        {
            "name": name, "kind": "Unigram", "vocab_size": 200_019, "share": {"value": 0.2}, "curve": CURVE,
            **figures(2.0 + at), "languages": {one: figures(1.0 + at) for one in languages}, "notes": ["n"],
        }
        for at, name in enumerate(names)
    ]  # fmt: skip
    return {"corpus": ["a.jsonl"], "documents": 10, "bytes": 1000, "characters": 900, "tokenizers": rows}


def test_a_count_shows_its_curve_languages_and_pieces() -> None:
    page = count_page(COUNT)
    text = read(page)
    for expected in ("big <one>", "1M", "hindi", "3.333", "␣the", "न", "\\xe0\\xa4", "␣<b>", "\\n\\n", "500", "GPT-4"):
        assert expected in text, expected
    assert "and 150,998 more" in text
    assert "None." in text
    assert page.count("<svg") == 2
    assert len(page) < 100_000


def test_a_count_says_what_part_it_is_and_what_was_not_examined() -> None:
    parts = {**COUNT, "shards": [[i, 64] for i in range(1, 41)], "unreachable": None, "source": None, "kind": None}
    text = read(count_page(parts))
    assert "shards 1/64, 2/64" in text
    assert "(40 in all)" in text
    assert "151,000 pieces were not met" in text
    assert "shard" not in read(count_page({**COUNT, "shards": [[1, 1]]}))


def test_a_compaction_shows_before_and_after() -> None:
    text = read(compact_page(COMPACT))
    for expected in (
        "32,000 → 4,096 pieces", "97.3 %", "3.300", "−8.3 %", "−9.1 %", "34.0 %", "80.0 %", "524,288", "27,904",
        "20,000", "▁however", "<tag>", "12 pieces never came out", "2 of them are kept", "NFC", "U+0065 U+0301",
        "the new vocabulary: 4,096", "(nothing)", "padded from 32,000 to 32,064", "▁zq",
    ):  # fmt: skip
        assert expected in text, expected


def test_a_comparison_shows_every_tokenizer_in_every_language() -> None:
    text = read(compare_page(compared(["own", "general & big"], ["hindi", "Latin"])))
    for expected in ("own", "general & big", "2.000", "3.000", "0.410", "200,019", "0.004 %", "20.0 %", "hindi: 10"):
        assert expected in text, expected


@pytest.mark.parametrize("page", [count_page, compact_page, compare_page])
def test_nothing_at_all_still_gives_a_page(page: Any) -> None:
    read(page({}))


@pytest.mark.parametrize(("page", "data"), [(count_page, COUNT), (compact_page, COMPACT)])
def test_what_is_absent_empty_or_null_is_left_out(page: Any, data: dict[str, Any]) -> None:
    for key, value in data.items():
        if key != "vocab_size":
            read(page({name: one for name, one in data.items() if name != key}))
            read(page({**data, key: None}))
        if isinstance(value, list | dict) and key not in ("vocab_size", "share", "bytes_per_token", "normaliser"):
            read(page({**data, key: type(value)()}))


def test_a_corpus_of_no_tokens_gives_a_page() -> None:
    data = copy.deepcopy(COMPACT)
    data["languages"]["Han"]["tokens"] = {"before": 0, "after": 0}
    data["curve"] = {"sizes": [], "coverage": []}
    data["normaliser"]["changes"] = []
    data["dropped"] = {"pieces": 0, "never_met": 0, "most_frequent": []}
    text = read(compact_page(data))
    assert "No piece was dropped" in text
    assert "No example was met" in text


def test_many_long_names_and_big_vocabularies_stay_small() -> None:
    names = [f"a-tokenizer-with-a-really-long-name-{n}" for n in range(8)]
    languages = [f"language {n}" for n in range(12)]
    data = compared(names, languages)
    sizes = list(range(1, 200_001))
    for row in data["tokenizers"]:
        row["curve"] = {"sizes": sizes, "coverage": [size / 200_000 for size in sizes]}
    page = compare_page(data)
    read(page)
    assert len(page) < 400_000


def test_pieces_are_text_and_never_markup() -> None:
    page = count_page({**COUNT, "kind": "WordPiece", "most_frequent": [["<script>alert(1)</script>", 1], ["\x00", 1]]})
    assert "<script>" not in page
    assert "\\u0000" in read(page)


@given(st.integers(2, 5000))
def test_a_thinned_curve_keeps_its_ends_and_order(last: int) -> None:
    sizes, shares = spread(range(1, last + 1), [n / last for n in range(1, last + 1)])
    assert (sizes[0], sizes[-1], shares[-1]) == (1, last, 1.0)
    assert sizes == sorted(set(sizes))
    assert len(sizes) <= 170


@pytest.mark.parametrize(
    ("share", "text"),
    [(0, "0 %"), (1, "100 %"), (0.5, "50.0 %"), (0.0004, "0.04 %"), (0.99999, "99.999 %"), (1e-9, "< 0.001 %"),
     (1 - 1e-9, "> 99.999 %"), (None, "–")],
)  # fmt: skip
def test_percent_never_rounds_to_none_or_all(share: float | None, text: str) -> None:
    assert percent(share) == text


def test_change_has_its_sign() -> None:
    assert change(4.0, 3.0) == "−25.0 %"
    assert change(3.0, 4.0) == "+33.3 %"
    assert change(3.0, 3.0) == "0.0 %"
    assert change(None, 4.0) == change(0, 4.0) == change(4.0, None) == "–"


def test_dots_show_every_arm_once_and_what_is_missing_nowhere() -> None:
    svg = compared_dots(["a", "b"], {"one": [1.0, None], "two": [2.0, 3.0]})
    assert svg.count("<title>") == 3
    assert compared_dots([], {}).startswith("<svg")

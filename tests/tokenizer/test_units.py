"""Text cut into units without a vocabulary."""

import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lilliput.corpus.unit_rows import DOCUMENT, END
from lilliput.errors import TokenizerError
from lilliput.tokenizer.units import UnitTokenizer

UNITS = UnitTokenizer(12)


def words(text: str, limit: int = 12, pattern: str | None = None) -> list[str]:
    lengths, raw = UnitTokenizer(limit, pattern).units(text)
    ends = np.cumsum(lengths)
    return [bytes(raw[end - length : end]).decode() for length, end in zip(lengths, ends, strict=True)]


@given(st.text(alphabet=st.characters(exclude_categories=["Cs"])), st.integers(4, 16))
def test_every_text_comes_back_in_units_of_whole_characters(text: str, limit: int) -> None:
    units = UnitTokenizer(limit)
    found = words(text, limit)  # decodes each unit by itself
    assert "".join(found) == text
    assert all(0 < len(unit.encode()) <= limit for unit in found)
    symbols = units.encode(text)
    assert units.decode(symbols) == text
    assert units.length(symbols) == len(found) == len(units.positions(symbols))
    assert units.last(symbols, 2) == symbols[len(symbols) - sum(len(unit.encode()) + 1 for unit in found[-2:]) :]


@pytest.mark.parametrize(
    ("text", "cut"),
    [
        ("Once upon a time", ["Once", " upon", " a", " time"]),
        ("Alice’s cat didn't.", ["Alice", "’s", " cat", " didn", "'t", "."]),
        ("in 1865 (London)", ["in", " 1865", " (", "London", ")"]),
        ("a\n\n  b", ["a", "\n\n ", " b"]),
        ("हिन्दी में।", ["हिन्", "दी", " में", "।"]),
        ("我是 Alice。", ["我", "是", " Alice", "。"]),
    ],
)
def test_units_are_words_with_their_space(text: str, cut: list[str]) -> None:
    assert words(text) == cut


def test_a_pattern_of_ones_own_loses_nothing() -> None:
    assert words("one two, three", pattern=r"\w+") == ["one", " ", "two", ", ", "three"]
    with pytest.raises(TokenizerError, match="not a regular expression"):
        UnitTokenizer(12, "(")


def test_what_looks_like_a_symbol_is_text() -> None:
    assert DOCUMENT not in UNITS.encode("<|document|><|end|>")
    assert UNITS.decode([DOCUMENT, *UNITS.encode("<|end|>"), DOCUMENT]) == "<|end|>"


def test_a_unit_of_a_megabyte_is_cut_quickly() -> None:
    began = time.process_time()
    symbols = UNITS.encode_arrays(["é" * (1 << 19)])[0]
    assert time.process_time() - began < 5
    assert (symbols >= END).sum() == -(-(1 << 20) // 12)
    assert UNITS.decode(symbols.tolist()) == "é" * (1 << 19)


def test_lone_surrogates_are_refused() -> None:
    with pytest.raises(TokenizerError, match="lone surrogates"):
        UNITS.encode("a\ud800")


@pytest.mark.parametrize("limit", [1, 65])
def test_impossible_limits_are_refused(limit: int) -> None:
    with pytest.raises(TokenizerError, match="bytes"):
        UnitTokenizer(limit)


def test_units_are_saved_and_opened(tmp_path: Path) -> None:
    UnitTokenizer(8, r"\S+|\s+").save(tmp_path)
    again = UnitTokenizer.open(tmp_path)
    assert (again.limit, again.pattern, again.hash) == (8, r"\S+|\s+", UnitTokenizer(8, r"\S+|\s+").hash)
    (tmp_path / "units.json").write_text("{")
    with pytest.raises(TokenizerError, match="no readable units"):
        UnitTokenizer.open(tmp_path)

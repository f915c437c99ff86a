"""Cutting text: sizes, borders, and nothing lost."""

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lilliput.corpus.divide import LONGEST_DOCUMENT, PIECE_MAX, PIECE_MIN, divide, pieces

TEXT = st.text(alphabet=st.sampled_from("ab é中👩\n\n\n \t\r"), max_size=400)


def chunked(data: bytes, sizes: list[int]) -> list[bytes]:
    chunks, at = [], 0
    for size in sizes:
        chunks.append(data[at : at + size])
        at += size
    return [*chunks, data[at:]]


def without_blank_lines(text: str) -> str:
    return re.sub(r"\s+", "", text)


@settings(max_examples=300, deadline=None)
@given(TEXT, st.lists(st.integers(0, 60), max_size=8))
def test_pieces_lose_only_blank_space_whatever_the_chunks(text: str, sizes: list[int]) -> None:
    data = text.encode()
    once = list(pieces([data], 20, 80))
    assert once == list(pieces(chunked(data, sizes), 20, 80))
    assert without_blank_lines("".join(piece.decode() for piece in once)) == without_blank_lines(text)
    assert all(len(piece) <= 80 for piece in once)
    assert all(len(piece) >= 20 for piece in once[:-1])


@settings(max_examples=200, deadline=None)
@given(TEXT, st.integers(8, 50))
def test_divided_documents_join_to_the_same_text(text: str, limit: int) -> None:
    data = text.encode()
    parts = list(divide(data, limit))
    assert b"".join(parts) == data
    assert all(len(part) <= limit for part in parts)
    assert [part.decode() for part in parts]


def test_prose_is_cut_at_blank_lines_into_pieces_of_two_to_eight_kilobytes() -> None:
    paragraphs = [f"Paragraph {number}. " + "words and more words. " * (number % 40) for number in range(400)]
    text = "\n\n".join(paragraphs)
    found = [piece.decode() for piece in pieces([text.encode()])]
    assert "\n\n".join(found) == text
    assert all(PIECE_MIN <= len(piece) <= PIECE_MAX for piece in found[:-1])
    assert all(piece.startswith("Paragraph") for piece in found)


def test_windows_line_ends_and_lines_of_blanks_separate_too() -> None:
    half = "line\r\n" * 500
    assert [piece.decode() for piece in pieces([f"{half}\r\n \t\r\n{half}".encode()])] == [half[:-2], half]


def test_indentation_after_a_cut_stays() -> None:
    found = list(pieces([b"x" * 3000 + b"\n\n\n    indented\n"]))
    assert found == [b"x" * 3000, b"    indented\n"]


@pytest.mark.parametrize("unit", ["a", "é", "中", "👩"])
def test_a_line_without_any_space_is_cut_between_characters(unit: str) -> None:
    text = unit * 50_000
    found = [piece.decode() for piece in pieces([text.encode()])]
    assert "".join(found) == text
    assert max(len(piece.encode()) for piece in found) <= PIECE_MAX


def test_a_long_document_is_divided_evenly_at_paragraphs() -> None:
    document = ("A paragraph of some length.\n\n" * 90_000).encode()
    parts = list(divide(document))
    assert b"".join(parts) == document
    assert all(len(part) <= LONGEST_DOCUMENT and part.endswith(b"\n\n") for part in parts)
    assert min(map(len, parts)) > LONGEST_DOCUMENT // 2

"""What a piece spells: its bytes as `tokenizers` means them, and a form in which nothing is invisible."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import decoders, pre_tokenizers

from lilliput.tokenizer.spelling import byte_letters, piece_bytes, piece_text


def test_the_letters_of_bytes_are_those_of_tokenizers() -> None:
    assert set(byte_letters()) == set(pre_tokenizers.ByteLevel.alphabet())
    assert sorted(byte_letters().values()) == list(range(256))


@given(st.text())
def test_byte_level_pieces_are_the_bytes_of_their_text(text: str) -> None:
    cut = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False).pre_tokenize_str(text)
    spelled = "".join(piece for piece, _ in cut)
    assert piece_bytes(spelled, byte_level=True) == text.encode()
    assert decoders.ByteLevel().decode([spelled]) == text


@pytest.mark.parametrize(
    ("piece", "raw"),
    [("<0xE4>", b"\xe4"), ("<0x0a>", b"\n"), ("▁the", b" the"), ("<0x>", b"<0x>"), ("é", "é".encode())],
)
def test_other_pieces_stand_for_themselves_a_blank_or_a_byte(piece: str, raw: bytes) -> None:
    assert piece_bytes(piece, byte_level=False) == raw


def test_an_added_token_of_a_byte_level_tokenizer_stands_for_itself() -> None:
    assert piece_bytes("你好", byte_level=True) == "你好".encode()
    assert piece_text("你 好", byte_level=True) == "你␣好"


@pytest.mark.parametrize(
    ("piece", "byte_level", "shown"),
    [
        ("Ġthe", True, "␣the"),
        ("à¤¨", True, "न"),
        ("à¤", True, "\\xe0\\xa4"),
        ("ĊĊ", True, "\\n\\n"),
        ("▁the", False, "▁the"),
        ("Ġ", False, "Ġ"),
        ("a\u200bb\x00", False, "a\\u200bb\\u0000"),
        ("\U000e0001", False, "\\U000e0001"),
    ],
)
def test_people_see_what_would_be_invisible(piece: str, byte_level: bool, shown: str) -> None:
    assert piece_text(piece, byte_level=byte_level) == shown


@given(st.text(), st.booleans())
def test_every_piece_is_shown_in_printable_characters(piece: str, byte_level: bool) -> None:
    shown = piece_text(piece, byte_level=byte_level)
    assert shown.isprintable()
    assert bool(shown) == bool(piece)

"""What a piece stands for: its bytes, and how it is shown to people."""

from __future__ import annotations

import re
from functools import cache

from lilliput.tokenizer.tiktoken import spell

# The kind of tokenizer (`Source.kind`) whose pieces are written in letters that stand for bytes.
BYTE_LEVEL = "byte-level BPE"
# What SentencePiece writes for a blank, and how it names the pieces that are bytes.
BLANK = "\u2581"
BYTE_PIECE = re.compile(r"<0x([0-9A-Fa-f]{2})>")
_SHOWN = {" ": "␣", "\n": "\\n", "\r": "\\r", "\t": "\\t"}


@cache
def byte_letters() -> dict[str, int]:
    """The byte that each letter of a byte-level piece stands for."""
    return {spell(bytes([byte])): byte for byte in range(256)}


def piece_bytes(piece: str, *, byte_level: bool) -> bytes:
    """The UTF-8 bytes a piece stands for, which need not be whole characters.

    byte_level: its letters are GPT-2's for bytes; otherwise `<0xNN>` is a byte and U+2581 a blank. A byte-level
    piece with other letters (an added token) stands for itself.
    """
    if byte_level:
        table = byte_letters()
        return bytes(table[letter] for letter in piece) if all(map(table.__contains__, piece)) else piece.encode()
    if found := BYTE_PIECE.fullmatch(piece):
        return bytes([int(found[1], 16)])
    return piece.replace(BLANK, " ").encode()


def piece_text(piece: str, *, byte_level: bool) -> str:
    """A piece for people: blanks and control characters made visible, bytes of no whole character as `\\xNN`."""
    text = piece_bytes(piece, byte_level=True).decode("utf-8", "backslashreplace") if byte_level else piece
    return "".join(_SHOWN.get(character) or _visible(character) for character in text)


def _visible(character: str) -> str:
    """The character, or its number where it would not be seen."""
    if character.isprintable():
        return character
    number = ord(character)
    return f"\\u{number:04x}" if number < 0x10000 else f"\\U{number:08x}"

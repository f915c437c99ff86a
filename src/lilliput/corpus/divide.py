"""Cutting text into documents: plain text at blank lines, anything too long where it hurts least.

All of it works on valid UTF-8 bytes, so that sizes are bytes and nothing is decoded to be cut.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

PIECE_MIN = 2_000
PIECE_MAX = 8_000
LONGEST_DOCUMENT = 1_000_000

_BLANK_LINES = re.compile(rb"\r?\n(?:[ \t]*\r?\n)+")
_LEADING_BLANK = re.compile(rb"(?:[ \t]*\r?\n)+")


def best_cut(data: bytes, low: int, high: int) -> int:
    """Where to cut `data` with `low` < cut <= `high` < len(data): after the last blank line, else line end,
    else space, else between two characters (at least 4 bytes lie between `low` and `high`)."""
    for separator in (b"\n\n", b"\n", b" "):
        at = data.rfind(separator, low, high)
        if at >= 0:
            return at + len(separator)
    while data[high] & 0xC0 == 0x80:
        high -= 1
    return high


def divide(document: bytes, limit: int = LONGEST_DOCUMENT) -> Iterator[bytes]:
    """Parts of at most `limit` bytes, about equal in size, that joined give the document again."""
    start = 0
    while (left := len(document) - start) > limit:
        # Aiming at equal parts keeps the last one from being a scrap.
        aim = -(-left // -(-left // limit))
        cut = best_cut(document, start + aim // 2, start + aim)
        yield document[start:cut]
        start = cut
    yield document[start:]


def pieces(chunks: Iterable[bytes], low: int = PIECE_MIN, high: int = PIECE_MAX) -> Iterator[bytes]:
    """Plain text in pieces of `low` to `high` bytes; only a stream's last piece may be shorter.

    chunks: valid UTF-8. Paragraphs (with the blank lines between them) are joined until there are `low`
    bytes; where that would pass `high`, the cut is at a line end, else a space, else between two characters.
    The pieces in order are the text without the blank lines at the cuts. Memory: one chunk and one piece.
    """
    buffer = b""
    for chunk in chunks:
        buffer += chunk
        start = _skip_blank(buffer, 0)
        while cut := _next_cut(buffer, start, low, high):
            end, following = cut
            if piece := _unless_blank(buffer[start:end]):
                yield piece
            start = _skip_blank(buffer, following)
        buffer = buffer[start:]
    if piece := _unless_blank(buffer):
        yield piece


def _skip_blank(buffer: bytes, start: int) -> int:
    blank = _LEADING_BLANK.match(buffer, start)
    return blank.end() if blank else start


def _unless_blank(piece: bytes) -> bytes:
    return b"" if piece.isspace() else piece


def _next_cut(buffer: bytes, start: int, low: int, high: int) -> tuple[int, int] | None:
    """(end of the piece from `start`, start of what follows), or None if more text is needed to know."""
    # Only what lies before `high` is looked at, so the cut does not depend on how the text was chunked.
    if blank := _BLANK_LINES.search(buffer, start + low, start + high):
        return blank.start(), blank.end()
    if len(buffer) - start > high:
        cut = best_cut(buffer, start + low, start + high)
        return cut, cut
    return None

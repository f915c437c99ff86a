"""Whole characters around bytes that are none: texts whose UTF-8 holds given bytes.

Byte-level pieces are often cut inside a character: the first bytes of one, the last of another. Such a piece can
only come out of a text in which the missing bytes stand beside it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import pairwise, zip_longest

# Samples are drawn from each of these, so that letters, signs, ideographs and unused numbers all come early.
_BORDERS = (0x80, 0x300, 0x800, 0x2000, 0x3000, 0xA000, 0xD800, 0xE000, 0x10000, 0x1F000, 0x20000, 0xE0000, 0x110000)
_EACH = 64  # characters drawn from one region
_NOT_CHARACTERS = range(0xD800, 0xE000)


def texts_holding(data: bytes) -> Iterator[str]:
    """Texts whose UTF-8 holds `data`, incomplete characters at its ends completed in many ways.

    None where no text can hold it. All regions of Unicode take their turns.
    """
    try:
        yield data.decode()
        return
    except UnicodeDecodeError:
        head = missing_before(data)
    if head == len(data):
        yield from characters_with(data)
        return
    cut = len(data) - _cut_off(data)
    try:
        middle = data[head:cut].decode()
    except UnicodeDecodeError:
        return
    lefts = _ending(data[:head]) if head else ("",)
    rights = _beginning(data[cut:]) if cut < len(data) else ("",)
    yield from (left + middle + right for left, right in _crosswise(lefts, rights))


def missing_before(data: bytes) -> int:
    """How many continuation bytes `data` begins with: they belong to a character that began before it."""
    return next((at for at, byte in enumerate(data) if not 0x80 <= byte < 0xC0), len(data))


def missing_after(data: bytes) -> int:
    """How many continuation bytes the last character of `data` still lacks."""
    begun = _cut_off(data)
    return _length(data[-begun]) - begun if begun else 0


@lru_cache(maxsize=1024)
def characters_with(data: bytes) -> tuple[str, ...]:
    """Characters, of all regions of Unicode, in whose UTF-8 the continuation bytes or begun character stand."""
    if not 0x80 <= data[0] < 0xC0:
        return _beginning(data) if len(data) < _length(data[0]) else (data.decode(),)
    ending = _ending(data)
    if len(data) > 2:
        return ending
    inside = [text for text in _spread(_numbers_inside(data)) if data in text.encode()]
    return tuple(text for pair in zip_longest(ending, inside) for text in pair if text is not None)


def _cut_off(data: bytes) -> int:
    """How many bytes at the end are the beginning of a character that does not end; 0 if all is whole."""
    for begun in range(1, min(3, len(data)) + 1):
        if data[-begun] >= 0xC0:
            return begun if _length(data[-begun]) > begun else 0
        if data[-begun] < 0x80:
            return 0
    return 0


def _length(lead: int) -> int:
    """Bytes of the character that begins with the byte `lead`."""
    return 1 if lead < 0xC0 else 2 if lead < 0xE0 else 3 if lead < 0xF0 else 4


@lru_cache(maxsize=1024)
def _beginning(data: bytes) -> tuple[str, ...]:
    """Characters whose UTF-8 begins with `data` and goes on."""
    missing = _length(data[0]) - len(data)
    bits = data[0] & (0x3F >> (_length(data[0]) - 1))
    for byte in data[1:]:
        bits = bits << 6 | byte & 0x3F
    numbers = range(bits << 6 * missing, (bits + 1) << 6 * missing)
    return tuple(text for text in _spread(numbers) if text.encode().startswith(data))


@lru_cache(maxsize=1024)
def _ending(data: bytes) -> tuple[str, ...]:
    """Characters whose UTF-8 ends with the continuation bytes `data`."""
    bits = 0
    for byte in data:
        bits = bits << 6 | byte & 0x3F
    numbers = range(bits, 0x110000, 1 << 6 * len(data))
    return tuple(text for text in _spread(numbers) if text.encode().endswith(data))


def _numbers_inside(data: bytes) -> list[int]:
    """Numbers of characters with the one or two continuation bytes `data` neither first nor last, in order."""
    bits = 0
    for byte in data:
        bits = bits << 6 | byte & 0x3F
    step = 6 * (len(data) + 1)
    tails = range(0, 64, 5)
    return [high << step | bits << 6 | low for high in range((0x10FFFF >> step) + 1) for low in tails]


def _spread(numbers: Sequence[int]) -> list[str]:
    """Characters with some of the ascending `numbers`, evenly from every region, the regions taking turns."""
    regions: list[list[int]] = []
    for low, high in pairwise(_BORDERS):
        within = [number for number in numbers if low <= number < high and number not in _NOT_CHARACTERS]
        stride = max(1, len(within) // _EACH)
        # One more at each step, or the low bits would all be alike.
        drawn = [within[(at * stride + at) % len(within)] for at in range(min(_EACH, len(within)))]
        # The last is often of another sort: U+10FFFF is no private character, as those before it are.
        regions.append([*drawn, within[-1]] if within else [])
    turns = range(max(map(len, regions)))
    return [chr(region[turn]) for turn in turns for region in regions if turn < len(region)]


def _crosswise(lefts: Sequence[str], rights: Sequence[str]) -> Iterator[tuple[str, str]]:
    """All pairs, those of early ones first."""
    for total in range(len(lefts) + len(rights) - 1):
        for at in range(max(0, total - len(rights) + 1), min(total + 1, len(lefts))):
            yield lefts[at], rights[total - at]

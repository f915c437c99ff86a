"""Which documents are held out, and which were seen before: both by hash of the text alone."""

from __future__ import annotations

import hashlib
from array import array
from typing import NamedTuple

HELD_OUT = 0.02
_SPAN = 1 << 64


class Fingerprint(NamedTuple):
    """Three independent 64-bit numbers of one text: `split` decides train or held out, `identity` finds
    duplicates, `pick` decides fractions (weights, samples)."""

    split: int
    identity: int
    pick: int

    @property
    def held_out(self) -> bool:
        """In the held-out share of the hash space. The same text answers the same in every corpus."""
        return self.split < HELD_OUT * _SPAN

    @property
    def fraction(self) -> float:
        """`pick` as a number from 0 to 1."""
        return self.pick / _SPAN


def fingerprint(text: bytes) -> Fingerprint:
    """Keyed BLAKE2b of the text: no other use of a hash of it can fall into step with these."""
    digest = hashlib.blake2b(text, digest_size=24, key=b"lilliput corpus split").digest()
    return Fingerprint(*(int.from_bytes(digest[at : at + 8], "little") for at in (0, 8, 16)))


class Seen:
    """A set of 64-bit numbers in at most 24 bytes each, 36 while it grows (a `set` of integers takes 100).

    With n documents the chance that two different ones count as duplicates is n²/2⁶⁵: 3·10⁻⁶ for ten million.
    """

    def __init__(self) -> None:
        self._slots = array("Q", bytes(8 << 10))
        self._used = 0

    def add(self, number: int) -> bool:
        """Whether the number is new; it is remembered."""
        number = number or 1  # 0 marks a free slot
        slots, mask = self._slots, len(self._slots) - 1
        at = number & mask
        while found := slots[at]:
            if found == number:
                return False
            at = (at + 1) & mask
        slots[at] = number
        self._used += 1
        if self._used * 3 > len(slots) * 2:
            self._grow()
        return True

    def _grow(self) -> None:
        old = self._slots
        self._slots, self._used = array("Q", bytes(16 * len(old))), 0
        for number in old:
            if number:
                self.add(number)

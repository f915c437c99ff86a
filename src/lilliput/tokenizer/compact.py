"""Cut a tokenizer down to the pieces that a corpus uses (PanGu-π Pro §2.1).

What published code lacks: a piece of byte-pair encoding is of no use without the pieces its merges go through,
so those stay (merge closure); and what a text decodes to must not change, so whatever spells the rest of it
stays too: bytes, or single characters where there are none.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from lilliput.errors import TokenizerError
from lilliput.tokenizer.needs import Needs, needs_of
from lilliput.tokenizer.renumber import renumber
from lilliput.tokenizer.source import Source
from lilliput.tokenizer.witness import witnesses

Ids = NDArray[np.int64]


@dataclass(frozen=True)
class Compaction:
    """A tokenizer cut down.

    source: the new one. ids: (N,) for each new number the old one, ascending. dropped: old numbers that are gone.
    kept: how many pieces stay for which reason. coverage: share of the counted occurrences whose piece stays.
    unreachable: old numbers of pieces that no text was found to give.
    """

    source: Source
    ids: Ids
    dropped: Ids
    kept: dict[str, int]
    coverage: float
    unreachable: Ids


class Compactor:
    """All the sizes one tokenizer can be cut down to, by the counts of one corpus.

    counts: (vocab_size,) how often the corpus gives each number. Pieces go one at a time, always the one that is
    met least often among those that no other kept piece needs; so a smaller choice lies within every larger one.
    Raises TokenizerError where the counts are empty or of another tokenizer.
    """

    def __init__(self, source: Source, counts: Ids) -> None:
        if counts.shape != (source.vocab_size,):
            reason = f"counts of {len(counts)} numbers, but {source.where} has {source.vocab_size}"
            raise TokenizerError(reason, where="counts", mend="count with this very tokenizer")
        if counts.sum() <= 0:
            raise TokenizerError("the corpus is empty: nothing was counted", where="counts", mend="name more text")
        twice = [number for number, times in Counter(source.pieces.values()).items() if times > 1]
        if twice:
            reason = f"two pieces have the number {twice[0]}, so what it stands for is open"
            raise TokenizerError(reason, where=source.where, mend="save it again with numbers of their own")
        self.source, self.counts = source, counts
        self._numbers = np.array(sorted(source.pieces.values()), np.int64)

    @cached_property
    def needs(self) -> Needs:
        """What stays whatever the size, and what each piece needs."""
        return needs_of(self.source, self.unreachable.tolist())

    @cached_property
    def unreachable(self) -> Ids:
        """Numbers of pieces that no text was found to give: neither the corpus nor a search (witness.py)."""
        silent = [int(number) for number in self._numbers if not self.counts[number]]
        found = witnesses(self.source, silent)
        return np.array([number for number in silent if number not in found], np.int64)

    @property
    def full(self) -> int:
        """Pieces the tokenizer has."""
        return len(self._numbers)

    @cached_property
    def least(self) -> int:
        """The smallest size: what must stay."""
        return len(self.needs.always)

    @cached_property
    def most(self) -> int:
        """The largest size below the full one: pieces that can never come out stay only if something needs them."""
        return self.full - self._barren

    @cached_property
    def _removal(self) -> Ids:
        """Old numbers in the order in which they go; the first `_barren` can never come out of the tokenizer."""
        return np.array(list(self._remove()), np.int64)

    def _remove(self) -> Iterator[int]:
        """Drop the least frequent leaf, again and again: a leaf is a piece that no kept piece needs."""
        needs, unreachable = self.needs, set(self.unreachable.tolist())
        users = np.zeros(self.source.vocab_size, np.int64)
        for parents in needs.parents.values():
            for parent in set(parents):
                users[parent] += 1

        def entry(number: int) -> tuple[bool, int, int]:
            return number not in unreachable, int(self.counts[number]), -number

        leaves = [entry(int(n)) for n in self._numbers if not users[n] and int(n) not in needs.always]
        heapq.heapify(leaves)
        while leaves:
            number = -heapq.heappop(leaves)[2]
            yield number
            for parent in set(needs.parents.get(number, ())):
                users[parent] -= 1
                if not users[parent] and parent not in needs.always:
                    heapq.heappush(leaves, entry(parent))

    @cached_property
    def _barren(self) -> int:
        gone = set(self.unreachable.tolist())
        return next((at for at, number in enumerate(self._removal.tolist()) if number not in gone), len(self._removal))

    def coverage(self, size: int) -> float:
        """Share of the counted occurrences whose piece is among the `size` kept ones."""
        lost = self.counts[self._removal[: self.full - size]].sum()
        return 1.0 - float(lost) / float(self.counts.sum())

    def size_for(self, share: float) -> int:
        """The smallest size whose coverage is at least `share` (0 to 1)."""
        lost = np.cumsum(self.counts[self._removal])
        allowed = (1.0 - share) * float(self.counts.sum())
        dropped = int(np.searchsorted(lost, allowed * (1 + 1e-12), side="right"))
        return max(self.full - dropped, self.least)

    def check(self, size: int) -> None:
        """Refuse a size that cannot be had: TokenizerError names the nearest that can."""
        if self.most < size < self.full:
            reason = f"only {self.most} of the {self.full} pieces can ever come out or are needed"
            mend = f"ask for {self.most} or fewer, or for all {self.full}"
            raise TokenizerError(reason, where="vocabulary size", mend=mend)
        _check(self.source, self.full, self.needs, size)

    def at(self, size: int) -> Compaction:
        """The tokenizer cut down to exactly `size` pieces; its full size changes nothing."""
        self.check(size)
        if size == self.full:
            # Also where numbers have gaps: nothing moves.
            everything = np.arange(self.source.vocab_size, dtype=np.int64)
            nothing = np.array([], np.int64)
            kept = self._reasons(self._numbers.tolist())
            return Compaction(self.source, everything, nothing, kept, 1.0, self.unreachable)
        dropped = np.sort(self._removal[: self.full - size])
        ids = np.setdiff1d(self._numbers, dropped)
        kept = self._reasons(ids.tolist())
        new = renumber(self.source, ids)
        return Compaction(new, ids, dropped, kept, self.coverage(size), self.unreachable)

    def _reasons(self, ids: Collection[int]) -> dict[str, int]:
        """How many of `ids` stay as special, byte, character or other needed piece, as frequent, or as parent."""
        reasons = dict.fromkeys((*self.needs.reasons, "frequent", "parent"), 0)
        needed = {parent for number in ids for parent in self.needs.parents.get(number, ())}
        free = [number for number in ids if number not in self.needs.always]
        # A parent whose own count would not have kept it: below every leaf's.
        least = min((self.counts[number] for number in free if number not in needed), default=0)
        for number in ids:
            reason = self.needs.always.get(number)
            if reason is None:
                reason = "parent" if number in needed and self.counts[number] < least else "frequent"
            reasons[reason] += 1
        return reasons


def check_size(source: Source, size: int) -> None:
    """Refuse, before any text is read, a size that no corpus makes possible. Raises TokenizerError."""
    numbers = set(source.pieces.values())
    # Were nothing but what must stay to come out, then no longer piece would be needed to spell anything.
    if not len(needs_of(source, numbers).always) <= size <= len(numbers):
        _check(source, len(numbers), needs_of(source), size)


def _check(source: Source, full: int, needs: Needs, size: int) -> None:
    least = len(needs.always)
    if size > full:
        reason, mend = f"{source.where} has only {full} pieces", f"ask for {full} or fewer"
    elif size < min(least, full):
        reason = f"{size} pieces cannot hold what must stay: {needs.describe()}"
        mend = f"the smallest that works is {least}"
    else:
        return
    raise TokenizerError(reason, where="vocabulary size", mend=mend)

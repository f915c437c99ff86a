"""From a list of pieces in order to a list of merges, as the BPE of `tokenizers` wants them.

SentencePiece and tiktoken know no merges: they join the two neighbours whose text is the best piece, the leftmost
of equals. The BPE of `tokenizers` ranks pairs, so each piece becomes all its splits into two pieces. The splits of
one piece then have different ranks where the other libraries see equals. That matters only where two of them
overlap: in p·q·s with pq = qs = the piece, so p and s are equally long and the cuts lie at i and n − i. The leftmost
is the one with the cut at i where the piece ends as it begins for n − i characters, and `_cuts` puts it first. Both
can hold only if the piece repeats one string; such runs are joined from the left into shrinking parts, never p·q·s.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator


def merge_list(pieces: Iterable[str], parts: Collection[str]) -> list[list[str]]:
    """Every split of each piece into two of `parts`, in the order of `pieces` (the best first)."""
    splits = ((piece[:at], piece[at:]) for piece in pieces for at in _cuts(piece))
    return [[left, right] for left, right in splits if left in parts and right in parts]


def _cuts(piece: str) -> Iterator[int]:
    """The places where a piece can be cut: of i and n − i first the one that is leftmost where both overlap."""
    size = len(piece)
    for early in range(1, size // 2 + 1):
        late = size - early
        early_first = piece[early:] == piece[:late] and piece[late:] != piece[:early]
        yield early if early_first else late
        if early != late:
            yield late if early_first else early

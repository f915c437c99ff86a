"""How byte-pair encoding builds each piece: the merges that its own symbols go through.

Merging inside a span of text does not depend on what stands around it as long as no merge crosses its borders.
So a piece can come out of merging only if its own symbols, alone, end in it, and then by exactly these merges.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise
from typing import Any

from lilliput.errors import TokenizerError

Parents = tuple[str, str]


def last_merges(model: dict[str, Any], pieces: Iterable[str] | None = None) -> dict[str, Parents | None]:
    """For each piece the two that its last merge joins; absent if its symbols alone never become that piece.

    model: the `model` of a BPE definition. A piece of one symbol has no last merge (None).
    Raises TokenizerError for pieces with a prefix inside words, which are not known here.
    """
    if model.get("continuing_subword_prefix"):
        mend = "use a tokenizer without continuing_subword_prefix"
        raise TokenizerError("byte-pair pieces with a prefix inside words are not known here", mend=mend)
    vocab = model["vocab"]
    ranks = {(left, right): rank for rank, (left, right) in enumerate(model["merges"])}
    found: dict[str, Parents | None] = {}
    suffix = model.get("end_of_word_suffix") or ""
    for piece in vocab if pieces is None else pieces:
        symbols = symbols_of(piece, suffix)
        if len(symbols) == 1:
            found[piece] = None
        elif (parents := _last_merge(symbols, ranks)) is not None:
            found[piece] = parents
    return found


def symbols_of(piece: str, suffix: str = "") -> list[str]:
    """What a piece's text is before any merge: its characters, the last with the end-of-word `suffix`."""
    if not suffix or not piece.endswith(suffix) or piece == suffix:
        return list(piece)
    plain = piece.removesuffix(suffix)
    return [*plain[:-1], plain[-1] + suffix]


def _last_merge(symbols: list[str], ranks: dict[Parents, int]) -> Parents | None:
    """The pair joined last when all of `symbols` become one; None if they never do."""
    never = len(ranks)
    pairs = [ranks.get(pair, never) for pair in pairwise(symbols)]
    while len(symbols) > 2:
        best = min(pairs)
        if best == never:
            return None
        at = pairs.index(best)  # the leftmost of equal ones
        symbols[at : at + 2] = [symbols[at] + symbols[at + 1]]
        del pairs[at]
        if at:
            pairs[at - 1] = ranks.get((symbols[at - 1], symbols[at]), never)
        if at < len(pairs):
            pairs[at] = ranks.get((symbols[at], symbols[at + 1]), never)
    return (symbols[0], symbols[1]) if pairs[0] < never else None

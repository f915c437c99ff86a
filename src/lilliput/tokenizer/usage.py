"""What counts say of a tokenizer: how far its most frequent pieces reach, and which it does not need."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from lilliput.errors import TokenizerError
from lilliput.progress import say
from lilliput.tokenizer.counts import Counts, curve
from lilliput.tokenizer.source import Source
from lilliput.tokenizer.witness import witnesses

# Sizes at which coverage is told: those of PanGu-π Pro's Fig. 2 and Table 1, and others around them.
_SIZES = tuple(1000 * size for size in (1, 2, 4, 8, 16, 32, 48, 72, 100, 128, 200, 256))
_EXAMPLES = 20
Piece = tuple[int, str]


@dataclass(frozen=True)
class Usage:
    """Pieces as (number, piece), in the order of their numbers; the special ones, which no text gives, left aside.

    unused: that the tokenizer can produce, and were not met in the corpus. unreachable: that no text was found to
    give; None where that was not examined, and then `unused` holds them too.
    """

    unused: list[Piece]
    unreachable: list[Piece] | None


def coverage_table(counts: Counts) -> list[dict[str, float]]:
    """cov(k) at usual sizes k and the tokenizer's own: the accumulated-frequency curve of Fig. 2 as a table."""
    _, shares = curve(counts.ids)
    sizes = [size for size in _SIZES if size < counts.vocab_size] + [counts.vocab_size]
    return [{"pieces": size, "coverage": float(shares[size - 1])} for size in sizes]


def find_usage(source: Source, counts: Counts, *, examine: bool = True) -> Usage:
    """Which pieces were not met. examine: search for a text for each of them, to tell those that none gives; of a
    big vocabulary that takes some ten seconds. Raises TokenizerError if the counts are another tokenizer's."""
    if (source.hash, source.vocab_size) != (counts.tokenizer, counts.vocab_size):
        reason = f"the counts are of the tokenizer {counts.tokenizer[:12]}, not of this one, {source.hash[:12]}"
        raise TokenizerError(reason, where=source.where, mend="name the tokenizer that was counted")
    special = {token["id"] for token in source.definition.get("added_tokens") or [] if token["special"]}
    pieces = {number: piece for piece, number in source.pieces.items() if number not in special}
    unmet = [(number, pieces[number]) for number in sorted(pieces) if not counts.ids[number]]
    if not examine:
        return Usage(unmet, None)
    if unmet:
        say(f"looking for a text for each of the {len(unmet):,} pieces that were not met")
    shown = witnesses(source, ids=[number for number, _ in unmet])
    return Usage([one for one in unmet if one[0] in shown], [one for one in unmet if one[0] not in shown])


def describe(counts: Counts, usage: Usage | None = None, source: Source | None = None) -> dict[str, Any]:
    """The counts as told to people and by `--json` (see `count_page` for the keys)."""
    languages = {name: {**vars(group), "bytes_per_token": _ratio(group)} for name, group in counts.groups.items()}
    data: dict[str, Any] = {
        "source": source.where if source else None,
        "kind": source.kind if source else None,
        "tokenizer": counts.tokenizer,
        "vocab_size": counts.vocab_size,
        "documents": counts.documents,
        "bytes": counts.bytes,
        "tokens": counts.tokens,
        "bytes_per_token": _ratio(counts),
        "languages": languages,
        "coverage": coverage_table(counts),
        "met": int(np.count_nonzero(counts.ids)),
        "shards": counts.shards,
        "unused": _told(usage.unused) if usage else None,
        "unreachable": _told(usage.unreachable) if usage and usage.unreachable is not None else None,
    }
    if source:
        names = {number: piece for piece, number in source.pieces.items()}
        most = np.argsort(-counts.ids, kind="stable")[:_EXAMPLES]
        data["most_frequent"] = [[names[at], int(counts.ids[at])] for at in most.tolist() if counts.ids[at]]
        data["notes"] = list(source.notes)
    return data


def _told(pieces: list[Piece]) -> dict[str, Any]:
    """How many there are, and examples from all over the vocabulary: its first pieces are single bytes."""
    spread = sorted({at * len(pieces) // _EXAMPLES for at in range(_EXAMPLES)}) if pieces else []
    return {"pieces": len(pieces), "examples": [pieces[at][1] for at in spread]}


def _ratio(found: Any) -> float | None:
    """Bytes per token."""
    return found.bytes / found.tokens if found.tokens else None

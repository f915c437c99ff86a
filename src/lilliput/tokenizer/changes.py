"""What a tokenizer gives back otherwise than it was given: the marks of its normaliser, and of what it lacks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import NamedTuple

from lilliput.tokenizer.source import Source

# Text looked at for characters that come back changed.
LOOKED_AT = 4_000_000
# What normalisers are known to change beyond single characters.
_SEQUENCES = ("a  b", "a\tb", "a\n\nb", "a\r\nb", " a", "a ", "e\u0301", "\u1100\u1161")
_RARE = ("\u2581", "ﬁ", "Ａ", "①", "\u00a0", "\u3000", "\u200b", "\ufeff", "A", "é", "中", "\U0001f600")


class Change(NamedTuple):
    """before comes back as after. times: how often the text looked at holds it."""

    before: str
    after: str
    times: int


def changes(source: Source, texts: Iterable[str], limit: int = LOOKED_AT) -> list[Change]:
    """The characters and sequences that do not come back as they were, the most frequent first.

    Every character of `texts` (up to `limit` characters) is tried between two letters, with some that normalisers
    are known to change whether the text holds them or not.
    """
    characters: Counter[str] = Counter()
    sequences: Counter[str] = Counter()
    seen = 0
    for text in texts:
        characters.update(text)
        sequences.update({part: text.count(part.strip("ab")) for part in _SEQUENCES[:4]})
        seen += len(text)
        if seen >= limit:
            break
    # A space or letter at the border of a text says nothing of how often a border has one.
    counts = {f"a{one}b": characters[one] for one in {*characters, *_RARE}}
    counts |= {part: sequences[part] for part in _SEQUENCES}
    backend = source.backend()
    given = sorted(counts)
    ids = [encoding.ids for encoding in backend.encode_batch_fast(given, add_special_tokens=False)]
    back = backend.decode_batch(ids, skip_special_tokens=True)
    found = [Change(*_core(a, b), counts[a]) for a, b in zip(given, back, strict=True) if a != b]
    return sorted(found, key=lambda change: (-change.times, change.before))


def _core(before: str, after: str) -> tuple[str, str]:
    """The two without the letters around that stayed."""
    if len(before) > 2 and before[0] == "a" == after[:1] and before[-1] == "b" == after[-1:]:
        return before[1:-1], after[1:-1]
    return before, after

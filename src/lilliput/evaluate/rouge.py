"""ROUGE (Lin 2004): how much of a reference summary a text has, and how much of the text is of it.

ROUGE-N counts n-grams in common, each as often as both have it; ROUGE-L the longest common subsequence of words. Given
is F = 2PR/(P + R) with precision P over the text and recall R over the reference. Words are runs of a–z and 0–9 after
lower-casing; no stems, no stop words.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

_WORDS = re.compile(r"[a-z0-9]+")


def rouge(text: str, reference: str) -> tuple[float, float, float]:
    """F of (ROUGE-1, ROUGE-2, ROUGE-L), each 0 to 1; 0 where nothing is in common."""
    ours, theirs = (_WORDS.findall(one.lower()) for one in (text, reference))
    return _n_grams(ours, theirs, 1), _n_grams(ours, theirs, 2), _f(_common(ours, theirs), len(ours), len(theirs))


def _n_grams(ours: Sequence[str], theirs: Sequence[str], n: int) -> float:
    held = [Counter(tuple(words[at : at + n]) for at in range(len(words) - n + 1)) for words in (ours, theirs)]
    return _f((held[0] & held[1]).total(), held[0].total(), held[1].total())


def _f(common: int, ours: int, theirs: int) -> float:
    # 2PR/(P + R) with P = common/ours and R = common/theirs.
    return 2 * common / (ours + theirs) if common else 0.0


def _common(ours: Sequence[str], theirs: Sequence[str]) -> int:
    """The length of the longest common subsequence, row by row of the usual table."""
    above = [0] * (len(theirs) + 1)
    for word in ours:
        row = [0]
        for at, other in enumerate(theirs):
            row.append(above[at] + 1 if word == other else max(above[at + 1], row[at]))
        above = row
    return above[-1]

"""Words that repeat, encoded once: for byte-pair encoding over characters (SentencePiece's kind).

No merge crosses the place before a run of U+2581 if no piece holds that character after another, nor a place beside
a character that is in no merge (`lone`). What stands between such places is encoded as if it stood alone, so a word
met before has the numbers it had then. `tokenizers` knows its words too, but takes four times as long to find them
and to hand over their numbers.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Sequence
from itertools import chain
from typing import Any

import numpy as np
from tokenizers import Tokenizer as Backend

from lilliput.tokenizer.lone import merged_characters
from lilliput.tokenizer.ranked import Flat
from lilliput.tokenizer.source import Source
from lilliput.tokenizer.spelling import BLANK

# Words remembered at most, each about two hundred bytes; then all are forgotten.
_REMEMBERED = 300_000
# Characters of a word beyond which it is not worth remembering, nor its text worth taking.
_LONGEST = 2_000
# Bytes a character beyond which a text is hardly of words.
_SPREAD = 1.2


class Words:
    """Encodes word by word. merged: the characters in merges. backend: the definition's."""

    def __init__(self, definition: dict[str, Any], backend: Backend, merged: set[str]) -> None:
        self._backend = backend
        # A word is normalised already.
        self._bare = Source({**definition, "normalizer": None}, {}, "").backend()
        inside = "".join(map(re.escape, sorted(merged - {BLANK})))
        self._words = re.compile(f"{BLANK}*[{inside}]+|{BLANK}+|[^{inside}{BLANK}]")
        self._long = re.compile(f"[{inside}]{{{_LONGEST}}}")
        self._steps = _plain_steps(definition.get("normalizer"))
        self._known: dict[str, list[int]] = {}

    def takes(self, text: str) -> bool:
        """Whether the text is mostly of words, and has no endless one."""
        try:
            size = len(text.encode())
        except UnicodeEncodeError:
            return False
        return size < _SPREAD * len(text) and not self._long.search(text)

    def encode(self, texts: Sequence[str]) -> Flat:
        """(numbers of all texts, one after the other; how many each has)."""
        words = [self._words.findall(self._normal(text)) for text in texts]
        known = self._recall(set(chain.from_iterable(words)))
        found = [list(chain.from_iterable(map(known.__getitem__, part))) for part in words]
        lengths = np.fromiter(map(len, found), np.int64, len(found))
        return np.fromiter(chain.from_iterable(found), np.int64, int(lengths.sum())), lengths

    def count(self, texts: Sequence[str], vocab_size: int) -> Flat:
        """(occurrences of each number, int64 (vocab_size,); how many numbers each text has)."""
        words = [self._words.findall(self._normal(text)) for text in texts]
        met = Counter(chain.from_iterable(words))
        known = self._recall(met.keys())
        found = [known[word] for word in met]
        sizes = np.fromiter(map(len, found), np.int64, len(found))
        ids = np.fromiter(chain.from_iterable(found), np.int64, int(sizes.sum()))
        times = np.repeat(np.fromiter(met.values(), np.int64, len(met)), sizes)
        # In double precision, which is exact for as many as a text can hold.
        totals = np.bincount(ids, weights=times, minlength=vocab_size).astype(np.int64)
        lengths = [sum(map(len, map(known.__getitem__, part))) for part in words]
        return totals, np.array(lengths, np.int64)

    def _normal(self, text: str) -> str:
        """The text as the definition's normaliser makes it; by Python's own means where it is LLaMA's."""
        if self._steps is None:
            return str(self._backend.normalizer.normalize_str(text))
        for step in self._steps if text else ():
            text = step["prepend"] + text if step["type"] == "Prepend" else text.replace(" ", BLANK)
        return text

    def _recall(self, words: Collection[str]) -> dict[str, list[int]]:
        """The numbers of all `words`, which a thread may look up whatever the others forget."""
        known = self._known
        new = sorted(word for word in words if word not in known)
        if len(known) + len(new) > _REMEMBERED:
            known, new = {}, sorted(words)
        encoded = self._bare.encode_batch_fast(new, add_special_tokens=False)
        known.update(zip(new, (encoding.ids for encoding in encoded), strict=True))
        self._known = known
        return known


def _plain_steps(normaliser: dict[str, Any] | None) -> list[dict[str, Any]] | None:
    """The steps of a normaliser that only puts something before a text and U+2581 for blanks; None of another."""
    steps = [] if normaliser is None else normaliser.get("normalizers", [normaliser])
    blank = {"type": "Replace", "pattern": {"String": " "}, "content": BLANK}
    return steps if all(step["type"] == "Prepend" or step == blank for step in steps) else None


def words(definition: dict[str, Any], backend: Backend) -> Words | None:
    """The encoder by words, if the definition has such words."""
    merged = merged_characters(definition)
    pieces = definition["model"]["vocab"]
    if merged is None or any(BLANK in piece.lstrip(BLANK) for piece in pieces):
        return None
    return Words(definition, backend, merged)

"""Byte-level byte-pair encoding by `tiktoken`, where its numbers are provably those of `tokenizers`.

`tokenizers` merges, in each word, the pair that stands first in the list of merges; `tiktoken` the neighbours whose
joint bytes have the lowest rank in a table, whatever pair they are. Of equal ones both take the leftmost.

Why they agree on the table made here. Call a piece sound if its own bytes, alone, are merged by the list until
only it is left; its last merge is then one pair. Suppose both engines have done the same steps in a word so far,
and two neighbours a, b have the joint bytes c. All merges inside the span of c happened as they would with c
alone: none has crossed its borders, and of those inside the first in the list came first. So [a, b] is a state
that the bytes of c, alone, go through.
  1. If (a, b) is a listed pair, then c alone goes on to [c]: c is sound, and (a, b) is its last merge.
  2. If c is sound, then c alone ends in [c], and the only state of two parts on the way is its last merge: (a, b)
     is that listed pair.
So with exactly the sound pieces in the table, ranked as their last merges are listed, both engines see the same
candidates in the same order, and do the same next step. A whole word that is in the table is looked up by
`tiktoken` without merging; it is sound, so merging ends in it. With `ignore_merges`, `tokenizers` looks up whole
words too, sound or not. Then unsound pieces must be in the table; those whose bytes, alone, end in three parts or
more can be: no state of two parts exists in which `tiktoken` could join them. With others we decline.
"""

from __future__ import annotations

import importlib
import itertools
import re
import unicodedata
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer as Backend
from tokenizers import models

from lilliput.tokenizer.regular import grouped, is_common, pattern_of, unsettled
from lilliput.tokenizer.spelling import byte_letters

# Characters of one text beyond which fancy-regex may run out of its stack (it does at a million blanks).
LONGEST = 200_000
# A special token, never allowed: tiktoken's regular expression for special tokens must not be empty.
_NEVER = "<|never|>"
_NOTHING = np.zeros(0, np.uint32)

Flat = tuple[NDArray[np.int64], NDArray[np.int64]]


class Ranked:
    """`tiktoken` on the table of a definition for which `ranked` proved it equal to `tokenizers`."""

    def __init__(self, encoding: Any, numbers: NDArray[np.int64], sizes: NDArray[np.int64], definition: dict[str, Any]):
        self._encoding, self._numbers, self._sizes = encoding, numbers, sizes
        self._normalises = definition.get("normalizer") is not None
        found = [token["content"] for token in definition.get("added_tokens") or [] if not token["special"]]
        forms = {form for text in found for form in (text, unicodedata.normalize("NFC", text))}
        self._added = re.compile("|".join(map(re.escape, forms))) if forms else None

    def takes(self, text: str) -> bool:
        """Whether the text is one for which the proof holds: settled characters, already normalised, of a length
        that the engine stands, and without added tokens that are found in text."""
        if len(text) > LONGEST or unsettled(text):
            return False
        if self._normalises and not unicodedata.is_normalized("NFC", text):
            return False
        return self._added is None or self._added.search(text) is None

    def encode(self, texts: Sequence[str]) -> Flat | None:
        """(numbers of all texts, one after the other; how many each has). None if the engine gave up, or left out
        what its pattern does not match."""
        found = self._ranks(texts)
        if found is None or int(self._sizes[found[0]].sum()) != _size(texts):
            return None
        return self._numbers[found[0]], found[1]

    def count(self, texts: Sequence[str], vocab_size: int) -> Flat | None:
        """(occurrences of each number, int64 (vocab_size,); how many numbers each text has). None as `encode`."""
        found = self._ranks(texts)
        if found is None:
            return None
        counts = np.bincount(found[0], minlength=len(self._numbers))
        if int(counts @ self._sizes) != _size(texts):
            return None
        totals = np.zeros(vocab_size, np.int64)
        totals[self._numbers] = counts
        return totals, found[1]

    def _ranks(self, texts: Sequence[str]) -> tuple[NDArray[np.uint32], NDArray[np.int64]] | None:
        """As `encode`, ranks instead of numbers."""
        encode = self._encoding.encode_to_numpy
        try:
            found = [encode(text, disallowed_special=()) if text else _NOTHING for text in texts]
        except BaseException as error:
            # How a panic of the engine arrives (its pattern needed too many steps): no child of Exception.
            if type(error).__name__ != "PanicException":
                raise
            return None
        return np.concatenate([_NOTHING, *found]), np.fromiter(map(len, found), np.int64, len(found))


def _size(texts: Sequence[str]) -> int:
    """UTF-8 bytes of the texts."""
    return sum(len(text) if text.isascii() else len(text.encode()) for text in texts)


def ranked(definition: dict[str, Any]) -> Ranked | None:
    """`tiktoken` for the definition; None if it is not installed, or equality not proved."""
    pattern = pattern_of(definition)
    if pattern is None or not is_common(pattern) or not _is_plain(definition):
        return None
    try:
        tiktoken = importlib.import_module("tiktoken")
    except ImportError:
        return None
    order = _order(definition["model"])
    if order is None or not hasattr(tiktoken.Encoding, "encode_to_numpy"):
        return None
    letters, vocab = byte_letters(), definition["model"]["vocab"]
    spelled = [bytes(letters[letter] for letter in piece) for piece in order]
    table = {piece: rank for rank, piece in enumerate(spelled)}
    encoding = tiktoken.Encoding(
        "lilliput", pat_str=grouped(pattern), mergeable_ranks=table, special_tokens={_NEVER: len(table)}
    )
    numbers = np.fromiter((vocab[piece] for piece in order), np.int64, len(order))
    return Ranked(encoding, numbers, np.fromiter(map(len, spelled), np.int64, len(order)), definition)


def _is_plain(definition: dict[str, Any]) -> bool:
    """Whether nothing but the pattern and the merges decides the numbers."""
    model, normaliser = definition["model"], definition.get("normalizer")
    odd = ("dropout", "continuing_subword_prefix", "end_of_word_suffix")
    return model["type"] == "BPE" and not any(map(model.get, odd)) and normaliser in (None, {"type": "NFC"})


def _order(model: dict[str, Any]) -> list[str] | None:
    """The pieces of the table in the order of their ranks, or None if there is no such table."""
    letters = byte_letters()
    results = [left + right for left, right in model["merges"]]
    runs = sum(one != other for one, other in itertools.pairwise([*results, None]))
    # Several pairs may give one piece. Where they stand together in the list, any of them tells its place.
    listed = list(dict.fromkeys(results))
    if runs != len(listed) or not letters.keys() <= model["vocab"].keys():
        return None
    known = set(listed)
    others = (piece for piece in model["vocab"] if len(piece) > 1 and piece not in known)
    unmerged = [piece for piece in others if letters.keys() >= set(piece)]
    parts = _parts([*listed, *unmerged], model)
    sound = [piece for piece, size in zip(listed, parts, strict=False) if size == 1]
    if not model.get("ignore_merges"):
        return [*letters, *sound]
    unsound = [(piece, size) for piece, size in zip([*listed, *unmerged], parts, strict=True) if size != 1]
    if any(size < 3 for _, size in unsound):
        return None
    return [*letters, *sound, *(piece for piece, _ in unsound)]


def _parts(pieces: list[str], model: dict[str, Any]) -> list[int]:
    """How many pieces the letters of each piece, alone, are merged to: by `tokenizers` itself, looking nothing up."""
    bare = Backend(models.BPE(vocab=model["vocab"], merges=[(left, right) for left, right in model["merges"]]))
    return [len(encoding) for encoding in bare.encode_batch_fast(pieces, add_special_tokens=False)]

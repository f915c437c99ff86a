"""Counting with characters that no merge takes, where the rest of the text is all that need be merged.

In a byte-pair encoding over characters with byte fall-back (SentencePiece's kind), a character that is in no listed
merge stays what it is: its piece, or its UTF-8 bytes' pieces, whatever stands beside it. Merges never cross it, so
the text before and the text after it are encoded as if they stood alone. Of LLaMA-2's vocabulary those are all but
264 characters: 98 % of a Chinese text, which its users otherwise wait for longest.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer as Backend

from lilliput.tokenizer.ranked import Flat
from lilliput.tokenizer.source import Source
from lilliput.tokenizer.spelling import BLANK, BYTE_PIECE

_SURROGATE = re.compile("[\ud800-\udfff]")
# Characters of the first plane are looked up in tables; those beyond are left to `tokenizers`.
_PLANE = 1 << 16
# Least share of lone characters in a text for which it pays to take them out.
_SHARE = 0.3


class Lone:
    """Counts by taking lone characters out. merged: the characters in merges. backend: the definition's."""

    def __init__(self, definition: dict[str, Any], backend: Backend, merged: set[str], separator: str) -> None:
        self._backend = backend
        # What is left of a text is normalised already.
        self._bare = Source({**definition, "normalizer": None}, {}, "").backend()
        vocab = definition["model"]["vocab"]
        self._separator, self._separator_id = separator, vocab[separator]
        kept = "".join(map(re.escape, sorted(merged)))
        self._runs = re.compile(f"[^{kept}\U00010000-\U0010ffff]+")
        # Of each character that is lone: its numbers, and how many they are.
        self._ids = np.full((_PLANE, 3), -1, np.int64)
        for number in range(_PLANE):
            character = chr(number)
            if character not in merged and not 0xD800 <= number < 0xE000:
                pieces = [character] if character in vocab else [f"<0x{byte:02X}>" for byte in character.encode()]
                self._ids[number, : len(pieces)] = [vocab[piece] for piece in pieces]
        self._sizes: NDArray[np.int64] = (self._ids >= 0).sum(axis=1)

    def takes(self, text: str) -> bool:
        """Whether the text has so many lone characters that taking them out pays."""
        if text.isascii() or _SURROGATE.search(text):
            return False
        return float((self._sizes[_units(text)] > 0).mean()) > _SHARE

    def count(self, texts: Sequence[str], vocab_size: int) -> Flat:
        """(occurrences of each number, int64 (vocab_size,); how many numbers each text has)."""
        normaliser = self._backend.normalizer
        normal = [normaliser.normalize_str(text) for text in texts] if normaliser else list(texts)
        rests = [self._runs.subn(self._separator, text) for text in normal]
        encoded = self._bare.encode_batch_fast([text for text, _ in rests], add_special_tokens=False)
        left = np.array([number for encoding in encoded for number in encoding.ids], np.int64)
        totals = np.bincount(left, minlength=vocab_size)
        totals[self._separator_id] -= sum(cuts for _, cuts in rests)
        units = [_units(text) for text in normal]
        self._add(np.bincount(np.concatenate(units), minlength=_PLANE), totals)
        lengths = [
            int(self._sizes[part].sum()) + len(encoding) - cuts
            for part, encoding, (_, cuts) in zip(units, encoded, rests, strict=True)
        ]
        return totals, np.array(lengths, np.int64)

    def _add(self, characters: NDArray[np.int64], totals: NDArray[np.int64]) -> None:
        """Add what the lone among these characters (occurrences, by number) become."""
        met = np.flatnonzero(characters * (self._sizes > 0))
        for ids in self._ids[met].T:
            there = ids >= 0
            np.add.at(totals, ids[there], characters[met[there]])


def lone(definition: dict[str, Any], backend: Backend) -> Lone | None:
    """The count by lone characters, if nothing but merges decides the numbers of this definition's words."""
    merged, vocab = merged_characters(definition), definition["model"]["vocab"]
    if merged is None:
        return None
    separators = (piece for piece in vocab if len(piece) == 1 and piece not in merged and ord(piece) < _PLANE)
    separator = next(separators, None)
    return Lone(definition, backend, merged, separator) if separator else None


def merged_characters(definition: dict[str, Any]) -> set[str] | None:
    """The characters in merges (and U+2581), if nothing but merges decides the numbers of this definition's words."""
    model = definition["model"]
    if model["type"] != "BPE" or not model.get("byte_fallback"):
        return None
    odd = ("dropout", "continuing_subword_prefix", "end_of_word_suffix", "ignore_merges")
    found_in_text = any(not token["special"] for token in definition.get("added_tokens") or [])
    if any(map(model.get, odd)) or found_in_text or not _cuts_at_blanks(definition.get("pre_tokenizer")):
        return None
    vocab, parts = model["vocab"], {part for pair in model["merges"] for part in pair}
    if any(f"<0x{byte:02X}>" not in vocab for byte in range(256)) or any(map(BYTE_PIECE.fullmatch, parts)):
        return None
    return {BLANK, *(character for part in parts for character in part)}


def _cuts_at_blanks(stage: dict[str, Any] | None) -> bool:
    """Whether words are cut nowhere, or where U+2581 stands: what is put for other characters changes no cut."""
    if stage is None:
        return True
    return stage["type"] == "Split" and not stage["invert"] and stage["pattern"] in (
        {"Regex": f"{BLANK}+"}, {"Regex": BLANK}, {"String": BLANK}
    )  # fmt: skip


def _units(text: str) -> NDArray[np.uint16]:
    """The text's UTF-16 code units."""
    return np.frombuffer(text.encode("utf-16-le"), np.uint16)

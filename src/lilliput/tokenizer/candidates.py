"""Texts that may make a tokenizer give a certain piece, the likeliest first.

Mostly the piece's own text does. It does not where something is put before a text (SentencePiece's blank), where
a pattern or a longer piece takes it apart, or where the piece is no whole character; so contexts, completions and
neighbours follow. What the tokenizer makes of them is for others to see (witness.py).
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Iterator
from functools import cached_property
from heapq import nsmallest
from itertools import islice
from typing import Any

from tokenizers import Tokenizer as Backend

from lilliput.tokenizer.completions import characters_with, missing_after, missing_before, texts_holding
from lilliput.tokenizer.source import Source
from lilliput.tokenizer.spelling import BYTE_PIECE, piece_bytes

# Beside a piece: a line end, a blank, letters, numbers, signs, both common ones and such (of private use, Gothic,
# an old punctuation mark, a Sumerian number) as hardly any longer piece holds; and a mark that joins on.
_BESIDE = ("\n", " ", "\ue000", "\U00010330", "\u2e18", "a", "1", ".", "A", "中", "\U0001f600", "\U00012400", "\u0301")
_HOPELESS = 32  # tries for a piece that its own symbols do not make
_COMPLETED = 512  # completions of a piece that is no whole characters
_NEIGHBOURS = 192  # other pieces that complete it
_PREFIXES = 64  # beginnings of a word tried before a piece of its inside


class Candidates:
    """Candidate texts for every piece of a tokenizer. backend: the one of `source`."""

    def __init__(self, source: Source, backend: Backend) -> None:
        self._kind, self._backend = source.kind, backend
        self._model: dict[str, Any] = source.definition["model"]
        self._pieces = source.pieces
        self._names = {number: piece for piece, number in self._pieces.items()}
        self._added = {token["content"] for token in source.definition.get("added_tokens") or []}
        self._byte_level = self._kind == "byte-level BPE"

    def of(self, number: int) -> Iterator[str]:
        """Texts to try for the piece with this number, lazily; a bounded number of them."""
        piece = self._names.get(number)
        if piece is None:
            return
        yield from self._plain(piece)
        tries = self._further(piece)
        yield from islice(tries, _HOPELESS) if self._hopeless(piece) else tries

    def _plain(self, piece: str) -> Iterator[str]:
        """The one text that gives most pieces."""
        if piece in self._added:
            yield piece
        elif self._byte_level:
            data = piece_bytes(piece, byte_level=True)
            yield from islice(texts_holding(data), 1)
        elif self._kind != "WordPiece":
            # The blank that SentencePiece puts before a text is already there.
            yield piece.replace("▁", " ").removeprefix(" ") or piece
        elif not piece.startswith(self._inside):
            yield piece

    def _further(self, piece: str) -> Iterator[str]:
        if self._is_unknown(piece):
            yield from _BESIDE
            yield "a" * (int(self._model.get("max_input_chars_per_word") or 0) + 1)
        if (found := BYTE_PIECE.fullmatch(piece)) and not self._byte_level:
            yield from self._unknown_characters(int(found[1], 16))
        elif self._kind == "WordPiece" and piece.startswith(self._inside) and piece not in self._added:
            yield from self._within_words(piece.removeprefix(self._inside))
        elif self._byte_level and piece not in self._added:
            yield from self._completed(piece_bytes(piece, byte_level=True))
        for text in self._texts(piece):
            yield from _in_contexts(text)

    def _texts(self, piece: str) -> list[str]:
        """What the piece may stand for in a text, where it stands for whole characters."""
        suffix, prefix = self._model.get("end_of_word_suffix") or "", self._inside
        if self._byte_level and piece not in self._added:
            data = piece_bytes(piece.removesuffix(suffix), byte_level=True)
            return list(islice(texts_holding(data), 1))
        text = piece.removesuffix(suffix).removeprefix(prefix)
        blank = text.replace("▁", " ")
        forms = [blank, blank.removeprefix(" "), text]
        if self._backend.normalizer is not None:
            # What the normaliser may turn into it.
            forms += [blank.upper(), unicodedata.normalize("NFD", blank), unicodedata.normalize("NFKD", blank)]
        return [form for form in dict.fromkeys(forms) if form]

    def _hopeless(self, piece: str) -> bool:
        """Whether merging or the best path, left alone with the piece's own symbols, does not end in it.

        Then no text gives it (what happens inside a span that nothing crosses does not depend on the rest),
        except as a whole word where the tokenizer looks those up first.
        """
        if self._kind == "WordPiece" or self._is_unknown(piece) or BYTE_PIECE.fullmatch(piece):
            return False
        model = self._backend.model
        looks_up = getattr(model, "ignore_merges", False)
        if looks_up:
            model.ignore_merges = False
        try:
            return [token.value for token in model.tokenize(piece)] != [piece]
        finally:
            if looks_up:
                model.ignore_merges = True

    @property
    def _inside(self) -> str:
        return self._model.get("continuing_subword_prefix") or ""

    def _is_unknown(self, piece: str) -> bool:
        number = self._model.get("unk_id")
        name = self._model.get("unk_token") if number is None else self._model["vocab"][number][0]
        return piece == name

    def _unknown_characters(self, byte: int) -> Iterator[str]:
        """Characters that are no pieces, so that they are spelled in bytes, this byte among them."""
        characters = (chr(byte),) if byte < 0x80 else _characters_with_byte(byte)
        yield from (character for character in characters if character not in self._pieces)

    def _completed(self, data: bytes) -> Iterator[str]:
        """For a piece that is no whole characters: completions by single characters, then by other pieces."""
        before, after = missing_before(data), missing_after(data)
        if not before and not after:
            return
        yield from islice(texts_holding(data), 1, _COMPLETED)
        neighbours: list[bytes] = []
        if after:
            neighbours += [data + other for other in self._beginnings.get(after, ())[:_NEIGHBOURS]]
        if before:
            neighbours += [other + data for other in self._endings.get(before, ())[:_NEIGHBOURS]]
        for joined in neighbours:
            yield from islice(texts_holding(joined), 2)

    @cached_property
    def _spelled(self) -> list[bytes]:
        return [piece_bytes(piece, byte_level=True) for piece in self._pieces if piece not in self._added]

    @cached_property
    def _beginnings(self) -> dict[int, list[bytes]]:
        """Pieces by how many continuation bytes they begin with."""
        return _grouped((missing_before(data), data) for data in self._spelled)

    @cached_property
    def _endings(self) -> dict[int, list[bytes]]:
        """Pieces by how many continuation bytes their last character lacks."""
        return _grouped((missing_after(data), data) for data in self._spelled)

    def _within_words(self, rest: str) -> Iterator[str]:
        """Words that end in `rest`, before which greedy search has just taken a whole piece.

        It has where no piece goes on from there into `rest`; so these are checked before a word is tried.
        """
        if not rest:
            return
        starts, insides = self._word_starts
        parts = [rest[:end] for end in range(1, len(rest) + 1)]

        def ends(start: str) -> bool:
            return not any(start + part in self._pieces for part in parts)

        yield from (start + rest for start in islice(filter(ends, starts), _PREFIXES))
        # What is of one script, which some cutters keep together, stands together in Unicode.
        yield from (start + rest for start in filter(ends, self._near_starts(rest[0])))
        forms = filter(ends, (f"{self._inside}{inside}" for inside in insides))
        for inside in (form.removeprefix(self._inside) for form in islice(forms, _PREFIXES)):
            yield from (start + inside + rest for start in starts[:4])

    @cached_property
    def _word_starts(self) -> tuple[list[str], list[str]]:
        """(pieces that begin a word and are not cut from the letter after them, pieces of the inside of words),
        short ones first, among these the ones from which the fewest pieces go on."""
        whole = [piece for piece in self._pieces if piece and piece not in self._added]
        insides = [piece.removeprefix(self._inside) for piece in whole if piece.startswith(self._inside)]
        starts = [piece for piece in whole if not piece.startswith(self._inside)]
        onward: dict[str, int] = {}
        for piece in starts:
            onward[piece[:1]] = onward.get(piece[:1], 0) + 1
        starts.sort(key=lambda piece: (len(piece), onward[piece[:1]]))
        joined = (start for start in starts if self._words(f"{start}a") == [f"{start}a"])
        return list(islice(joined, 8 * _PREFIXES)), sorted(insides, key=len)

    @cached_property
    def _single(self) -> list[str]:
        return [piece for piece in self._pieces if len(piece) == 1]

    def _near_starts(self, letter: str) -> list[str]:
        """Single characters that begin words, those nearest to `letter` in Unicode."""
        return nsmallest(_PREFIXES, self._single, key=lambda piece: abs(ord(piece) - ord(letter)))

    def _words(self, text: str) -> list[str]:
        normalizer, cutter = self._backend.normalizer, self._backend.pre_tokenizer
        text = text if normalizer is None else normalizer.normalize_str(text)
        return [text] if cutter is None else [word for word, _ in cutter.pre_tokenize_str(text)]


def _in_contexts(text: str) -> Iterator[str]:
    yield text
    yield from (text + right for right in _BESIDE)
    yield from (left + text for left in _BESIDE)
    yield from (left + text + right for left in _BESIDE for right in _BESIDE)


def _characters_with_byte(byte: int) -> tuple[str, ...]:
    if byte in (0xC0, 0xC1) or byte > 0xF4:
        return ()  # no character's UTF-8 holds them
    return characters_with(bytes([byte]))


def _grouped(pairs: Iterable[tuple[int, bytes]]) -> dict[int, list[bytes]]:
    groups: dict[int, list[bytes]] = {}
    for number, data in pairs:
        groups.setdefault(number, []).append(data)
    return groups

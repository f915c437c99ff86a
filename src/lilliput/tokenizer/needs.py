"""What a tokenizer cannot do without: pieces that always stay, and pieces that a kept piece needs."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from lilliput.errors import TokenizerError
from lilliput.tokenizer.derivation import last_merges, symbols_of
from lilliput.tokenizer.source import Source

BLANK = "\u2581"  # what SentencePiece writes for a space
_BYTE = re.compile(r"<0x[0-9A-F]{2}>")
REASONS = {"special": "special pieces", "byte": "bytes", "character": "single characters", "spelling": "spellings"}


@dataclass(frozen=True)
class Needs:
    """always: number → the reason it stays (a key of REASONS). parents: number → the numbers it is merged from."""

    always: dict[int, str]
    parents: dict[int, tuple[int, ...]]

    @property
    def reasons(self) -> tuple[str, ...]:
        """Every reason for which a piece always stays."""
        return tuple(REASONS)

    def describe(self) -> str:
        """`3 special pieces, 256 bytes`."""
        kept = list(self.always.values())
        return ", ".join(f"{kept.count(name)} {words}" for name, words in REASONS.items() if name in kept)


def needs_of(source: Source, unreachable: Collection[int] = ()) -> Needs:
    """What `source` needs whatever its size; a character's `##` form only if it can come out of the tokenizer.

    unreachable: numbers of pieces that cannot. Raises TokenizerError for a kind of tokenizer that is not known.
    """
    finder = _FINDERS.get(source.kind)
    if finder is None:
        known = ", ".join(_FINDERS)
        raise TokenizerError(f"a {source.kind} tokenizer cannot be cut down", where=source.where, mend=f"use {known}")
    pieces = source.pieces
    # The first reason given counts.
    always: dict[int, str] = {}
    for reason, names in (("special", _special(source)), *finder(source.definition["model"])):
        for name in names:
            if name in pieces:
                always.setdefault(pieces[name], reason)
    if source.kind == "WordPiece":
        prefix = source.definition["model"]["continuing_subword_prefix"]
        barred = {number for piece, number in pieces.items() if piece.startswith(prefix)} & set(unreachable)
        always = {number: reason for number, reason in always.items() if reason == "special" or number not in barred}
    parents = _parents(source.definition["model"])
    _close(always, parents)
    return Needs(always, parents)


def _close(always: dict[int, str], parents: dict[int, tuple[int, ...]]) -> None:
    """What a piece that always stays is merged from stays too."""
    waiting = list(always)
    while waiting:
        for parent in parents.get(waiting.pop(), ()):
            if parent not in always:
                always[parent] = "spelling"
                waiting.append(parent)


def _special(source: Source) -> Iterator[str]:
    """Added tokens, the unknown piece, and what the files beside the definition declare as special."""
    yield from (token["content"] for token in source.definition.get("added_tokens") or [])
    model = source.definition["model"]
    if isinstance(model.get("unk_token"), str):
        yield model["unk_token"]
    if model.get("unk_id") is not None:
        yield model["vocab"][model["unk_id"]][0]
    for name, value in source.config.items():
        if name.endswith("_token"):
            content = value.get("content") if isinstance(value, dict) else value
            if isinstance(content, str):
                yield content


def _parents(model: dict[str, Any]) -> dict[int, tuple[int, ...]]:
    if model["type"] != "BPE":
        return {}
    vocab = model["vocab"]
    return {
        vocab[piece]: (vocab[parents[0]], vocab[parents[1]])
        for piece, parents in last_merges(model).items()
        if parents is not None
    }


Found = Iterable[tuple[str, Iterable[str]]]


def _bytes_level(model: dict[str, Any]) -> Found:
    """Each character of a byte-level piece is a byte."""
    suffix = model.get("end_of_word_suffix") or ""
    yield "byte", [piece for piece in model["vocab"] if len(symbols_of(piece, suffix)) == 1]


def _characters(model: dict[str, Any]) -> Found:
    """Bytes, and the blank that stands for a space; without bytes, whatever spells the text: single characters,
    and pieces with a character that is no piece of its own."""
    vocab: dict[str, Any] = dict(model["vocab"]) if isinstance(model["vocab"], list) else model["vocab"]
    if model.get("byte_fallback"):
        yield "byte", [piece for piece in vocab if _BYTE.fullmatch(piece)]
        # Spelled in bytes it would come back as itself, not as a space.
        yield "character", [BLANK]
        return
    suffix = model.get("end_of_word_suffix") or ""
    yield "character", [piece for piece in vocab if len(symbols_of(piece, suffix)) == 1]
    yield "spelling", [piece for piece in vocab if any(part not in vocab for part in symbols_of(piece, suffix))]


def _word_pieces(model: dict[str, Any]) -> Found:
    """Single characters with and without `##`, and pieces with a character that lacks the form it has in them."""
    prefix, vocab = model["continuing_subword_prefix"], model["vocab"]

    def spelled(piece: str) -> bool:
        inside = piece.startswith(prefix)
        letters = piece.removeprefix(prefix) if inside else piece
        return (prefix * inside + letters[0] in vocab) and all(prefix + letter in vocab for letter in letters[1:])

    words = [piece for piece in vocab if piece and piece != prefix]
    yield "character", [piece for piece in words if len(piece.removeprefix(prefix)) == 1]
    yield "spelling", [piece for piece in words if not spelled(piece)]


_FINDERS: dict[str, Callable[[dict[str, Any]], Found]] = {
    "byte-level BPE": _bytes_level,
    "BPE": _characters,
    "Unigram": _characters,
    "WordPiece": _word_pieces,
}

"""What a tokenizer cannot do without: pieces that always stay, and pieces that a kept piece needs."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from lilliput.errors import TokenizerError
from lilliput.tokenizer.derivation import last_merges, symbols_of
from lilliput.tokenizer.sentencepiece_text import FIRST_BLANK
from lilliput.tokenizer.source import Source, content_of
from lilliput.tokenizer.spelling import BLANK, BYTE_PIECE

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
    """What `source` needs whatever its size.

    unreachable: numbers of pieces that never come out of it; a longer piece among them spells nothing.
    Raises TokenizerError for a kind of tokenizer that is not known.
    """
    finder = _FINDERS.get(source.kind)
    if finder is None:
        known = ", ".join(_FINDERS)
        raise TokenizerError(f"a {source.kind} tokenizer cannot be cut down", where=source.where, mend=f"use {known}")
    pieces, never = source.pieces, set(unreachable)
    # The first reason given counts.
    always: dict[int, str] = {}
    for reason, names in (("special", _special(source)), *finder(source)):
        for name in names:
            if name in pieces and not (reason == "spelling" and pieces[name] in never):
                always.setdefault(pieces[name], reason)
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
    """Added tokens, the unknown piece, those put around a text, and what the files beside it declare as special."""
    yield from (token["content"] for token in source.definition.get("added_tokens") or [])
    around = set(_put_around(source.definition))
    yield from (piece for piece, number in source.pieces.items() if number in around)
    yield from source.config.get("user_defined_symbols") or ()
    model = source.definition["model"]
    if isinstance(model.get("unk_token"), str):
        yield model["unk_token"]
    if model.get("unk_id") is not None:
        yield model["vocab"][model["unk_id"]][0]
    for name, value in source.config.items():
        if name.endswith("_token"):
            content = content_of(value)
            if isinstance(content, str):
                yield content


def _put_around(definition: dict[str, Any]) -> Iterator[int]:
    """Numbers of the pieces that the default call puts around a text."""
    if definition.get("padding"):
        yield definition["padding"]["pad_id"]
    stages = [definition.get("post_processor") or {}]
    while stages:
        stage = stages.pop()
        stages += stage.get("processors") or []
        yield from (stage[role][1] for role in ("sep", "cls") if role in stage)
        yield from (number for token in (stage.get("special_tokens") or {}).values() for number in token["ids"])


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


def _bytes_level(source: Source) -> Found:
    """Each character of a byte-level piece is a byte."""
    model = source.definition["model"]
    suffix = model.get("end_of_word_suffix") or ""
    yield "byte", [piece for piece in model["vocab"] if len(symbols_of(piece, suffix)) == 1]


def _characters(source: Source) -> Found:
    """Bytes, and what they cannot stand for; where they are not all there, whatever else spells the text: single
    characters, and pieces with a character that is no piece of its own."""
    model = source.definition["model"]
    vocab: dict[str, Any] = dict(model["vocab"]) if isinstance(model["vocab"], list) else model["vocab"]
    # A byte piece that is a special token too is left out of what is decoded.
    added = {token["content"] for token in source.definition.get("added_tokens") or []}
    spelled = [piece for piece in vocab if BYTE_PIECE.fullmatch(piece) and piece not in added]
    if model.get("byte_fallback"):
        yield "byte", spelled
    if _strips_first_piece(source.definition.get("decoder")):
        yield "spelling", [piece for piece in vocab if piece.startswith(2 * BLANK)]
    if model.get("byte_fallback") and len(spelled) == 256:
        # Spelled in bytes it would come back as itself, not as a space.
        yield "character", [BLANK]
        if model["type"] == "Unigram":
            # Of these the names of byte and special pieces are spelled where a text holds one: without them the
            # piece itself would be the best path.
            yield "character", {letter for name in (*spelled, *added) for letter in name}
        return
    suffix = model.get("end_of_word_suffix") or ""
    yield "character", [piece for piece in vocab if len(symbols_of(piece, suffix)) == 1]
    yield "spelling", [piece for piece in vocab if any(part not in vocab for part in symbols_of(piece, suffix))]


def _strips_first_piece(decoder: dict[str, Any] | None) -> bool:
    """Whether how many blanks a decoder takes off the start depends on the first piece: `Metaspace` takes off all of
    its own, SentencePiece's one where it removes extra blanks."""
    if decoder is None:
        return False
    by_piece = decoder["type"] == "Metaspace" or decoder.get("content") == FIRST_BLANK
    return by_piece or any(map(_strips_first_piece, decoder.get("decoders") or []))


def _word_pieces(source: Source) -> Found:
    """Single characters, their `##` forms if they can stand inside a word, and pieces with a character that lacks
    the form it has in them."""
    model, backend = source.definition["model"], source.backend()
    prefix, vocab = model["continuing_subword_prefix"], model["vocab"]

    def spelled(piece: str) -> bool:
        inside = piece.startswith(prefix)
        letters = piece.removeprefix(prefix) if inside else piece
        return (prefix * inside + letters[0] in vocab) and all(prefix + letter in vocab for letter in letters[1:])

    def stands_inside(letter: str) -> bool:
        # After itself: digits, signs and scripts may make words of their own.
        for text in (f"a{letter}", 2 * letter):
            plain = backend.normalizer.normalize_str(text) if backend.normalizer else text
            words = backend.pre_tokenizer.pre_tokenize_str(plain) if backend.pre_tokenizer else [(plain, None)]
            if [word for word, _ in words] == [text]:
                return True
        return False

    words = [piece for piece in vocab if piece and piece != prefix]
    single = [piece for piece in words if len(piece.removeprefix(prefix)) == 1]
    barred = {piece for piece in single if piece.startswith(prefix) and not stands_inside(piece[-1])}
    yield "character", [piece for piece in single if piece not in barred]
    yield "spelling", [piece for piece in words if piece not in barred and not spelled(piece)]


_FINDERS: dict[str, Callable[[Source], Found]] = {
    "byte-level BPE": _bytes_level,
    "BPE": _characters,
    "Unigram": _characters,
    "WordPiece": _word_pieces,
}

"""What a tokenizer makes of text, and what of the text it loses, counted by language."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from lilliput.tokenizer.encode import Encoder
from lilliput.tokenizer.source import Source

# UTF-8 bytes of text handed to the engine at once: with a language's share of it this bounds the text in memory.
_BATCH_BYTES = 1_000_000


@dataclass(frozen=True)
class Tally:
    """Counts over some text.

    ids: int64 (vocab_size,), occurrences of each number. bytes: UTF-8. lost: characters behind the unknown token,
    or that give no token at all and are no blanks.
    """

    ids: NDArray[np.int64]
    documents: int = 0
    bytes: int = 0
    characters: int = 0
    lost: int = 0

    @classmethod
    def empty(cls, vocab_size: int) -> Tally:
        """Nothing counted yet."""
        return cls(np.zeros(vocab_size, np.int64))

    def __add__(self, other: Tally) -> Tally:
        return Tally(
            self.ids + other.ids,
            self.documents + other.documents,
            self.bytes + other.bytes,
            self.characters + other.characters,
            self.lost + other.lost,
        )


def tallies(source: Source, documents: Iterable[tuple[str, str]]) -> Iterator[tuple[str, Tally]]:
    """Count (language, text) pairs as they come: yields (language, what a batch of it gave), in bounded memory."""
    encoder, losses = Encoder(source), _Losses(source)
    for language, texts, size in _batches(documents):
        flat, lengths = encoder.encode_flat(texts)
        yield language, Tally(
            np.bincount(flat, minlength=source.vocab_size),
            documents=len(texts),
            bytes=size,
            characters=sum(map(len, texts)),
            lost=losses.count(texts, flat, lengths),
        )


@dataclass
class _Batch:
    texts: list[str] = field(default_factory=list)
    size: int = 0


def _batches(documents: Iterable[tuple[str, str]]) -> Iterator[tuple[str, list[str], int]]:
    """(language, texts, their bytes): when all that wait together reach the batch's size, they go one by one."""
    waiting: dict[str, _Batch] = {}
    size = 0
    for language, text in documents:
        batch = waiting.setdefault(language, _Batch())
        long = len(text.encode())
        batch.texts.append(text)
        batch.size += long
        size += long
        if size >= _BATCH_BYTES:
            yield from ((name, batch.texts, batch.size) for name, batch in waiting.items())
            waiting, size = {}, 0
    yield from ((name, batch.texts, batch.size) for name, batch in waiting.items())


class _Losses:
    """Counts the characters that a tokenizer's numbers do not stand for."""

    def __init__(self, source: Source) -> None:
        self._backend = source.backend()
        self._unknown = _unknown_id(source)
        self._drops: dict[str, bool] = {}

    def count(self, texts: Sequence[str], flat: NDArray[np.int64], lengths: NDArray[np.int64]) -> int:
        """texts with their numbers, one after the other in `flat`, `lengths` (texts,) of them each."""
        met: Counter[str] = Counter()
        for text in texts:
            met.update(text)
        lost = 0
        if self._unknown is not None:
            ends = np.cumsum(lengths)
            for at in np.unique(np.searchsorted(ends, np.flatnonzero(flat == self._unknown), side="right")).tolist():
                behind = self._behind_unknown(texts[at])
                lost += len(behind)
                met.subtract(behind)
        return lost + sum(number for character, number in met.items() if number and self._dropped(character))

    def _behind_unknown(self, text: str) -> str:
        """The characters of a text that unknown tokens cover."""
        encoding = self._backend.encode(text, add_special_tokens=False)
        spans = zip(encoding.ids, encoding.offsets, strict=True)
        return "".join(text[start:end] for number, (start, end) in spans if number == self._unknown)

    def _dropped(self, character: str) -> bool:
        found = self._drops.get(character)
        if found is None:
            nothing = not self._backend.encode(character, add_special_tokens=False).ids
            found = self._drops[character] = nothing and not character.isspace()
        return found


def _unknown_id(source: Source) -> int | None:
    """The number of the token that stands for what the tokenizer does not know; None if it has none."""
    model = source.definition["model"]
    if model["type"] == "Unigram":
        found: int | None = model.get("unk_id")
        return found
    return source.pieces.get(model.get("unk_token") or "")

"""What a tokenizer makes of text, and what of the text it loses, counted by language."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain

import numpy as np
from numpy.typing import NDArray

from lilliput.tokenizer.encode import Encoder
from lilliput.tokenizer.source import Source
from lilliput.tokenizer.workers import in_order

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
    """Count (language, text) pairs as they come, by all cores: yields (language, what a batch of it gave).

    Memory: a few batches of text beside the vocabulary.
    """
    encoder, losses = Encoder(source), _Losses(source)

    def count(batch: tuple[str, list[str], int]) -> Tally:
        _, texts, size = batch
        ids, _ = encoder.count(texts)
        return Tally(ids, len(texts), size, sum(map(len, texts)), losses.count(texts, ids))

    for (language, _, _), counted in in_order(count, _batches(documents), encoder.workers):
        yield language, counted


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

    def count(self, texts: Sequence[str], ids: NDArray[np.int64]) -> int:
        """ids: (vocab_size,), how often the texts give each number."""
        met: Counter[str] = Counter()
        for text in texts:
            met.update(text)
        lost = 0
        if self._unknown is not None and ids[self._unknown]:
            behind = Counter(chain.from_iterable(self._behind_unknown(texts)))
            lost = behind.total()
            met -= behind
        return lost + sum(number for character, number in met.items() if self._dropped(character))

    def _behind_unknown(self, texts: Sequence[str]) -> Iterator[str]:
        """The stretches of text that unknown tokens cover."""
        for text, encoding in zip(texts, self._backend.encode_batch(texts, add_special_tokens=False), strict=True):
            for number, (start, end) in zip(encoding.ids, encoding.offsets, strict=True):
                if number == self._unknown:
                    yield text[start:end]

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

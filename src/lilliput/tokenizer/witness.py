"""Which pieces a tokenizer can give, each with a text that proves it.

The proof is an encoding. A piece without a text was searched for in vain, which proves nothing by itself: the
search is bounded (candidates.py). On the tokenizers of real models it leaves 113 of LLaMA-2's 32,000 pieces (bytes
of characters that are pieces, or of no UTF-8), 14 of LLaMA-3's 128,000, 1,692 of Qwen's 151,643 (nearly all are
letters with marks, which its pattern cuts), 14 of GPT-2's 50,257 and 1,335 of BERT's 30,522 (994 are unused ones);
whatever 8 MB of English, Chinese, Hindi and mixed text gave was among the found.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice

from tokenizers import Tokenizer as Backend

from lilliput.tokenizer.candidates import Candidates
from lilliput.tokenizer.source import Source

_BATCH = 8192  # candidates encoded at once
_MOST = 64  # of one piece's candidates tried at once
_READ = 1_000_000  # characters of further texts read at once
_WINDOWS = (8, 64)  # characters left around a piece that a long text gave


def witnesses(source: Source, ids: Iterable[int] | None = None, texts: Iterable[str] = ()) -> dict[int, str]:
    """For each piece that `source` was seen to give, a text whose encoding holds it.

    ids: the numbers asked for (all, if None). texts: where else to look for what no made-up text gave.
    Encoding is `source.backend()`'s without special tokens, to which their names in a text are plain text.
    """
    wanted = source.pieces.values() if ids is None else ids
    backend = source.backend()
    search = _Search(backend, wanted)
    candidates = Candidates(source, backend)
    waiting: list[tuple[int, Iterator[str]]] = [(number, candidates.of(number)) for number in sorted(search.open)]
    size = 1
    while waiting:
        waiting = search.advance(waiting, size)
        size = min(2 * size, _MOST)
    search.read(texts)
    return dict(sorted(search.found.items()))


class _Search:
    """open: numbers still sought. found: number → text."""

    def __init__(self, backend: Backend, wanted: Iterable[int]) -> None:
        self._backend = backend
        self.open: set[int] = set(wanted)
        self.found: dict[int, str] = {}

    def advance(self, waiting: list[tuple[int, Iterator[str]]], size: int) -> list[tuple[int, Iterator[str]]]:
        """Try `size` more texts for each number; those that may go on."""
        going: list[tuple[int, Iterator[str]]] = []
        batch: list[tuple[int, str]] = []
        for number, tries in waiting:
            if number not in self.open:
                continue
            texts = list(islice(tries, size))
            batch += [(number, text) for text in texts]
            if len(texts) == size:
                going.append((number, tries))
            if len(batch) >= _BATCH:
                self._try(batch)
                batch = []
        self._try(batch)
        return [(number, tries) for number, tries in going if number in self.open]

    def _try(self, batch: list[tuple[int, str]]) -> None:
        """A text made for a piece goes before one that happens to hold it."""
        encoded = self._encode([text for _, text in batch])
        for (number, text), ids in zip(batch, encoded, strict=True):
            if number in self.open and number in ids:
                self._settle(number, text)
        for (_, text), ids in zip(batch, encoded, strict=True):
            for number in self.open.intersection(ids):
                self._settle(number, text)

    def read(self, texts: Iterable[str]) -> None:
        """Look for what is still open in whole documents."""
        group: list[str] = []
        size = 0
        for text in texts:
            if not self.open:
                return
            group.append(text)
            size += len(text)
            if size >= _READ:
                self._read(group)
                group, size = [], 0
        self._read(group)

    def _read(self, group: list[str]) -> None:
        for text, ids in zip(group, self._encode(group), strict=True):
            if here := self.open.intersection(ids):
                self._shorten(text, here)

    def _shorten(self, text: str, here: set[int]) -> None:
        """Settle the numbers `here` by parts of the text, where these are enough."""
        encoding = self._backend.encode(text, add_special_tokens=False)
        for number, (start, end) in zip(encoding.ids, encoding.offsets, strict=True):
            if number not in here:
                continue
            here.discard(number)
            parts = [text[max(0, start - width) : end + width] for width in _WINDOWS]
            holding = (part for part, ids in zip(parts, self._encode(parts), strict=True) if number in ids)
            self._settle(number, next(holding, text))

    def _settle(self, number: int, text: str) -> None:
        self.found[number] = text
        self.open.discard(number)

    def _encode(self, texts: list[str]) -> list[list[int]]:
        return [part.ids for part in self._backend.encode_batch_fast(texts, add_special_tokens=False)]

"""Text to numbers as fast as the installed engines allow, with the numbers that `tokenizers` gives.

`tokenizers` can do every definition. `tiktoken` does byte-level byte-pair encoding about three times as fast on a
thread (English and Chinese text, the vocabularies of GPT-2, LLaMA-3 and Qwen: `bench/count_speed.py`), so it is
used where equal numbers are proved (`ranked`) and there is enough text to make up for its preparation. Of
SentencePiece's kind of it, words that repeat are encoded once (`words`), and counting leaves out what need not be
merged (`lone`). All ways give the same numbers; none is chosen by a clock.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer as Backend

from lilliput.device import threads
from lilliput.errors import TokenizerError
from lilliput.tokenizer.lone import Lone, lone
from lilliput.tokenizer.ranked import Flat, Ranked, ranked
from lilliput.tokenizer.regular import ends_words, pattern_of, unsettled
from lilliput.tokenizer.source import Source
from lilliput.tokenizer.words import Words, words

# Characters one thread encodes at once. `tokenizers` needs about a hundred bytes a token meanwhile.
_BATCH = 1_000_000
# Longer texts are cut where that changes nothing: for the memory of one, and so that all cores share it.
_LONG = 64_000
# A letter or digit, before a sign at which every word ends that holds one.
_SAFE_CUT = re.compile(r"([^\W_])(?=[ \n,.，。、：；！？])")
# Characters after which preparing `tiktoken` has paid: at least, and for each piece of the vocabulary.
_WORTH, _WORTH_A_PIECE = 2_000_000, 40


class Encoder:
    """Encodes many texts: without special tokens, their names in text as plain text, on all cores.

    source: the definition. backend: its `source.backend()`, where there is one already. prepare: make the faster
    engine ready at once. workers: how many threads may call `count` or `encode_flat` at the same time to keep the
    cores busy. vocab_size: one more than the source's highest number.
    """

    def __init__(self, source: Source, backend: Backend | None = None, *, prepare: bool = False) -> None:
        self._source, self.vocab_size = source, source.vocab_size
        self._backend = backend or source.backend()
        self._cuttable = _is_cuttable(source.definition)
        self._ranked: Ranked | None = None
        self._lone: Lone | None = None
        self._words: Words | None = None
        # Characters until the faster engine is prepared; None when that has been tried.
        self._wait: int | None = 0 if prepare else max(_WORTH, _WORTH_A_PIECE * len(source.pieces))
        self._lock = threading.Lock()
        # `tokenizers` spreads each call over the cores itself. A second one at the same time keeps them busy while
        # the first one's numbers are taken out; more would only take memory.
        self._two = threading.Semaphore(2)
        self.workers = max(2, threads())
        if prepare:
            self._prepare(0)

    @property
    def engine(self) -> str:
        """The engine now at work: `tokenizers` or `tiktoken`."""
        return "tiktoken" if self._ranked else "tokenizers"

    @cached_property
    def tokenizer(self) -> str:
        """The source's `hash`: a big definition takes a moment to hash, so it is done once."""
        return self._source.hash

    def encode_flat(self, texts: Sequence[str]) -> Flat:
        """(the numbers of all texts, one after the other; how many each has), by this thread.

        Raises TokenizerError for lone surrogates.
        """
        lengths = np.zeros(len(texts), np.int64)
        found = [np.zeros(0, np.int64)]
        for group in _groups(self._parts(texts)):
            ids, sizes = self._encode([part for _, part in group])
            np.add.at(lengths, [at for at, _ in group], sizes)
            found.append(ids)
        return np.concatenate(found), lengths

    def count(self, texts: Sequence[str]) -> Flat:
        """(how often each number occurs, int64 (vocab_size,); how many numbers each text has), by this thread.

        Raises TokenizerError for lone surrogates.
        """
        if max(map(len, texts), default=0) <= _LONG and sum(map(len, texts)) <= _BATCH:
            return self._count(list(texts))
        lengths = np.zeros(len(texts), np.int64)
        totals = np.zeros(self.vocab_size, np.int64)
        for group in _groups(self._parts(texts)):
            counts, sizes = self._count([part for _, part in group])
            np.add.at(lengths, [at for at, _ in group], sizes)
            totals += counts
        return totals, lengths

    def encode_arrays(self, texts: Sequence[str]) -> list[NDArray[np.int64]]:
        """The numbers of each text, by all cores, in bounded memory beside them. Raises as `encode_flat`."""
        total = sum(map(len, texts))
        if total <= _LONG:
            return list(_split(self.encode_flat(texts)))
        # `tokenizers` shares a group among the cores, `tiktoken` gives each core some groups.
        size = _BATCH if self._ranked is None else min(_BATCH, max(_LONG, total // (2 * self.workers)))
        groups = list(_groups(self._parts(texts), size))
        lengths = np.zeros(len(texts), np.int64)
        found = []
        with ThreadPoolExecutor(self.workers) as pool:
            encoded = pool.map(self._encode, [[part for _, part in group] for group in groups])
            for group, (ids, sizes) in zip(groups, encoded, strict=True):
                np.add.at(lengths, [at for at, _ in group], sizes)
                found.append(ids)
        return list(_split((np.concatenate(found), lengths)))

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """`encode_arrays` as lists, for callers that take numbers one by one."""
        return [ids.tolist() for ids in self.encode_arrays(texts)]

    def _parts(self, texts: Iterable[str]) -> Iterator[tuple[int, str]]:
        """(number of the text, a part of it): its parts encode to what the whole does."""
        for at, text in enumerate(texts):
            start = 0
            while self._cuttable and len(text) - start > _LONG:
                # A letter that is none to another version of Unicode may stand in a word with signs.
                cuts = (cut for cut in _SAFE_CUT.finditer(text, start + _LONG) if not unsettled(cut[0]))
                cut = next(cuts, None)
                if cut is None:
                    break
                yield at, text[start : cut.end()]
                start = cut.end()
            yield at, text[start:] if start else text

    def _encode(self, texts: list[str]) -> Flat:
        """The numbers of texts that are encoded at once."""
        self._prepare(sum(map(len, texts)))
        fast = self._ranked or self._words
        if fast is None:
            return self._by_backend(texts)
        taken = [fast.takes(text) for text in texts]
        if all(taken):
            return fast.encode(texts) or self._by_backend(texts)
        easy = [text for text, take in zip(texts, taken, strict=True) if take]
        hard = [text for text, take in zip(texts, taken, strict=True) if not take]
        two = (_split(self._by_backend(hard)), _split(fast.encode(easy) or self._by_backend(easy)))
        parts = [next(two[take]) for take in taken]
        return np.concatenate(parts), np.fromiter(map(len, parts), np.int64, len(parts))

    def _count(self, texts: list[str]) -> Flat:
        """`count` of texts that are encoded at once."""
        self._prepare(sum(map(len, texts)))
        fast = self._ranked or self._lone or self._words
        taken = np.array([fast is not None and fast.takes(text) for text in texts], bool)
        easy = [text for text, take in zip(texts, taken, strict=True) if take]
        found = fast.count(easy, self.vocab_size) if fast and easy else None
        if found is None:
            taken[:] = False
            found = np.zeros(self.vocab_size, np.int64), np.zeros(0, np.int64)
        totals, lengths = found[0], np.zeros(len(texts), np.int64)
        lengths[taken] = found[1]
        if not taken.all():
            ids, lengths[~taken] = self._encode([text for text, take in zip(texts, taken, strict=True) if not take])
            totals += np.bincount(ids, minlength=self.vocab_size)
        return totals, lengths

    def _by_backend(self, texts: list[str]) -> Flat:
        try:
            with self._two:
                encoded = self._backend.encode_batch_fast(texts, add_special_tokens=False)
                parts = [np.array(encoding.ids, np.int64) for encoding in encoded]
        except (TypeError, UnicodeError):
            mend = "replace them, for example text.encode('utf-8', 'replace').decode()"
            raise TokenizerError("the text holds lone surrogates, which are no characters", mend=mend) from None
        return np.concatenate([np.zeros(0, np.int64), *parts]), np.fromiter(map(len, parts), np.int64, len(parts))

    def _prepare(self, size: int) -> None:
        """Make the faster engine ready once there is enough text for it, `size` more characters included."""
        if self._wait is None:
            return
        with self._lock:
            if self._wait is not None:
                self._wait -= size
                if self._wait <= 0:
                    self._ranked = ranked(self._source.definition)
                    self._lone = lone(self._source.definition, self._backend)
                    self._words = words(self._source.definition, self._backend)
                    self._wait = None


def _is_cuttable(definition: dict[str, Any]) -> bool:
    """Whether `_SAFE_CUT` changes nothing: words end there, no normaliser or added token reaches across."""
    pattern = pattern_of(definition)
    # An added token that is not special is found in text, and might lie across a cut.
    added = any(not token["special"] for token in definition.get("added_tokens") or [])
    plain = definition.get("normalizer") in (None, {"type": "NFC"})
    return pattern is not None and ends_words(pattern) and plain and not added


def _split(flat: Flat) -> Iterator[NDArray[np.int64]]:
    """The numbers of each text apart."""
    ids, lengths = flat
    return iter(np.split(ids, np.cumsum(lengths)[:-1]) if len(lengths) else [])


def _groups(parts: Iterable[tuple[int, str]], size: int = _BATCH) -> Iterator[list[tuple[int, str]]]:
    """The parts in groups, of `size` characters or little more, that are encoded at once."""
    group: list[tuple[int, str]] = []
    held = 0
    for part in parts:
        group.append(part)
        held += len(part[1])
        if held >= size:
            yield group
            group, held = [], 0
    if group:
        yield group

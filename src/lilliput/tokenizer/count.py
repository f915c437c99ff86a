"""How often a corpus uses each piece of a tokenizer (PanGu-π Pro §2.1), in shards that can be merged."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from lilliput.corpus.report import ReadReport
from lilliput.corpus.sources import read_bytes, source_identity, source_size
from lilliput.errors import ConfigError, TokenizerError
from lilliput.progress import Progress, count
from lilliput.recipe import SourceSpec
from lilliput.store import write_atomic
from lilliput.tokenizer.encode import Encoder
from lilliput.tokenizer.script import dominant_script
from lilliput.tokenizer.source import Source

FORMAT = "lilliput token counts 1"
# Text handed to a worker at once. A few batches are under way, so this bounds the text in memory.
_BATCH_BYTES = 1_000_000


@dataclass(frozen=True)
class Group:
    """What was counted in one language. bytes: of text, in UTF-8."""

    documents: int
    bytes: int
    tokens: int

    def __add__(self, other: Group) -> Group:
        return Group(self.documents + other.documents, self.bytes + other.bytes, self.tokens + other.tokens)


@dataclass(frozen=True)
class Counts:
    """How often each number of a tokenizer occurs in a corpus.

    ids: int64 (vocab_size,), occurrences of each number. groups: the totals by language. tokenizer: the `hash` of
    the Source. corpus: what was counted, each entry `{"sources": identities, "shards": [[i, n], …]}`.
    """

    ids: NDArray[np.int64]
    groups: dict[str, Group]
    tokenizer: str
    corpus: list[dict[str, Any]] = field(default_factory=list)

    @property
    def vocab_size(self) -> int:
        """One more than the tokenizer's highest number."""
        return len(self.ids)

    @property
    def documents(self) -> int:
        """Documents counted."""
        return sum(group.documents for group in self.groups.values())

    @property
    def bytes(self) -> int:
        """UTF-8 bytes of text counted."""
        return sum(group.bytes for group in self.groups.values())

    @property
    def tokens(self) -> int:
        """Tokens counted."""
        return sum(group.tokens for group in self.groups.values())

    @property
    def shards(self) -> list[list[int]]:
        """Which shards [i, n] of the corpus these counts cover."""
        return [shard for entry in self.corpus for shard in entry["shards"]]

    def to_dict(self) -> dict[str, Any]:
        """As it is saved."""
        return {
            "format": FORMAT,
            "tokenizer": self.tokenizer,
            "vocab_size": self.vocab_size,
            "documents": self.documents,
            "bytes": self.bytes,
            "tokens": self.tokens,
            "groups": {name: vars(group) for name, group in self.groups.items()},
            "corpus": self.corpus,
            "ids": self.ids.tolist(),
        }

    def save(self, path: Path | str, extra: dict[str, Any] | None = None) -> None:
        """Write one JSON file, atomically. extra: more to put into it, which `load` leaves aside."""
        write_atomic(path, json.dumps({**self.to_dict(), **(extra or {})}, ensure_ascii=False) + "\n")

    @classmethod
    def load(cls, path: Path | str) -> Counts:
        """What `save` wrote. Raises TokenizerError if the file holds no counts."""
        mend = "name a file that `lilliput tokenizer count --out` wrote"
        try:
            held = json.loads(Path(path).read_text(encoding="utf-8"))
            if held["format"] != FORMAT:
                raise ValueError(f"its format is {str(held['format'])[:40]!r}, not {FORMAT!r}")
            groups = {str(name): Group(**group) for name, group in held["groups"].items()}
            found = cls(np.array(held["ids"], np.int64), groups, str(held["tokenizer"]), list(held["corpus"]))
            if found.ids.ndim != 1 or found.vocab_size != held["vocab_size"] or int(found.ids.sum()) != found.tokens:
                raise ValueError("the counts do not add up")
        except (ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
            reason = f"no token counts: {type(error).__name__ if isinstance(error, KeyError) else ''} {error}"
            raise TokenizerError(" ".join(reason.split())[:200], where=str(path), mend=mend) from None
        return found


def count_corpus(
    source: Source,
    specs: Sequence[SourceSpec],
    labels: Sequence[str | None] | None = None,
    *,
    shard: tuple[int, int] = (1, 1),
    encoder: Encoder | None = None,
) -> Counts:
    """The counts of `source` over a corpus: its documents as training sees them (duplicates included).

    labels: the language of each source's documents, or None where the script tells. shard (i, n): only the
    documents i, i + n, i + 2n, … of the corpus; all are read, those of the shard are encoded, and the shards of
    a corpus merge into exactly the counts of the whole. encoder: the source's, where there is one already.
    Memory: some batches of text, and the vocabulary.
    Raises CorpusError where a source holds no text, ConfigError for an impossible shard.
    """
    i, n = shard
    if not 1 <= i <= n:
        raise ConfigError(f"there is no shard {i} of {n}", where="shard", mend=f"1/{max(n, 1)} is the first")
    labels = labels or [None] * len(specs)
    identities = [source_identity(spec) for spec in specs]
    report = ReadReport()
    sizes = [source_size(spec) for spec in specs]
    total = sum(size for size in sizes if size is not None) if None not in sizes else None
    with Progress("counting tokens", total, "B") as progress:
        reader = _documents(specs, labels, shard, report)
        tally = _Tally(source.vocab_size)
        for _ in tally.run(encoder or Encoder(source), reader):
            progress.update(report.bytes if total is None else report.position, tokens=count(tally.tokens))
    report.warn()
    return Counts(tally.ids, tally.groups(), source.hash, [{"sources": identities, "shards": [[i, n]]}])


def count_texts(source: Source, texts: Iterable[tuple[str, str]]) -> Counts:
    """The counts of `source` over (language, text) pairs, streamed."""
    tally = _Tally(source.vocab_size)
    for _ in tally.run(Encoder(source), (_Document(label, text, len(text.encode())) for label, text in texts)):
        pass
    return Counts(tally.ids, tally.groups(), source.hash)


def curve(ids: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """The accumulated-frequency curve of Fig. 2: (k = 1 … pieces, cov(k)), where cov(k) is the share of all tokens
    that the k most frequent pieces make up. Both of the vocabulary's length; no tokens give zeros."""
    total = int(ids.sum())
    shares = np.cumsum(np.sort(ids)[::-1]) / max(total, 1)
    return np.arange(1, len(ids) + 1), shares


def coverage(ids: NDArray[np.int64], k: int) -> float:
    """cov(k) = Σ_{i≤k} c_(i) / Σ c: the share of all tokens that the k most frequent pieces make up."""
    _, shares = curve(ids)
    return float(shares[min(k, len(shares)) - 1]) if k > 0 and len(shares) else 0.0


class _Document(NamedTuple):
    label: str
    text: str
    size: int


def _documents(
    specs: Sequence[SourceSpec], labels: Sequence[str | None], shard: tuple[int, int], report: ReadReport
) -> Iterator[_Document]:
    """The shard's documents with their language."""
    number = 0
    for spec, label in zip(specs, labels, strict=True):
        for raw in read_bytes(spec, report):
            if number % shard[1] == shard[0] - 1:
                text = raw.decode()
                yield _Document(label or dominant_script(text), text, len(raw))
            number += 1


class _Tally:
    """Adds up batches of documents that are encoded by a few threads while the next ones are read."""

    def __init__(self, vocab_size: int) -> None:
        self.ids = np.zeros(vocab_size, np.int64)
        self.tokens = 0
        self._groups: dict[str, list[int]] = {}

    def groups(self) -> dict[str, Group]:
        """The totals by language, in alphabetic order."""
        return {name: Group(*self._groups[name]) for name in sorted(self._groups)}

    def run(self, encoder: Encoder, documents: Iterable[_Document]) -> Iterator[None]:
        """Count all documents; yields after each batch."""
        waiting: deque[Future[tuple[NDArray[np.int64], list[tuple[str, int, int, int]]]]] = deque()
        with ThreadPoolExecutor(encoder.workers) as pool:
            for batch in _batches(documents):
                waiting.append(pool.submit(_count, encoder, batch, len(self.ids)))
                if len(waiting) > encoder.workers:
                    self._add(waiting.popleft().result())
                    yield
            while waiting:
                self._add(waiting.popleft().result())
                yield

    def _add(self, found: tuple[NDArray[np.int64], list[tuple[str, int, int, int]]]) -> None:
        ids, groups = found
        self.ids += ids
        for name, *totals in groups:
            self._groups[name] = [a + b for a, b in zip(self._groups.get(name, [0, 0, 0]), totals, strict=True)]
            self.tokens += totals[2]


def _batches(documents: Iterable[_Document]) -> Iterator[list[_Document]]:
    batch: list[_Document] = []
    size = 0
    for document in documents:
        batch.append(document)
        size += document.size
        if size >= _BATCH_BYTES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _count(
    encoder: Encoder, batch: list[_Document], vocab_size: int
) -> tuple[NDArray[np.int64], list[tuple[str, int, int, int]]]:
    """(occurrences of each number, (language, documents, bytes, tokens) of each language in the batch)."""
    ids, lengths = encoder.encode_flat([document.text for document in batch])
    groups: dict[str, list[int]] = {}
    for document, length in zip(batch, lengths.tolist(), strict=True):
        found = groups.setdefault(document.label, [0, 0, 0])
        found[0] += 1
        found[1] += document.size
        found[2] += length
    return np.bincount(ids, minlength=vocab_size), [(name, *found) for name, found in groups.items()]  # type: ignore[misc]

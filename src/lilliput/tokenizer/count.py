"""How often a corpus uses each piece of a tokenizer (PanGu-π Pro §2.1), in shards that can be merged."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from lilliput.corpus.report import ReadReport
from lilliput.corpus.sources import read_bytes, source_identity, source_size
from lilliput.errors import ConfigError
from lilliput.progress import Progress, count
from lilliput.recipe import SourceSpec
from lilliput.tokenizer.counts import Counts, Group
from lilliput.tokenizer.encode import Encoder
from lilliput.tokenizer.ranked import Flat
from lilliput.tokenizer.script import dominant_script
from lilliput.tokenizer.source import Source
from lilliput.tokenizer.workers import in_order

# Text handed to a worker at once. A few batches are under way, so this bounds the text in memory.
_BATCH_BYTES = 500_000


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
    encoder = encoder or Encoder(source)
    report = ReadReport()
    sizes = [source_size(spec) for spec in specs]
    total = sum(size for size in sizes if size is not None) if None not in sizes else None
    with Progress("counting tokens", total, "B") as progress:
        reader = _documents(specs, labels, shard, report)
        tally = _Tally(encoder)
        for _ in tally.run(reader):
            progress.update(report.bytes if total is None else report.position, tokens=count(tally.tokens))
    report.warn()
    return Counts(tally.ids, tally.groups(), encoder.tokenizer, [{"sources": identities, "shards": [[i, n]]}])


def count_texts(source: Source, texts: Iterable[tuple[str, str]]) -> Counts:
    """The counts of `source` over (language, text) pairs, streamed."""
    encoder = Encoder(source)
    tally = _Tally(encoder)
    for _ in tally.run(_Document(label, text, len(text.encode())) for label, text in texts):
        pass
    return Counts(tally.ids, tally.groups(), encoder.tokenizer)


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

    def __init__(self, encoder: Encoder) -> None:
        self._encoder = encoder
        self.ids = np.zeros(encoder.vocab_size, np.int64)
        self.tokens = 0
        self._groups: dict[str, list[int]] = {}

    def groups(self) -> dict[str, Group]:
        """The totals by language, in alphabetic order."""
        return {name: Group(*self._groups[name]) for name in sorted(self._groups)}

    def run(self, documents: Iterable[_Document]) -> Iterator[None]:
        """Count all documents; yields after each batch."""
        for batch, (ids, lengths) in in_order(self._count, _batches(documents), self._encoder.workers):
            self.ids += ids
            self.tokens += int(lengths.sum())
            for document, length in zip(batch, lengths.tolist(), strict=True):
                found = self._groups.setdefault(document.label, [0, 0, 0])
                found[0] += 1
                found[1] += document.size
                found[2] += length
            yield

    def _count(self, batch: list[_Document]) -> Flat:
        return self._encoder.count([document.text for document in batch])


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

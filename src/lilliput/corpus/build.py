"""From sources to documents on disk: read, drop duplicates, hold out, write. One pass, in bounded memory."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from lilliput.corpus.divide import best_cut
from lilliput.corpus.documents import DocumentsWriter
from lilliput.corpus.report import ReadReport
from lilliput.corpus.sources import read_bytes, source_size
from lilliput.corpus.split import HELD_OUT, Fingerprint, Seen, fingerprint
from lilliput.errors import CorpusError
from lilliput.progress import Progress
from lilliput.recipe import SourceSpec

_MOST_SOURCES = 1 << 16
# Bytes under which a single document is not worth cutting in two.
_SHORTEST = 64


def build_corpus(specs: Sequence[SourceSpec], out: Path) -> dict[str, Any]:
    """Read the sources and write the splits `train` and `dev` into the folder `out` (see `Documents`).

    Exact duplicates are dropped across splits and sources. A document is held out if its hash lies in the
    lowest 2 % of the hash space, so it stays where it is when others are added; the one with the smallest
    hash always is, and of a single document the end. Returns the counts. Raises CorpusError.
    """
    if len(specs) > _MOST_SOURCES:
        raise CorpusError(f"more than {_MOST_SOURCES} sources", where="corpus", mend="name folders or globs")
    report, seen = ReadReport(), Seen()
    per_source = []
    sizes = [source_size(spec) for spec in specs]
    total = sum(size for size in sizes if size is not None) if None not in sizes else None
    with DocumentsWriter(out, "train") as train, DocumentsWriter(out, "dev") as dev:
        split = _Split(train, dev)
        with Progress("reading text", total, "B") as progress:
            for number, spec in enumerate(specs):
                before = report.documents, report.bytes
                for document in read_bytes(spec, report):
                    mark = fingerprint(document)
                    if seen.add(mark.identity):
                        split.add(document, mark, number)
                    else:
                        report.note("duplicates", spec.source, size=len(document))
                    progress.update(report.bytes if total is None else report.position)
                documents, size = report.documents - before[0], report.bytes - before[1]
                per_source.append({"source": spec.source, "documents": documents, "bytes": size})
        split.finish()
        found = {
            "documents": {"train": len(train), "dev": len(dev)},
            "bytes": {"train": train.total_bytes, "dev": dev.total_bytes},
        }
    report.warn()
    return {**found, "sources": per_source, "read": report.to_dict()}


class _Kept(NamedTuple):
    hash: int
    text: bytes
    source: int


class _Split:
    """Sends documents to their split, and keeps back what is needed so that neither ends up empty:
    while nothing is held out, the document with the smallest hash so far (it is the one to hold out if no
    other comes); while all are held out, all of them (of n documents that happens once in 50ⁿ times)."""

    def __init__(self, train: DocumentsWriter, dev: DocumentsWriter) -> None:
        self._train, self._dev = train, dev
        self._smallest: _Kept | None = None
        self._early: list[_Kept] = []

    def add(self, document: bytes, mark: Fingerprint, source: int) -> None:
        new = _Kept(mark.split, document, source)
        if mark.held_out:
            if self._smallest is None and not len(self._train):
                self._early.append(new)
                return
            self._dev.add(document, source)
            self._release()
            return
        for early in self._early:
            self._dev.add(early.text, early.source)
        self._early = []
        if len(self._dev) or (self._smallest and self._smallest.hash < mark.split):
            self._train.add(document, source)
        else:
            self._release()
            self._smallest = new

    def _release(self) -> None:
        if self._smallest:
            self._train.add(self._smallest.text, self._smallest.source)
            self._smallest = None

    def finish(self) -> None:
        """Place what was kept back. Raises CorpusError if there is too little text for two splits."""
        kept = sorted(self._early + ([self._smallest] if self._smallest else []))
        if not kept:
            return
        if len(kept) == 1 and not len(self._train):
            self._cut(kept[0])
            return
        if not len(self._train):
            last = kept.pop()
            self._train.add(last.text, last.source)
        for each in kept:
            self._dev.add(each.text, each.source)

    def _cut(self, only: _Kept) -> None:
        """Hold out the end of the only document."""
        size = len(only.text)
        if size < _SHORTEST:
            mend = "name more text"
            reason = f"the whole corpus is one document of {size} bytes: too little to hold some out"
            raise CorpusError(reason, where="corpus", mend=mend)
        share = max(_SHORTEST // 4, int(size * HELD_OUT))
        at = best_cut(only.text, size - 2 * share, size - share)
        self._train.add(only.text[:at], only.source)
        self._dev.add(only.text[at:], only.source)

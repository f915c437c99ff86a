"""The text a tokenizer is trained on: a bounded share of the corpus, spread evenly over it.

The trainer keeps every distinct run of letters in memory, over a hundred bytes for each byte of it. In languages
that write without spaces nearly every run is distinct, so the sample is bounded by those too, and no run is
longer than `LONGEST_RUN`: such a run would cost without teaching (tokenizers issue 1345 reports 150 GB).
"""

from __future__ import annotations

import heapq
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from lilliput.corpus.divide import divide
from lilliput.corpus.documents import Documents
from lilliput.corpus.split import fingerprint
from lilliput.progress import Progress

SAMPLE_BYTES = 32_000_000
DISTINCT_BYTES = 5_000_000
LONGEST_RUN = 64
_FRAGMENT = 16_000
_RUN = re.compile(r"\w+|[^\w\s]+")
_LONG_RUN = re.compile("|".join(rf"{kind}{{{LONGEST_RUN}}}(?={kind})" for kind in (r"\w", r"[^\w\s]", r"\s")))


@dataclass(frozen=True)
class Sample:
    """fragments: of documents, in order of their hash. bytes: their size. corpus_bytes: what they are from.
    distinct_bytes: size of the distinct runs in them."""

    fragments: list[bytes]
    bytes: int
    corpus_bytes: int
    distinct_bytes: int


def draw(documents: Documents | Iterable[str], limit: int, distinct: int) -> Sample:
    """The fragments (up to 16 kB) with the smallest hashes, up to `limit` bytes and `distinct` bytes of
    distinct runs. The same documents give the same sample in any order. Memory: `limit`, once."""
    raw = documents.iterate_raw() if isinstance(documents, Documents) else (text.encode() for text in documents)
    total = documents.total_bytes if isinstance(documents, Documents) else None
    kept: list[tuple[int, bytes]] = []  # a heap, the largest hash on top
    size = seen = 0
    ceiling = 1 << 64  # nothing from here on is taken again, or the order of the documents would matter
    with Progress("sampling text for the tokenizer", total, "B") as progress:
        for document in raw:
            for fragment in divide(document, _FRAGMENT):
                pick = fingerprint(fragment).pick
                if pick >= ceiling:
                    continue
                heapq.heappush(kept, (-pick, fragment))
                size += len(fragment)
                while size > limit and len(kept) > 1:
                    largest, dropped = heapq.heappop(kept)
                    ceiling = -largest
                    size -= len(dropped)
            seen += len(document)
            progress.update(seen)
    fragments = [fragment for _, fragment in sorted(kept, reverse=True)]
    used, runs = _within(fragments, distinct)
    return Sample(fragments[:used], sum(map(len, fragments[:used])), seen, runs)


def _within(fragments: list[bytes], distinct: int) -> tuple[int, int]:
    """(how many of the first fragments stay within `distinct` bytes of distinct runs, those bytes)."""
    runs: set[str] = set()
    size = 0
    for at, fragment in enumerate(fragments):
        text = fragment.decode()
        new = set(_RUN.findall(text)) - runs
        # One more byte for the blank that the trainer keeps before most runs.
        size += sum(map(len, map(str.encode, new))) + len(new)
        if size > distinct and at:
            return at, size
        runs |= new
    return len(fragments), size


def short_runs(text: str) -> Iterator[str]:
    """The text in parts, so that no run of letters, signs or blanks is longer than `LONGEST_RUN`."""
    start = 0
    for run in _LONG_RUN.finditer(text):
        yield text[start : run.end()]
        start = run.end()
    yield text[start:]

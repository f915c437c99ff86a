"""How much of a task's vocabulary a body of text covers, and subsets of it that cover more or less at one size.

Overlap of types: |V_pre ∩ V_task| / |V_task|. Weighted by how often the task uses each: Σ_{t ∈ V_pre} c(t) / Σ c(t), c
counted in the task (both of the TLM paper). Types are lower-cased words unless a tokenizer is given: of a small
vocabulary nearly every piece occurs in nearly every text, so pieces tell little.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from lilliput.corpus.files import find_files
from lilliput.corpus.report import ReadReport
from lilliput.corpus.sources import read_source
from lilliput.corpus.split import fingerprint
from lilliput.errors import ConfigError
from lilliput.progress import Progress
from lilliput.recipe import SourceSpec
from lilliput.store import atomic_dir, check_replaceable

Types = Callable[[str], list[str] | list[int]]
_WORD = re.compile(r"\w+|[^\w\s]")


def words(text: str) -> list[str]:
    """Lower-cased words and signs."""
    return _WORD.findall(text.lower())


@dataclass(frozen=True)
class Overlap:
    """types, weighted: the two overlaps, 0 … 1. documents, bytes: of the text."""

    types: float
    weighted: float
    documents: int
    bytes: int

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return dict(vars(self))


def task_counts(texts: Iterable[str], types: Types = words) -> Counter[Any]:
    """How often each type occurs in a task's texts."""
    counts: Counter[Any] = Counter()
    for text in texts:
        counts.update(types(text))
    return counts


def overlap(documents: Iterable[str], task: Counter[Any], types: Types = words) -> Overlap:
    """The overlap of `documents` with a task's types (`task_counts`). Raises ConfigError for a task without any."""
    if not task:
        raise ConfigError("the task's texts hold no word", where="task", mend="give rows with text")
    met: set[Any] = set()
    number = size = 0
    for text in documents:
        met.update(task.keys() & set(types(text)))
        number += 1
        size += len(text.encode())
    return Overlap(len(met) / len(task), sum(task[one] for one in met) / task.total(), number, size)


def subsets(
    specs: Sequence[SourceSpec], task: Counter[Any], out: Path, parts: int, size: int | None, types: Types = words
) -> list[dict[str, Any]]:
    """Divide the documents at the quantiles of their own overlap (share of a document's types that the task has) into
    `parts`, lowest first, and write of each the same amount of text: `out/part-1.jsonl` …

    size: bytes of each subset; None for what the smallest part has. Which documents of a part are taken follows from
    their hashes, so it is the same everywhere and has nothing to do with overlap. The folder is written whole or not at
    all. Returns for each its file and its overlap as a whole. Raises ConfigError where there are fewer documents than
    parts or less text than asked, and where `out` holds other files, or the sources.
    """
    check_replaceable(out, ("part-*.jsonl",), set())
    _check_apart(specs, out)
    scores, sizes, marks = _measure(specs, task, types)
    if len(scores) < parts:
        mend = f"fewer parts, or sources with more documents than {len(scores)}"
        raise ConfigError(f"{len(scores)} documents make no {parts} parts", where="--parts", mend=mend)
    # Of equal scores the hash decides, so that parts are of one number of documents.
    order = np.lexsort((marks, scores))
    groups = np.array_split(order, parts)
    room = min(int(sizes[group].sum()) for group in groups)
    if size is not None and size > room:
        mend = f"--size {room}, or fewer parts"
        raise ConfigError(f"the smallest part has {room:,} bytes, fewer than {size:,}", where="--size", mend=mend)
    part_of = np.full(len(scores), -1)
    for number, group in enumerate(groups):
        drawn = group[np.argsort(marks[group], kind="stable")]
        # Every document that still begins within the size: the excess is at most one document.
        before = np.cumsum(sizes[drawn]) - sizes[drawn]
        part_of[drawn[before < (size or room)]] = number
    return _write(specs, task, out, parts, part_of, scores, types)


def _check_apart(specs: Sequence[SourceSpec], out: Path) -> None:
    """Refuse to write the subsets over what they are made of."""
    for spec in specs:
        if spec.source.startswith(("builtin:", "hf:")):
            continue
        for file in find_files(spec.source, ReadReport()):
            if file.path.resolve().is_relative_to(out.resolve()):
                mend = "give another --out, or other sources"
                raise ConfigError("the folder of the subsets holds the text itself", where=str(out), mend=mend)


def _measure(
    specs: Sequence[SourceSpec], task: Counter[Any], types: Types
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Each document's own overlap, bytes and hash; 24 bytes a document."""
    report, scores, sizes, marks = ReadReport(), [], [], []
    with Progress("measuring overlap", None, "documents") as progress:
        for spec in specs:
            for text in read_source(spec, report):
                own, raw = set(types(text)), text.encode()
                scores.append(len(own & task.keys()) / max(1, len(own)))
                sizes.append(len(raw))
                marks.append(fingerprint(raw).pick)
                progress.update(len(scores))
    report.warn()
    return np.array(scores), np.array(sizes, np.int64), np.array(marks, np.uint64)


def _write(
    specs: Sequence[SourceSpec],
    task: Counter[Any],
    out: Path,
    parts: int,
    part_of: np.ndarray,
    scores: np.ndarray,
    types: Types,
) -> list[dict[str, Any]]:
    files = [out / f"part-{number + 1}.jsonl" for number in range(parts)]
    met: list[set[Any]] = [set() for _ in files]
    counts, sizes = [0] * parts, [0] * parts
    # A hidden folder until all is there: where `out` lies among the sources, it is not read meanwhile.
    with atomic_dir(out) as folder, ExitStack() as stack:
        opened: list[TextIO] = [
            stack.enter_context(open(folder / file.name, "w", encoding="utf-8")) for file in files
        ]
        at = 0
        for spec in specs:
            for text in read_source(spec, ReadReport()):
                part = int(part_of[at])
                at += 1
                if part >= 0:
                    opened[part].write(json.dumps({"text": text}, ensure_ascii=False) + "\n")
                    met[part] |= task.keys() & set(types(text))
                    counts[part] += 1
                    sizes[part] += len(text.encode())
    found = []
    for number, file in enumerate(files):
        whole = Overlap(
            len(met[number]) / len(task), sum(task[one] for one in met[number]) / task.total(), counts[number],
            sizes[number],
        )  # fmt: skip
        own = scores[part_of == number]
        found.append({"file": str(file.absolute()), **whole.to_dict(), "of_a_document": float(own.mean())})
    return found

"""Counts of a tokenizer's pieces over a corpus: kept in one file, merged, and read as a curve."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lilliput.errors import TokenizerError
from lilliput.store import write_atomic

FORMAT = "lilliput token counts 1"
# Shards are compared by the documents they hold; beyond this many the missing ones are not listed.
_MOST_LISTED = 10_000


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

    @property
    def names(self) -> list[str]:
        """The files, or other sources, that were counted."""
        return [name for entry in self.corpus for name in _names(entry)]

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
            corpus = [_entry(entry["sources"], entry["shards"]) for entry in held["corpus"]]
            found = cls(np.array(held["ids"], np.int64), groups, str(held["tokenizer"]), corpus)
            told = {name: held[name] for name in ("vocab_size", "documents", "bytes", "tokens", "tokenizer")}
            if told != {name: getattr(found, name) for name in told} or int(found.ids.sum()) != found.tokens:
                raise ValueError("the counts do not add up")
        except (ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
            reason = f"no token counts: {type(error).__name__ if isinstance(error, KeyError) else ''} {error}"
            raise TokenizerError(" ".join(reason.split())[:200], where=str(path), mend=mend) from None
        return found


def merge(parts: Sequence[Counts]) -> Counts:
    """The counts of several shards, or corpora, together.

    Shards of one corpus may have different numbers of parts (1/2 and 2/4 share no document). Raises TokenizerError
    where the tokenizers differ, or a document would be counted twice.
    """
    first = parts[0]
    for other in parts[1:]:
        if (other.tokenizer, other.vocab_size) != (first.tokenizer, first.vocab_size):
            reason = f"counts of different tokenizers: {_short(first.tokenizer)} and {_short(other.tokenizer)}"
            raise TokenizerError(reason, where="merge", mend="count all shards with the same tokenizer")
    corpus: list[dict[str, Any]] = []
    for entry in (entry for part in parts for entry in part.corpus):
        _add_entry(corpus, entry)
    groups: dict[str, Group] = {}
    for part in parts:
        for name, group in part.groups.items():
            groups[name] = groups.get(name, Group(0, 0, 0)) + group
    ids = first.ids.copy()
    for part in parts[1:]:
        ids += part.ids
    return Counts(ids, dict(sorted(groups.items())), first.tokenizer, sorted(corpus, key=json.dumps))


def missing(counts: Counts) -> list[list[int]]:
    """The shards [i, n] that the corpora of the counts still lack, each corpus by its finest division."""
    found = []
    for entry in counts.corpus:
        n = math.lcm(*(n for _, n in entry["shards"]))
        if n <= _MOST_LISTED:
            held = {(i - 1 + step) % n for i, part in entry["shards"] for step in range(0, n, part)}
            found += [[rest + 1, n] for rest in range(n) if rest not in held]
    return found


def _add_entry(corpus: list[dict[str, Any]], entry: dict[str, Any]) -> None:
    """Put what one count covers beside what others do. Raises TokenizerError where they overlap."""
    mend = "merge each shard once"
    for known in corpus:
        if known["sources"] == entry["sources"]:
            for i, n in entry["shards"]:
                for j, m in known["shards"]:
                    # Documents i, i + n, … and j, j + m, … meet if i and j leave the same rest by gcd(n, m).
                    if (i - j) % math.gcd(n, m) == 0:
                        same = f"shard {i}/{n} twice" if (i, n) == (j, m) else f"shards {j}/{m} and {i}/{n} overlap"
                        raise TokenizerError(f"{same}: {_named(entry)}", where="merge", mend=mend)
            known["shards"] = sorted([*known["shards"], *entry["shards"]])
            return
        if _texts(known) & _texts(entry):
            reason = f"two different corpora share a source: {_named(entry)}"
            raise TokenizerError(reason, where="merge", mend="count that source in one of them")
    corpus.append(_entry(entry["sources"], entry["shards"]))


def _texts(entry: dict[str, Any]) -> set[str]:
    """What each source of an entry is, a folder's files one by one."""
    files = [json.dumps(file) for source in entry["sources"] for file in source.get("files", [])]
    others = [json.dumps(source, sort_keys=True) for source in entry["sources"] if "files" not in source]
    return {*files, *others}


def _entry(sources: list[dict[str, Any]], shards: list[list[int]]) -> dict[str, Any]:
    """An entry of `corpus`; raises what fits where it is none."""
    if not all(1 <= i <= n for i, n in shards):
        raise ValueError(f"impossible shards: {shards}")
    return {"sources": [dict(one) for one in sources], "shards": sorted([int(i), int(n)] for i, n in shards)}


def _names(entry: dict[str, Any]) -> list[str]:
    """The files of one entry of `corpus`, or how else its sources are called."""
    names = []
    for source in entry["sources"]:
        names += [name for name, _ in source.get("files", [])] or [str(source.get("builtin") or source)]
    return names


def _named(entry: dict[str, Any]) -> str:
    """The sources of a corpus, for messages."""
    names = [name[:60] for name in _names(entry)]
    return ", ".join(names[:3]) + (", …" if len(names) > 3 else "")


def _short(digest: str) -> str:
    return digest[:12]


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

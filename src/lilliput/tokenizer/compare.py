"""Tokenizers side by side on the same text: how short they make it, what of their vocabulary it uses, what they lose.

For choosing between a language's own and a general tokenizer, as Regional TinyStories does for Hindi, Marathi and
Bengali. One tokenizer after another reads the corpus as a stream.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lilliput.corpus.report import ReadReport
from lilliput.corpus.sources import read_bytes, source_size
from lilliput.progress import Progress
from lilliput.recipe import SourceSpec
from lilliput.tokenizer.loss import Tally, tallies
from lilliput.tokenizer.script import dominant_script
from lilliput.tokenizer.source import Source
from lilliput.tokenizer.spelling import BYTE_LEVEL, piece_bytes

# Zouhar et al. 2023 found this order to go best with translation quality.
ALPHA = 2.5
# Shares of all tokens for which the number of pieces is told, in hundredths: exact in integers.
_LEVELS = {"0.9": 90, "0.99": 99}
# Points of a coverage curve that are kept, evenly spread over the logarithm of the size.
_POINTS = 160
# A share of the characters; what loses more of them does not say the same text in its tokens.
_MUCH_LOST = 0.001
# Names of files and folders that say nothing: what holds them names the tokenizer.
_PLAIN = ("tokenizer.json", "tokenizer.model", "vocab.txt", "vocab.json", "merges.txt", "model")


@dataclass(frozen=True)
class Figures:
    """What is known of one tokenizer on some text.

    bytes: UTF-8 bytes of the text. bytes_per_token: None without tokens. pieces_met: different pieces that
    occurred; used: over the vocabulary size. pieces_for: by share of all tokens ("0.9", "0.99"), how many of the
    most frequent pieces make it up. renyi_efficiency: see `renyi_efficiency`; None without tokens. in_bytes:
    share of the characters that no token holds whole, spelled in bytes. unknown: share of the characters that are
    lost behind the unknown token, or dropped though they are no blanks.
    """

    documents: int
    bytes: int
    characters: int
    tokens: int
    bytes_per_token: float | None
    pieces_met: int
    used: float
    pieces_for: dict[str, int]
    renyi_efficiency: float | None
    in_bytes: float
    unknown: float


def compare(
    sources: Sequence[Source],
    specs: Sequence[SourceSpec],
    labels: Sequence[str | None] | None = None,
    *,
    shares: Sequence[Mapping[str, Any] | None] | None = None,
) -> dict[str, Any]:
    """Every tokenizer on the whole corpus and on each of its languages.

    labels: the language of each source's documents, or None where the script tells. shares: embedding and head of
    each tokenizer in a model ({`value`, …}), handed through. Memory: some batches of text and, for each language,
    one count a piece and one a distinct character.
    Returns `corpus` [text], `documents`, `bytes`, `characters`, `tokenizers` [{`name`, `where`, `kind`, `hash`,
    `vocab_size`, `share`, `curve` {`sizes`, `coverage`}, the figures of all text by their names, `languages`
    {NAME: figures}, `notes`}].
    Raises CorpusError where a source holds no text.
    """
    labels = labels or [None] * len(specs)
    names = short_names([source.where for source in sources])
    rows: list[dict[str, Any]] = []
    for number, (name, source) in enumerate(zip(names, sources, strict=True)):
        found = _count(source, specs, labels, name, first=number == 0)
        total = sum(found.values(), Tally.empty(source.vocab_size))
        judge = _Judge(source)
        whole = judge(total)
        notes = list(source.notes)
        if whole.unknown > _MUCH_LOST:
            notes.append(f"{whole.unknown:.1%} of the characters are lost, which flatters its bytes per token")
        rows.append({
            "name": name,
            "where": source.where,
            "kind": source.kind,
            "hash": source.hash,
            "vocab_size": source.vocab_size,
            "share": shares[number] if shares else None,
            "curve": _curve(total.ids),
            **asdict(whole),
            "languages": {language: asdict(judge(found[language])) for language in sorted(found)},
            "notes": notes,
        })  # fmt: skip
    read = {key: rows[0][key] if rows else 0 for key in ("documents", "bytes", "characters")}
    return {"corpus": [spec.source for spec in specs], **read, "tokenizers": rows}


def renyi_efficiency(ids: NDArray[np.int64], alpha: float = ALPHA) -> float | None:
    """Rényi entropy of the pieces' frequencies over its maximum: H_α(p)/log V, H_α(p) = log(Σ p^α)/(1 − α).

    ids: int (V,), occurrences of every piece of the vocabulary, unused ones included. 1 where all are used alike,
    0 where one alone is. None without tokens or with a single piece. Zouhar et al. 2023, "Tokenization and the
    Noiseless Channel" (arXiv 2306.16842), with the vocabulary size as V; its limits: Cognetta et al. 2024
    (arXiv 2402.14614).
    """
    total = int(ids.sum())
    if not total or len(ids) < 2:
        return None
    p = ids[ids > 0] / total
    entropy = -float(np.sum(p * np.log(p))) if alpha == 1 else math.log(float(np.sum(p**alpha))) / (1 - alpha)
    return min(1.0, max(0.0, entropy / math.log(len(ids))))


def pieces_for(ids: NDArray[np.int64], hundredths: int) -> int:
    """How many of the most frequent pieces make up at least so many hundredths of all tokens; 0 without tokens."""
    ranked = np.cumsum(np.sort(ids)[::-1])
    total = int(ids.sum())
    return int(np.searchsorted(ranked * 100, hundredths * total)) + 1 if total else 0


def short_names(wheres: Sequence[str]) -> list[str]:
    """A short name of each tokenizer: the file or folder it lies in; its whole path where names would be equal."""
    names = []
    for where in wheres:
        path = Path(where)
        while path.name in _PLAIN and path.parent.name:
            path = path.parent
        names.append(path.name or where)
    return [name if names.count(name) == 1 else where for name, where in zip(names, wheres, strict=True)]


class _Judge:
    """From what was counted to figures, for one tokenizer."""

    def __init__(self, source: Source) -> None:
        self._size = source.vocab_size
        self._cuts = _begun_characters(source)

    def __call__(self, tally: Tally) -> Figures:
        met = int(np.count_nonzero(tally.ids))
        tokens = int(tally.ids.sum())
        characters = max(tally.characters, 1)
        return Figures(
            documents=tally.documents,
            bytes=tally.bytes,
            characters=tally.characters,
            tokens=tokens,
            bytes_per_token=tally.bytes / tokens if tokens else None,
            pieces_met=met,
            used=met / self._size,
            pieces_for={name: pieces_for(tally.ids, level) for name, level in _LEVELS.items()},
            renyi_efficiency=renyi_efficiency(tally.ids),
            # A normaliser may make more characters of one.
            in_bytes=min(1.0, int(tally.ids @ self._cuts) / characters),
            unknown=tally.lost / characters,
        )


def _begun_characters(source: Source) -> NDArray[np.int64]:
    """(vocab_size,): 1 for a piece with which a character spelled in bytes begins, else 0.

    A character is spelled in bytes if a token ends inside it, or if it is a `<0xNN>` piece itself. Exactly one
    piece then holds its first byte; so these pieces' occurrences count such characters, in their real context.
    """
    byte_level = source.kind == BYTE_LEVEL
    fallback = bool(source.definition["model"].get("byte_fallback"))
    begins = np.zeros(source.vocab_size, np.int64)
    for piece, number in source.pieces.items():
        if byte_level:
            begins[number] = _ends_inside(piece_bytes(piece, byte_level=True))
        elif fallback and piece.startswith("<0x") and len(raw := piece_bytes(piece, byte_level=False)) == 1:
            begins[number] = raw[0] < 0x80 or raw[0] >= 0xC0
    return begins


def _ends_inside(raw: bytes) -> bool:
    """Whether the bytes end inside a character whose first byte they hold (UTF-8)."""
    for back in range(1, min(4, len(raw)) + 1):
        byte = raw[-back]
        if byte >= 0xC0:
            return back < (2 if byte < 0xE0 else 3 if byte < 0xF0 else 4)
        if byte < 0x80:
            return False
    return False


def _curve(ids: NDArray[np.int64]) -> dict[str, list[float]]:
    """The accumulated-frequency curve up to the last piece that occurred, thinned to what a picture can show."""
    met = int(np.count_nonzero(ids))
    if not met:
        return {"sizes": [], "coverage": []}
    shares = np.cumsum(np.sort(ids)[::-1][:met]) / int(ids.sum())
    sizes = np.unique(np.geomspace(1, met, _POINTS).round().astype(np.int64))
    return {"sizes": sizes.tolist(), "coverage": shares[sizes - 1].tolist()}


def _count(
    source: Source, specs: Sequence[SourceSpec], labels: Sequence[str | None], name: str, *, first: bool
) -> dict[str, Tally]:
    """What the tokenizer makes of the corpus, by language; oddities of the text are told for the first one only."""
    report = ReadReport()
    sizes = [source_size(spec) for spec in specs]
    total = sum(size for size in sizes if size is not None) if None not in sizes else None
    with Progress(f"comparing {name}", total, "B") as progress:
        found: dict[str, Tally] = {}
        for language, tally in tallies(source, _documents(specs, labels, report)):
            found[language] = found[language] + tally if language in found else tally
            progress.update(report.bytes if total is None else report.position)
    if first:
        report.warn()
    return found


def _documents(
    specs: Sequence[SourceSpec], labels: Sequence[str | None], report: ReadReport
) -> Iterator[tuple[str, str]]:
    """(language, text) of every document, as training sees them."""
    for spec, label in zip(specs, labels, strict=True):
        for raw in read_bytes(spec, report):
            text = raw.decode()
            yield label or dominant_script(text), text

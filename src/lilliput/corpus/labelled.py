"""Texts with labels: CSV, TSV and JSONL files, plain or compressed, as rows of (text, label).

A label is a string or a whole number; `1` and `1.0` and `"1"` are the same label. Rows are held in memory: data sets
for classification are small beside a corpus.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lilliput.corpus.files import SourceFile, endings
from lilliput.corpus.report import ReadReport
from lilliput.corpus.streams import clean, read_chunks
from lilliput.errors import CorpusError

TEXT_FIELDS = ("text", "sentence", "content", "review", "question")
LABEL_FIELDS = ("label", "class", "category", "gold", "target", "relation")
# Fields that a data set puts before its text, as AG News and DBPedia put the title.
_BEFORE = ("title",)
_DELIMITERS = {".csv": ",", ".tsv": "\t"}
_ROWS = (".jsonl", ".ndjson", ".json")


@dataclass
class Rows:
    """texts, labels: of each row. dropped: how many rows had to be left out, by reason."""

    texts: list[str] = field(default_factory=list)
    labels: list[str] = field(default_factory=list)
    dropped: dict[str, int] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.texts)

    def add(self, text: str, label: str) -> None:
        """Append a row."""
        self.texts.append(text)
        self.labels.append(label)

    def drop(self, reason: str) -> None:
        """Count a row that is left out."""
        self.dropped[reason] = self.dropped.get(reason, 0) + 1

    def take(self, chosen: Sequence[int]) -> Rows:
        """The rows with these numbers, in this order."""
        return Rows([self.texts[at] for at in chosen], [self.labels[at] for at in chosen], dict(self.dropped))


@dataclass(frozen=True)
class Fields:
    """Which fields hold text and label; none: those of the usual names. Several texts are joined by a blank."""

    text: tuple[str, ...] = ()
    label: str | None = None


def as_label(value: object) -> str | None:
    """A label as text; None where it is none (empty, absent, a list)."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, int | float | str):
        text = str(value).strip()
        return text or None
    return None


def read_labelled(path: Path, fields: Fields | None = None, *, labels: bool = True) -> Rows:
    """The rows of a file. labels: False for texts that are to be classified, whose label may be absent ("").

    Raises CorpusError that names what is missing where the fields cannot be told or no row has what it needs.
    """
    fields = fields or Fields()
    ending, _ = endings(path)
    if not path.is_file():
        raise CorpusError("no such file", where=str(path), mend="give a CSV, TSV or JSONL file")
    text = read_whole(path)
    if ending in _DELIMITERS:
        rows = _from_table(_table(text, _DELIMITERS[ending], path), fields, path, labels)
    elif ending in _ROWS:
        rows = _from_objects(_objects(text, path), fields, path, labels)
    elif not labels:
        rows = Rows()
        for line in text.splitlines():
            if line.strip():
                rows.add(line, "")
    else:
        mend = "give a .csv, .tsv or .jsonl file, plain or .gz, .xz, .zst"
        raise CorpusError("labels are read from tables and objects alone", where=str(path), mend=mend)
    if not len(rows):
        why = f": {', '.join(f'{count} {reason}' for reason, count in rows.dropped.items())}" if rows.dropped else ""
        raise CorpusError(f"there is no row to use{why}", where=str(path), mend="check the file's fields")
    return rows


def read_whole(path: Path) -> str:
    """A file's text, decompressed, its byte-order mark gone and what is no UTF-8 replaced. Raises CorpusError."""
    report = ReadReport()
    file = SourceFile(path, "text", endings(path)[1])
    whole = b"".join(clean(read_chunks(file, report), report, str(path))).decode()
    report.warn()
    return whole


def _table(text: str, delimiter: str, path: Path) -> list[list[str]]:
    table = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
    try:
        return list(table)
    except csv.Error as error:
        mend = "look for a quotation mark that is not closed; a quoted cell doubles those inside it"
        raise CorpusError(f"damaged table: {error}", where=f"{path}, line {table.line_num}", mend=mend) from None


def _objects(text: str, path: Path) -> Iterator[dict[str, Any]]:
    """The JSON objects of a file: one a line, or a list of them."""
    if text.lstrip().startswith("["):
        try:
            items = json.loads(text)
        except ValueError as error:
            raise CorpusError(f"damaged JSON: {error}", where=str(path), mend="mend the file") from None
        yield from (item for item in items if isinstance(item, dict))
        return
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            item = json.loads(line)
        except ValueError as error:
            where = f"{path}, line {number}"
            raise CorpusError(f"damaged JSON: {error}", where=where, mend="one JSON object a line") from None
        if not isinstance(item, dict):
            raise CorpusError("no JSON object", where=f"{path}, line {number}", mend='{"text": …, "label": …} a line')
        yield item


def _from_objects(items: Iterator[dict[str, Any]], fields: Fields, path: Path, labels: bool) -> Rows:
    rows, names = Rows(), None
    for item in items:
        names = names or _names(list(item), fields, path, labels)
        text = " ".join(part for name in names[0] if isinstance(part := item.get(name), str) and part.strip())
        _add(rows, text, as_label(item.get(names[1])) if names[1] else "", labels)
    return rows


def _from_table(table: list[list[str]], fields: Fields, path: Path, labels: bool) -> Rows:
    """With a header where the first row has the fields' names; without one, as official sets come: label, then text."""
    table = [row for row in table if row]
    if not table:
        raise CorpusError("the file is empty", where=str(path), mend="give rows of label and text")
    head = [cell.strip().lower() for cell in table[0]]
    asked = {name.lower() for name in (*fields.text, *([fields.label] if fields.label else []))}
    known = asked or {*TEXT_FIELDS, *LABEL_FIELDS}
    rows = Rows()
    if known & set(head):
        by_lower = Fields(tuple(name.lower() for name in fields.text), fields.label and fields.label.lower())
        texts, label = _names(head, by_lower, path, labels)
        for row in table[1:]:
            cells = dict(zip(head, row, strict=False))
            text = " ".join(cells[name].strip() for name in texts if cells.get(name, "").strip())
            _add(rows, text, as_label(cells.get(label)) if label else "", labels)
        return rows
    if asked:
        mend = f"it holds: {', '.join(table[0][:6])}"
        raise CorpusError(f"the first row has no {min(asked)}", where=str(path), mend=mend)
    if len(table[0]) < 2 and labels:
        raise CorpusError("one column is no label and text", where=str(path), mend="rows of label,text or a header")
    single = len(table[0]) == 1
    for row in table:
        parts = row if single else row[1:]
        _add(rows, " ".join(part.strip() for part in parts if part.strip()), "" if single else as_label(row[0]), labels)
    if labels and len(rows) > 20 and len(set(rows.labels)) > len(rows) / 2:
        reason = "without a header the first column is the label, and here it differs in nearly every row"
        raise CorpusError(reason, where=str(path), mend="give it a header: label,text")
    return rows


def _names(present: list[str], fields: Fields, path: Path, labels: bool) -> tuple[tuple[str, ...], str | None]:
    """(the fields of the text, the field of the label) of rows that have the fields `present`."""
    usual = next((name for name in TEXT_FIELDS if name in present), None)
    texts = fields.text or ((*(name for name in _BEFORE if name in present), usual) if usual else ())
    label = fields.label or next((name for name in LABEL_FIELDS if name in present), None)
    absent = [name for name in (*texts, *([label] if label and labels else [])) if name not in present]
    if absent or not texts or (labels and label is None):
        what = absent[0] if absent else "field for the text" if not texts else "field for the label"
        mend = f"the first row has {', '.join(present[:8])}: name them with --text-field and --label-field"
        raise CorpusError(f"there is no {what}", where=str(path), mend=mend)
    return texts, label


def _add(rows: Rows, text: str, label: str | None, labels: bool) -> None:
    if label is None and labels:
        rows.drop("rows without a label")
    else:
        rows.add(text, label or "")

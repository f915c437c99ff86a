"""Rows of the formats that benchmarks come in: JSON Lines, one JSON list, CSV and Parquet."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from lilliput.errors import MissingExtra, UserError

Rows = Iterator[tuple[str, Any]]
"""(file and line, or row, as messages name it; the row: by its fields' names, or a list where they have none)."""


def rows_of(data: bytes, ending: str, where: str, names: Sequence[str]) -> Rows:
    """The rows of a file's bytes. ending: one of `ENDINGS`. names: of a CSV's columns where it may have no header.

    Raises UserError for bytes that are not of that format.
    """
    return _READERS[ending](data, where, names)


def _decoded(data: bytes, where: str) -> str:
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        mend = "iconv -f ENCODING -t UTF-8 FILE > NEW, then take the new file"
        raise UserError(f"the file is not UTF-8, from byte {error.start:,} on", where=where, mend=mend) from None


def _json_lines(data: bytes, where: str, names: Sequence[str]) -> Rows:
    for number, line in enumerate(_decoded(data, where).split("\n"), 1):
        if line.strip():
            yield f"{where}:{number}", _parsed(line, f"{where}:{number}", "line")


def _json(data: bytes, where: str, names: Sequence[str]) -> Rows:
    """One list of rows, or JSON Lines under this ending."""
    text = _decoded(data, where)
    if not text.lstrip().startswith("["):
        yield from _json_lines(data, where, names)
        return
    for number, row in enumerate(_parsed(text, where, "file"), 1):
        yield f"{where}, row {number}", row


def _parsed(text: str, where: str, what: str) -> Any:
    try:
        return json.loads(text)
    # Also a plain ValueError, for a number of thousands of digits.
    except (ValueError, RecursionError) as error:
        mend = "each line is one JSON object; mend or remove this one" if what == "line" else "fetch the file again"
        raise UserError(f"the {what} is no JSON: {error}", where=where, mend=mend) from None


def _csv(data: bytes, where: str, names: Sequence[str]) -> Rows:
    reader = csv.reader(io.StringIO(_decoded(data, where), newline=""), strict=True)
    header: list[str] = []
    while True:
        line = reader.line_num + 1
        try:
            cells = next(reader, None)
        except csv.Error as error:
            mend = "look for a quotation mark that is not closed; a quoted cell doubles those inside it"
            raise UserError(f"the line is no CSV: {error}", where=f"{where}:{line}", mend=mend) from None
        if cells is None:
            return
        if not header:
            bare = len(cells) == len(names) and cells != list(names)
            header = list(names) if bare else cells
            if not bare:
                continue
        if cells and len(cells) != len(header):
            message = f"the line has {len(cells)} cells, and {len(header)} columns have names"
            raise UserError(message, where=f"{where}:{line}", mend="mend or remove this line")
        if cells:
            yield f"{where}:{line}", dict(zip(header, cells, strict=True))


def _parquet(data: bytes, where: str, names: Sequence[str]) -> Rows:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError:
        raise MissingExtra("pyarrow", "data") from None
    try:
        table = parquet.ParquetFile(io.BytesIO(data))
        held = [row for batch in table.iter_batches(batch_size=1024, use_threads=False) for row in batch.to_pylist()]
    except (pyarrow.ArrowException, OSError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"not a sound Parquet file: {reason}", where=where, mend="fetch the file again") from None
    for number, row in enumerate(held, 1):
        yield f"{where}, row {number}", row


_READERS: dict[str, Callable[[bytes, str, Sequence[str]], Rows]] = {
    ".jsonl": _json_lines,
    ".parquet": _parquet,
    ".csv": _csv,
    ".json": _json,
}
ENDINGS = tuple(_READERS)
"""In this order: of a folder's files, those with the first ending that any has are the rows."""

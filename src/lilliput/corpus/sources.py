"""Documents of one source, whatever it is: text, JSONL and Parquet files, a hub data set, or this Python."""

from __future__ import annotations

import json
import platform
import re
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Any

from lilliput.corpus import hub
from lilliput.corpus.builtin import python_texts
from lilliput.corpus.divide import divide, pieces
from lilliput.corpus.files import SourceFile, find_files, printable
from lilliput.corpus.report import ReadReport
from lilliput.corpus.streams import LONGEST_LINE, clean, lines, read_chunks
from lilliput.errors import CorpusError, MissingExtra, nearest
from lilliput.progress import Progress
from lilliput.recipe import SourceSpec
from lilliput.store import canonical_hash, file_hash

_SURROGATE = re.compile("[\ud800-\udfff]")
# Rows of a Parquet file held at once, and bytes read ahead for its column.
_PARQUET_ROWS = 64
_PARQUET_BUFFER = 1 << 20
_BUILTINS = ["builtin:python"]


def read_source(spec: SourceSpec, report: ReadReport, *, whole: bool = False) -> Iterator[str]:
    """The documents of a source, streamed in a fixed order; everything odd is counted in `report`.

    whole: rows and text files as they stand (for scoring files someone names). Otherwise plain text is cut
    into pieces of about 2 to 8 kB and a document over 1 MB is divided.
    Raises CorpusError where there is no text to be had, MissingExtra where a package is needed.
    """
    for document in read_bytes(spec, report, whole=whole):
        yield document.decode()


def read_bytes(spec: SourceSpec, report: ReadReport, *, whole: bool = False) -> Iterator[bytes]:
    """As `read_source`, as valid UTF-8 bytes."""
    rows = _Rows(spec.field, report)
    before = report.documents
    for where, document in _raw_documents(spec, rows, whole):
        if not document or document.isspace():
            report.note("empty_rows", where)
            continue
        if nuls := document.count(0):
            report.note("nul", where, nuls, nuls)
        parts: Iterable[bytes] = divide(document, LONGEST_LINE) if whole else divide(document)
        first = True
        for part in parts:
            if first and len(part) < len(document):
                report.note("divided", where, size=len(document))
            first = False
            report.documents += 1
            report.bytes += len(part)
            yield part
    rows.refuse_if_none(spec.source)
    if report.documents == before:
        found = "; ".join(line for _, line in report.lines())
        reason = "there is no text in the source" + (f": {found}" if found else "")
        raise CorpusError(reason, where=spec.source, mend="name a source that holds text")


def source_identity(spec: SourceSpec) -> dict[str, Any]:
    """What decides a source's documents, by content and not by place: the key of the stages made from it."""
    if spec.source.startswith("builtin:"):
        texts = {name: canonical_hash(text.decode()) for name, text in _builtin(spec.source, ReadReport())}
        return {"builtin": spec.source, "python": platform.python_version(), "texts": canonical_hash(texts)}
    if spec.source.startswith("hf:"):
        return {**hub.identity(spec.source), "field": spec.field}
    files = find_files(spec.source, ReadReport())
    found, done = [], 0
    with Progress("checking the sources", sum(file.size for file in files), "B") as progress:
        for file in files:
            found.append([printable(Path(file.path.name)), file_hash(file.path)])
            done += file.size
            progress.update(done)
    return {"files": found, "field": spec.field}


def source_size(spec: SourceSpec) -> int | None:
    """Bytes a source takes on disk, for progress; None where that is not known before reading."""
    if spec.source.startswith(("builtin:", "hf:")):
        return None
    return sum(file.size for file in find_files(spec.source, ReadReport()))


def _raw_documents(spec: SourceSpec, rows: _Rows, whole: bool) -> Iterator[tuple[str, bytes]]:
    """(where, document) before the checks that all kinds share."""
    report = rows.report
    if spec.source.startswith("builtin:"):
        for name, text in _builtin(spec.source, report):
            # The help pages are documents as they are; a module is a plain text file.
            parts = [text] if whole or name.startswith("help/") else pieces([text])
            yield from ((name, part) for part in parts)
        return
    if spec.source.startswith("hf:"):
        for row in hub.rows(spec.source, spec.field):
            if (document := rows.text(row, spec.source)) is not None:
                yield spec.source, document
        return
    if re.match(r"[a-z]+://", spec.source):
        mend = "download it and name the file"
        raise CorpusError("an address is no source", where=spec.source, mend=mend)
    for file in find_files(spec.source, report):
        if not file.size:
            report.note("empty_files", file.where)
            continue
        report.files += 1
        yield from ((file.where, document) for document in _READERS[file.kind](file, rows, whole))


def _builtin(source: str, report: ReadReport) -> Iterator[tuple[str, bytes]]:
    if source not in _BUILTINS:
        close = nearest(source, _BUILTINS)
        raise CorpusError(f"no such built-in source: {source}", where="corpus", mend=f"use {close or _BUILTINS[0]}")
    return python_texts(report)


class _Rows:
    """Takes the text out of rows, and remembers what was there instead where a row has none."""

    def __init__(self, field: str, report: ReadReport) -> None:
        self.field, self.report = field, report
        self.good = self.bad = 0
        self._fields: Counter[str] = Counter()

    def text(self, row: object, where: str) -> bytes | None:
        """The row's text as UTF-8, or None (counted)."""
        value = row.get(self.field) if isinstance(row, dict) else None
        if isinstance(value, bytes):
            value = b"".join(clean(iter([value]), self.report, where)).decode()
        if not isinstance(value, str):
            self.bad += 1
            if isinstance(row, dict):
                if self.bad <= 1000:
                    self._fields.update({str(name): _text_in(value) for name, value in row.items()})
                self.report.note("no_field", where)
            return None
        self.good += 1
        try:
            return value.encode()
        except UnicodeEncodeError:
            value, n = _SURROGATE.subn("\ufffd", value)
            self.report.note("lone_surrogates", where, n)
            return value.encode()

    def refuse_if_none(self, source: str) -> None:
        """Raise CorpusError if there were rows and not one had text in the field."""
        if self.good or not self.bad:
            return
        names = list(self._fields)[:12]
        if not names:
            mend = "write one JSON object a line, for example {\"text\": \"…\"}"
            raise CorpusError("no line is a JSON object", where=source, mend=mend)
        richest = self._fields.most_common(1)[0][0]
        close = nearest(self.field, [name for name in names if name != self.field]) or richest
        reason = f"no row has text in the field {self.field!r}; the fields are {', '.join(names)}"
        raise CorpusError(reason, where=source, mend=f"corpus: {{source: {source}, field: {close}}}")


def _text_in(value: object) -> int:
    return len(value) if isinstance(value, str) else 0


def _read_text(file: SourceFile, rows: _Rows, whole: bool) -> Iterator[bytes]:
    stream = clean(read_chunks(file, rows.report), rows.report, file.where)
    if not whole:
        yield from pieces(stream)
        return
    part: list[bytes] = []
    size = 0
    for chunk in stream:
        part.append(chunk)
        size += len(chunk)
        # Even a document that someone wants whole has to fit in memory.
        if size >= LONGEST_LINE:
            rows.report.note("divided", file.where, size=size)
            yield b"".join(part)
            part, size = [], 0
    if size:
        yield b"".join(part)


def _read_jsonl(file: SourceFile, rows: _Rows, whole: bool) -> Iterator[bytes]:
    report = rows.report
    stream = clean(read_chunks(file, report), report, file.where)
    for number, line in enumerate(lines(stream, report, file.where), start=1):
        if not line or line.isspace():
            continue
        if number == 1 and line.lstrip()[:1] == b"[":
            mend = "write one JSON object a line (.jsonl), for example with jq -c '.[]'"
            raise CorpusError("the file is one JSON list, not JSON Lines", where=file.where, mend=mend)
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            row = None
        if not isinstance(row, dict):
            report.note("bad_rows", f"{file.where}, row {number}", size=len(line))
        if (document := rows.text(row, f"{file.where}, row {number}")) is not None:
            yield document


def _read_parquet(file: SourceFile, rows: _Rows, whole: bool) -> Iterator[bytes]:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError:
        raise MissingExtra("pyarrow", "data") from None
    with tempfile.TemporaryFile() if file.compression else open(file.path, "rb") as opened:
        if file.compression:
            _unpack(file, rows.report, opened)
        base = rows.report.position
        try:
            table = parquet.ParquetFile(opened, pre_buffer=False, buffer_size=_PARQUET_BUFFER)
            if rows.field not in table.schema_arrow.names:
                row = {column.name: "text" if "string" in str(column.type) else None for column in table.schema_arrow}
                for _ in range(table.metadata.num_rows):
                    rows.text(row, file.where)
                return
            done = 0
            for batch in table.iter_batches(batch_size=_PARQUET_ROWS, columns=[rows.field], use_threads=False):
                done += batch.num_rows
                for value in batch.column(0).to_pylist():
                    if (document := rows.text({rows.field: value}, file.where)) is not None:
                        yield document
                if not file.compression:
                    share = done / max(1, table.metadata.num_rows)
                    rows.report.position = base + int(share * file.size)
        except (pyarrow.ArrowException, OSError) as error:
            reason = " ".join(str(error).split())[:200]
            raise CorpusError(f"not a sound Parquet file: {reason}", where=file.where, mend="write it anew") from None


def _unpack(file: SourceFile, report: ReadReport, to: IO[bytes]) -> None:
    """Parquet is read by seeking, so a packed one is unpacked to a temporary file first."""
    for chunk in read_chunks(file, report):
        to.write(chunk)
    to.seek(0)


_READERS = {"text": _read_text, "jsonl": _read_jsonl, "parquet": _read_parquet}

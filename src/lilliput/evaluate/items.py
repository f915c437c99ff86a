"""The rows of a task, from a folder of the person's own: found by the task's name, read and checked.

`DIR/NAME.jsonl`, plain or .gz, .xz or .zst; or several such files in a folder `DIR/NAME` or in an archive
`DIR/NAME.tar` (.gz, .xz), each a part of the task.
"""

from __future__ import annotations

import json
import lzma
import tarfile
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lilliput.corpus.files import COMPRESSIONS, SourceFile, printable
from lilliput.corpus.report import ReadReport
from lilliput.corpus.streams import clean, read_chunks
from lilliput.errors import UserError

_ENDING = ".jsonl"
# No number of a choice has so many; longer ones Python would refuse to read.
_DIGITS = 10
_ARCHIVES = (".tar", ".tar.gz", ".tgz", ".tar.xz")


@dataclass(frozen=True)
class Row:
    """One row. where: its file and line, for messages. part: the name of its file, without endings."""

    fields: dict[str, Any]
    where: str
    part: str

    def text(self, field: str, *, empty: bool = True) -> str:
        """The field, which is text; UserError where it is not, or, without `empty`, where it holds none."""
        value = self.fields.get(field)
        if not isinstance(value, str):
            raise self.wrong(f"{field} is {_kind(value)}, not text")
        if not empty and not value.strip():
            raise self.wrong(f"{field} is empty")
        return self._valid(field, value)

    def texts(self, field: str) -> tuple[str, ...]:
        """The field, a list of two texts or more, none empty; UserError where it is something else."""
        value = self.fields.get(field)
        if not isinstance(value, list) or not all(isinstance(text, str) for text in value):
            raise self.wrong(f"{field} is {_kind(value)}, not a list of texts")
        if len(value) < 2:
            raise self.wrong(f"{field} holds {len(value)} of the two or more texts to choose from")
        if not all(text.strip() for text in value):
            raise self.wrong(f"{field} holds an empty text")
        return tuple(self._valid(field, text) for text in value)

    def index(self, field: str, count: int) -> int:
        """The field, a number from 0 to below `count`, as a number or its digits; UserError where it is not."""
        value = self.fields.get(field)
        number = value
        if isinstance(value, str) and value.isascii() and value.isdecimal() and len(value) < _DIGITS:
            number = int(value)
        if not isinstance(number, int) or isinstance(number, bool):
            raise self.wrong(f"{field} is {_kind(value)}, not the number of the right choice")
        if not 0 <= number < count:
            raise self.wrong(f"{field} is {number}, with choices 0 to {count - 1}")
        return number

    def _valid(self, field: str, text: str) -> str:
        if not text.isascii() and any("\ud800" <= character <= "\udfff" for character in text):
            raise self.wrong(f"{field} holds lone surrogates, which are no characters")
        return text

    def wrong(self, what: str) -> UserError:
        """The error that names this row."""
        return UserError(what, where=self.where, mend="mend or remove this row")


def _kind(value: Any) -> str:
    """A value as a message names it."""
    if value is None:
        return "absent"
    return repr(value) if isinstance(value, str | int | float) else f"a {type(value).__name__}"


def find_rows(folder: Path, stems: Sequence[str]) -> Path | None:
    """The file, folder or archive in `folder` that holds a task's rows: the first of its names that is there."""
    for stem in stems:
        endings = [_ENDING + packed for packed in ("", *COMPRESSIONS)]
        for place in (folder / f"{stem}{ending}" for ending in (*endings, *_ARCHIVES)):
            if place.is_file():
                return place
        if (folder / stem).is_dir():
            return folder / stem
    return None


def names_in(folder: Path) -> list[str]:
    """What the folder holds, as names that a task may have."""
    found = set()
    for place in folder.iterdir():
        name = place.name
        for packed in ("", *COMPRESSIONS):
            if name.endswith(_ENDING + packed):
                found.add(name.removesuffix(_ENDING + packed))
        found |= {name.removesuffix(ending) for ending in _ARCHIVES if name.endswith(ending)}
        if place.is_dir() and not name.startswith("."):
            found.add(name)
    return sorted(found)


def read_rows(place: Path) -> Iterator[Row]:
    """The rows of the file, or of all JSONL files of the folder or archive, in the order of their names.

    Raises UserError, or CorpusError, where something cannot be read or is no row: no row is ever left out.
    """
    nothing = True
    for name, where, text in _files(place):
        for number, line in enumerate(text.split("\n"), 1):
            if not line.strip():
                continue
            nothing = False
            here = f"{where}:{number}"
            try:
                fields = json.loads(line)
            except (json.JSONDecodeError, RecursionError) as error:
                mend = "each line is one JSON object; mend or remove this one"
                raise UserError(f"the line is no JSON: {error}", where=here, mend=mend) from None
            if not isinstance(fields, dict):
                raise UserError("the line is no JSON object", where=here, mend="give one {…} a line")
            yield Row(fields, here, name)
    if nothing:
        raise UserError("there is not one row", where=printable(place), mend="give JSONL, one item a line")


def _files(place: Path) -> Iterator[tuple[str, str, str]]:
    """(name without endings, how messages name it, text) of each JSONL file."""
    if place.is_dir():
        for path in sorted(path for path in place.iterdir() if _stem(path.name) is not None):
            yield _stem(path.name) or "", printable(path), _text(path)
    elif place.name.endswith(_ARCHIVES):
        yield from _members(place)
    else:
        yield _stem(place.name) or "", printable(place), _text(place)


def _stem(name: str) -> str | None:
    """The name without `.jsonl` and what it is packed with; None for another kind of file."""
    for packed in ("", *COMPRESSIONS):
        if name.endswith(_ENDING + packed) and not name.startswith("."):
            return name.removesuffix(_ENDING + packed)
    return None


def _text(path: Path) -> str:
    """The whole text of a file. Raises UserError where any of it is missing or no UTF-8."""
    packed = path.suffix if path.suffix in COMPRESSIONS else ""
    file, report = SourceFile(path, "jsonl", packed), ReadReport()
    text = b"".join(clean(read_chunks(file, report), report, file.where)).decode()
    for _, what in report.lines():
        raise UserError(f"the file is damaged: {what}", where=file.where, mend="fetch the file again")
    return text


def _members(place: Path) -> Iterator[tuple[str, str, str]]:
    """The JSONL files of an archive, sorted by their paths."""
    held: dict[str, str] = {}
    try:
        with tarfile.open(place) as archive:
            # In the archive's order: going back would mean to decompress it anew.
            for member in archive:
                if member.isfile() and member.name.endswith(_ENDING) and (file := archive.extractfile(member)):
                    held[member.name] = file.read().decode("utf-8-sig")
    except (tarfile.TarError, lzma.LZMAError, zlib.error, EOFError, OSError, UnicodeDecodeError) as error:
        mend = "fetch the archive again, or unpack it and name the folder"
        raise UserError(f"the archive is damaged: {error}", where=printable(place), mend=mend) from None
    for name in sorted(held):
        yield Path(name).name.removesuffix(_ENDING), f"{printable(place)}:{name}", held[name]

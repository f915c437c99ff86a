"""The rows of a task, from a folder of the person's own: found by the task's name and read.

`DIR/NAME.jsonl` (or .parquet, .csv, .json), plain or .gz, .xz or .zst; or several such files in a folder `DIR/NAME` or
in an archive `DIR/NAME.tar` (.gz, .xz), each a part of the task. Where the files' names say of which split they are
(train, dev, test), the task says which it takes.
"""

from __future__ import annotations

import lzma
import re
import tarfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from lilliput.corpus.files import COMPRESSIONS, SourceFile, printable
from lilliput.corpus.report import ReadReport
from lilliput.corpus.streams import read_chunks
from lilliput.errors import UserError
from lilliput.evaluate.formats import ENDINGS, rows_of
from lilliput.evaluate.row import Row

_ARCHIVES = (".tar", ".tar.gz", ".tgz", ".tar.xz")
_SPLITS = ("train", "dev", "validation", "valid", "val", "test")
_SHARD = re.compile(r"-?\d{5}-of-\d{5}")


@dataclass(frozen=True)
class Shape:
    """What a task knows of its files.

    split: the words by which a file's path may say that it is the one wanted, the first that any file has; () takes
    all. names: of rows that are lists, and of a CSV's columns. each: a field that lists parts of a row which are rows
    themselves, with the row's other fields. strict: whether files that name no split are refused."""

    split: Sequence[str] = ()
    names: Sequence[str] = ()
    each: str | None = None
    strict: bool = False


@dataclass(frozen=True)
class _File:
    """path: inside the folder or archive. where: for messages. load: gives its bytes, unpacked."""

    path: str
    where: str
    load: Callable[[], bytes]

    @property
    def ending(self) -> str:
        return Path(_unpacked(self.path)).suffix

    @property
    def stem(self) -> str:
        return _unpacked(self.path).removesuffix(self.ending)


def _unpacked(name: str) -> str:
    packed = next((ending for ending in COMPRESSIONS if name.endswith(ending)), "")
    return name.removesuffix(packed)


def find_rows(folder: Path, stems: Sequence[str]) -> Path | None:
    """The file, folder or archive in `folder` that holds a task's rows: the first of its names that is there."""
    for stem in stems:
        endings = [ending + packed for ending in ENDINGS for packed in ("", *COMPRESSIONS)]
        for place in (folder / f"{stem}{ending}" for ending in (*endings, *_ARCHIVES)):
            if place.is_file():
                return place
        if (folder / stem).is_dir():
            return folder / stem
    return None


def holds_files(place: Path) -> bool:
    """Whether the place is a folder or an archive, and no file of rows itself."""
    return place.is_dir() or place.name.endswith(_ARCHIVES)


def names_in(folder: Path) -> list[str]:
    """What the folder holds, as names that a task may have."""
    found = set()
    for place in folder.iterdir():
        name = place.name
        file = _File(name, name, bytes)
        if not name.startswith(".") and file.ending in ENDINGS:
            found.add(file.stem)
        found |= {name.removesuffix(ending) for ending in _ARCHIVES if name.endswith(ending)}
        if place.is_dir() and not name.startswith("."):
            found.add(name)
    return sorted(found)


def read_rows(place: Path, shape: Shape | None = None) -> Iterator[Row]:
    """The rows of the file, or of the files of the folder or archive that are wanted, in the order of their paths.

    Raises UserError, or CorpusError, where something cannot be read or is no row: no row is ever left out.
    """
    shape = shape or Shape()
    files = list(_files(place))
    of_splits = holds_files(place) and bool(shape.split)
    if of_splits:
        files = _of_split(files, shape, place)
    nothing = True
    for file in files:
        part = _part(file, place) if of_splits else Path(file.stem).name
        for where, held in rows_of(file.load(), file.ending, file.where, shape.names):
            nothing = False
            for fields in _named(held, where, shape):
                yield Row(fields, where, part)
    if nothing:
        mend = f"give its rows in files that end in {', '.join(ENDINGS)}, one item a row"
        raise UserError("there is not one row", where=printable(place), mend=mend)


def _named(held: Any, where: str, shape: Shape) -> Iterator[dict[str, Any]]:
    """The row's fields by their names; of a row of several items, each item's."""
    if isinstance(held, list) and shape.names:
        if len(held) != len(shape.names):
            message = f"the row is a list of {len(held)}, not of {', '.join(shape.names)}"
            raise UserError(message, where=where, mend="mend or remove this row")
        held = dict(zip(shape.names, held, strict=True))
    if not isinstance(held, dict):
        what = "line" if re.search(r":\d+$", where) else "row"
        raise UserError(f"the {what} is no JSON object", where=where, mend="give one {…} for each item")
    within = held.get(shape.each) if shape.each else None
    if not isinstance(within, list):
        yield held
        return
    for one in within:
        if not isinstance(one, dict):
            raise UserError(f"{shape.each} holds what is no JSON object", where=where, mend="mend or remove this row")
        yield {**held, **one}


def _has(path: str, word: str) -> bool:
    """Whether the word stands in the path, between its usual marks."""
    return re.search(rf"(^|[/_.-]){re.escape(word)}([/_.-]|$)", path) is not None


def _of_split(files: list[_File], shape: Shape, place: Path) -> list[_File]:
    for word in shape.split:
        if found := [file for file in files if _has(file.stem, word)]:
            return found
    if shape.strict or any(_has(file.stem, word) for file in files for word in _SPLITS):
        mend = f"take the files whose names say {' or '.join(shape.split)}"
        raise UserError("none of the files is of the split that is wanted", where=printable(place), mend=mend)
    return files


def _part(file: _File, place: Path) -> str:
    """The file's name without its split and number; where nothing is left, its folder's, or else the place's."""
    for name in (*reversed(file.stem.split("/")), place.name.split(".")[0]):
        left = _SHARD.sub("", name)
        for word in _SPLITS:
            left = re.sub(rf"(^{word}($|[_.-]))|([_.-]{word}$)", "", left)
        if left:
            return left
    return place.name


def _files(place: Path) -> Iterator[_File]:
    """The files of rows, in the order of their paths: of several, those of the first ending that any has."""
    if place.is_dir():
        paths = sorted(path for path in place.rglob("*") if path.is_file())
        found = [_on_disk(path, path.relative_to(place).as_posix()) for path in paths]
    elif place.name.endswith(_ARCHIVES):
        found = list(_members(place))
    else:
        found = [_on_disk(place, place.name)]
    found = [file for file in found if not any(part.startswith(".") for part in file.path.split("/"))]
    ending = next((ending for ending in ENDINGS if any(file.ending == ending for file in found)), None)
    return (file for file in found if file.ending == ending)


def _on_disk(path: Path, name: str) -> _File:
    return _File(name, printable(path), partial(_bytes, path))


def _bytes(path: Path) -> bytes:
    """The whole of a file, unpacked. Raises UserError where any of it is missing."""
    packed = path.suffix if path.suffix in COMPRESSIONS else ""
    file, report = SourceFile(path, "jsonl", packed), ReadReport()
    data = b"".join(read_chunks(file, report))
    for _, what in report.lines():
        raise UserError(f"the file is damaged: {what}", where=file.where, mend="fetch the file again")
    return data


def _members(place: Path) -> Iterator[_File]:
    """The files of an archive, sorted by their paths."""
    held: dict[str, bytes] = {}
    try:
        with tarfile.open(place) as archive:
            # In the archive's order: going back would mean to decompress it anew.
            for member in archive:
                wanted = member.isfile() and Path(member.name).suffix in ENDINGS
                if wanted and (file := archive.extractfile(member)):
                    held[member.name.removeprefix("./")] = file.read()
    except (tarfile.TarError, lzma.LZMAError, zlib.error, EOFError, OSError) as error:
        mend = "fetch the archive again, or unpack it and name the folder"
        raise UserError(f"the archive is damaged: {error}", where=printable(place), mend=mend) from None
    for name in sorted(held):
        yield _File(name, f"{printable(place)}:{name}", partial(held.__getitem__, name))

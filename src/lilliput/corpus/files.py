"""Which files a source names: paths, globs and folders, by their endings."""

from __future__ import annotations

import glob
import os
import re
from dataclasses import dataclass
from pathlib import Path

from lilliput.corpus.report import ReadReport
from lilliput.errors import CorpusError, nearest

COMPRESSIONS = (".gz", ".xz", ".zst")
_ROWS = {".jsonl": "jsonl", ".ndjson": "jsonl", ".json": "jsonl", ".parquet": "parquet"}
_TEXT = re.compile(
    r"\.(txt|text|md|markdown|rst|tex|org|adoc|html?|srt|vtt|pyi?|[ch]|cc|cpp|hpp|java|js|ts|go|rs|rb|sh|sql"
    r"|lua|r|jl|swift|kt|scala|hs|ml|lisp|el|pl|php|css)"
)
_REFUSED = {
    ".csv": "turn it into JSONL, one {\"text\": …} a line",
    ".tsv": "turn it into JSONL, one {\"text\": …} a line",
    ".tar": "unpack it and name the folder",
    ".tgz": "unpack it and name the folder",
    ".zip": "unpack it and name the folder",
    ".7z": "unpack it and name the folder",
    ".bz2": "unpack it, or pack it as .gz, .xz or .zst",
    ".pdf": "extract its text first, for example with pdftotext",
    ".docx": "save it as plain text first",
    ".epub": "save it as plain text first",
    ".arrow": "save it as Parquet first",
}


@dataclass(frozen=True)
class SourceFile:
    """One file. kind: `text`, `jsonl` or `parquet`. compression: its last ending, or ''."""

    path: Path
    kind: str
    compression: str

    @property
    def where(self) -> str:
        """How the file is named in messages."""
        return printable(self.path)

    @property
    def size(self) -> int:
        """Bytes on disk."""
        return self.path.stat().st_size


def printable(path: Path) -> str:
    """A path as text that can be printed and stored, even if its name is no valid UTF-8."""
    return str(path).encode("utf-8", "backslashreplace").decode()


def endings(path: Path) -> tuple[str, str]:
    """(ending without the compression's, the compression's or '')."""
    name = path.name.lower()
    packed = next((ending for ending in COMPRESSIONS if name.endswith(ending)), "")
    return Path(name.removesuffix(packed)).suffix, packed


def find_files(source: str, report: ReadReport) -> list[SourceFile]:
    """The files `source` names, sorted by path. `~` and environment variables are expanded.

    In a folder (and for a glob without an ending of its own) files with other endings, and hidden ones, are
    left out and counted. Raises CorpusError where nothing is found, naming the nearest thing there is.
    """
    expanded = _expand(source)
    path = Path(expanded)
    if path.is_file():
        return [_explicit(path)]
    if path.exists() and not path.is_dir():
        mend = "write the text to a file first"
        raise CorpusError(f"neither a file nor a folder: {expanded}", where=source, mend=mend)
    if path.is_dir():
        files = _in_folder(path, report)
    elif glob.has_magic(expanded):
        files = _matching(expanded, report)
    else:
        raise CorpusError(f"no such file or folder: {expanded}", where=source, mend=_suggest(path))
    if not files:
        what = "the folder holds" if path.is_dir() else "the pattern matches"
        mend = "files end in .txt, .md, .jsonl, .parquet and the like, plain or .gz, .xz, .zst"
        if not path.is_dir() and not report.number("skipped_files"):
            mend = _suggest(_fixed_part(path))
        raise CorpusError(f"{what} no file that can be read: {expanded}", where=source, mend=mend)
    return files


def _expand(source: str) -> str:
    expanded = os.path.expanduser(os.path.expandvars(source))
    if left := re.search(r"\$(\w+|\{\w+\})", expanded):
        if Path(expanded).exists():
            return expanded
        name = left[1].strip("{}")
        raise CorpusError(f"the environment variable {name} is not set", where=source, mend=f"export {name}=…")
    return expanded


def _explicit(path: Path) -> SourceFile:
    """A file named outright: an unknown ending is read as plain text, a known wrong one is refused."""
    ending, packed = endings(path)
    if ending in _REFUSED:
        raise CorpusError(f"{ending} files are not read", where=str(path), mend=_REFUSED[ending])
    return SourceFile(path, _ROWS.get(ending, "text"), packed)


def _known(paths: list[Path], report: ReadReport) -> list[SourceFile]:
    found = []
    for path in paths:
        ending, packed = endings(path)
        if path.is_file() and (ending in _ROWS or _TEXT.fullmatch(ending)):
            found.append(SourceFile(path, _ROWS.get(ending, "text"), packed))
        else:
            report.note("skipped_files", printable(path))
    return found


def _in_folder(folder: Path, report: ReadReport) -> list[SourceFile]:
    paths = []
    been: set[str] = set()
    for parent, folders, names in os.walk(folder, onerror=_refuse, followlinks=True):
        # A link may lead to a folder that was walked already, or round in a circle.
        place = os.path.realpath(parent)
        folders[:] = [] if place in been else sorted(name for name in folders if not name.startswith("."))
        if place not in been:
            paths += [Path(parent, name) for name in names if not name.startswith(".")]
        been.add(place)
    return _known(sorted(paths), report)


def _refuse(error: OSError) -> None:
    raise CorpusError(f"cannot read the folder: {error.strerror}", where=str(error.filename), mend="check its rights")


def _matching(pattern: str, report: ReadReport) -> list[SourceFile]:
    paths = sorted({Path(match) for match in glob.glob(pattern, recursive=True) if os.path.isfile(match)})
    if not glob.has_magic(Path(pattern).suffix) and Path(pattern).suffix:
        return [_explicit(path) for path in paths]
    return _known(paths, report)


def _fixed_part(pattern: Path) -> Path:
    """The part of a pattern before its first wildcard, and the first part with one."""
    parts: list[str] = []
    for part in pattern.parts:
        parts.append(part)
        if glob.has_magic(part):
            break
    return Path(*parts)


def _suggest(path: Path) -> str:
    """Where the path leaves what exists, and the nearest name there."""
    parent = path
    while not parent.is_dir() and parent != parent.parent:
        missing, parent = parent.name, parent.parent
        if parent == Path("."):
            break
    if not parent.is_dir():
        return "check the path"
    names = sorted(entry.name for entry in parent.iterdir() if not entry.name.startswith("."))
    close = nearest(missing, names)
    if close:
        return f"did you mean {parent / close}?"
    shown = ", ".join(names[:5]) + (", …" if len(names) > 5 else "")
    return f"{parent.absolute()} holds: {shown}" if names else f"the folder {parent.absolute()} is empty"

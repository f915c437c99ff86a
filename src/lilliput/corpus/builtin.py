"""`builtin:python`: the running interpreter's own documentation and library source.

Real text on every machine, without a download: the pages of `help()` and every module of the standard
library. Which documents there are follows from the interpreter's version alone.
"""

from __future__ import annotations

import os
import sysconfig
import tokenize
from collections.abc import Iterator
from pathlib import Path

from lilliput.corpus.report import ReadReport
from lilliput.errors import CorpusError

# Installed packages are no part of the interpreter, and tests are mostly data.
_LEFT_OUT_FOLDERS = {"site-packages", "dist-packages", "test", "tests", "idle_test", "__pycache__"}
# Written by whoever built or set up this interpreter; topics.py is read through its topics.
_LEFT_OUT_FILES = {"sitecustomize.py", "usercustomize.py", "topics.py"}


def python_texts(report: ReadReport) -> Iterator[tuple[str, bytes]]:
    """(name, valid UTF-8 text) of each help topic (`help/…`), then of each module, sorted.

    A module that cannot be read is counted. Raises CorpusError where the interpreter has no library source.
    """
    yield from _topics()
    folder = Path(sysconfig.get_path("stdlib"))
    names = _modules(folder)
    if not names:
        mend = "name another source, or use an interpreter installed with its .py files"
        raise CorpusError("this Python has no library source", where=f"builtin:python ({folder})", mend=mend)
    for name in names:
        try:
            # A module may declare another encoding than UTF-8.
            with tokenize.open(folder / name) as file:
                text = file.read().encode()
        except (OSError, SyntaxError, UnicodeError):
            report.note("skipped_files", str(folder / name))
            continue
        yield name, text


def _topics() -> Iterator[tuple[str, bytes]]:
    try:
        from pydoc_data.topics import topics
    except ImportError:
        # Some distributions pack the help pages apart; the library source is the far larger part.
        return
    for name in sorted(topics):
        yield f"help/{name}", topics[name].encode()


def _modules(folder: Path) -> list[str]:
    found = []
    for parent, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if name not in _LEFT_OUT_FOLDERS]
        for name in files:
            if name.endswith(".py") and name not in _LEFT_OUT_FILES and not name.startswith("_sysconfigdata"):
                found.append(Path(parent, name).relative_to(folder).as_posix())
    return sorted(found)

"""How every command ends: its answer on stdout, or one error line, and the exit code.

This is the only place that turns exceptions into output. Exit codes: 0 done, 1 the work failed, 2 the
request was wrong. With `--json`, stdout holds exactly one JSON object, whatever else the libraries
underneath print: for the time of the work, stdout is another name of stderr.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import Any

from lilliput.errors import LilliputError, StorageError, UserError, nearest

# A file system with less room than this is named when a write fails for want of space.
_LITTLE_ROOM = 64 * 2**20
_FULL = {errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC)}
# How libraries written in Rust and C++ report the same, as text.
_FULL_SIGNS = ("os error 28", "No space left on device")
_MEMORY_SIGNS = ("CUDA out of memory", "can't allocate memory", "not enough memory")


@dataclass(frozen=True)
class Answer:
    """What a command has to say. data: the `--json` object. text: the same for people. None says nothing."""

    data: dict[str, Any] | None
    text: str | None


@dataclass(frozen=True)
class Failure:
    """A command that did not come to its answer. error: what stopped it."""

    error: BaseException


class StoppedError(LilliputError):
    """The person stopped the work."""

    kind = "interrupted"


class ScarceMemoryError(LilliputError):
    """The work needs more memory than there is."""

    kind = "memory"


class InternalError(LilliputError):
    """Something nobody foresaw."""

    kind = "internal"


def guarded(verb: Callable[..., Answer]) -> Callable[..., Answer | Failure]:
    """`verb`, handing back what stops it instead of raising.

    Typer's own handling of Ctrl-C, end of file and broken pipes differs between its versions; so none of
    these reach it.
    """

    @wraps(verb)
    def run(*args: Any, **kwargs: Any) -> Answer | Failure:
        try:
            return verb(*args, **kwargs)
        except BaseException as error:
            return Failure(error)

    return run


@contextmanager
def stdout_for_answer(*, as_json: bool) -> Iterator[int]:
    """Yield the file descriptor of the real stdout; with `as_json` nothing else reaches it meanwhile."""
    if not as_json:
        yield 1
        return
    sys.stdout.flush()
    real = os.dup(1)
    os.dup2(2, 1)
    try:
        yield real
    finally:
        sys.stdout.flush()
        os.dup2(real, 1)
        os.close(real)


def write_all(descriptor: int, text: str) -> None:
    """Write `text` as UTF-8 to a file descriptor, whatever the terminal's encoding is."""
    raw = text.encode("utf-8", errors="replace")
    while raw:
        raw = raw[os.write(descriptor, raw) :]


def finish(outcome: object, *, as_json: bool, descriptor: int) -> int:
    """Say how a command ended; returns the exit code."""
    try:
        if isinstance(outcome, Failure):
            return _finish_failure(outcome.error, as_json=as_json, descriptor=descriptor)
        if isinstance(outcome, Answer):
            if as_json and outcome.data is not None:
                write_all(descriptor, json.dumps(outcome.data, ensure_ascii=False, allow_nan=False) + "\n")
            elif not as_json and outcome.text is not None:
                sys.stdout.flush()
                write_all(descriptor, outcome.text.rstrip("\n") + "\n")
            return 0
        return outcome if isinstance(outcome, int) else 0
    except BrokenPipeError:
        return 0
    except Exception as error:
        return _finish_failure(error, as_json=False, descriptor=descriptor)


def _finish_failure(error: BaseException, *, as_json: bool, descriptor: int) -> int:
    if isinstance(error, BrokenPipeError):
        # The reader (`head`, a closed pager) has what it wanted.
        return 0
    if os.environ.get("LILLIPUT_DEBUG"):
        traceback.print_exception(error, file=sys.stderr)
    known = explain(error)
    if as_json:
        report = {"error": known.to_dict(), "exit_code": known.exit_code}
        write_all(descriptor, json.dumps(report, ensure_ascii=False) + "\n")
    print(f"error: {known}", file=sys.stderr, flush=True)
    return known.exit_code


def explain(error: BaseException) -> LilliputError:
    """`error` as one of ours: what, where, and how to mend it."""
    if isinstance(error, LilliputError):
        return error
    if isinstance(error, KeyboardInterrupt):
        return StoppedError("stopped", mend="training goes on from its last checkpoint with the same command")
    if hasattr(error, "format_message"):
        return _usage(error)
    text = str(error)
    if (isinstance(error, OSError) and error.errno in _FULL) or any(sign in text for sign in _FULL_SIGNS):
        return _disk_full(error)
    if isinstance(error, OSError) and error.errno is not None:
        return _file_trouble(error)
    if isinstance(error, MemoryError) or any(sign in text for sign in _MEMORY_SIGNS):
        mend = "choose a smaller train.micro_batch, model.context or budget.params, or free some memory"
        return ScarceMemoryError("not enough memory for this work", mend=mend)
    detail = " ".join(text.split())[:300]
    return InternalError(
        f"internal error: {type(error).__name__}{': ' if detail else ''}{detail}",
        mend="please report it; LILLIPUT_DEBUG=1 shows the traceback",
    )


def _usage(error: BaseException) -> UserError:
    """A wrong verb, option or argument, as typer reports it."""
    message = str(error.format_message()).split(". Did you mean")[0].rstrip(".")  # type: ignore[attr-defined]
    message = message[:1].lower() + message[1:]
    context = getattr(error, "ctx", None)
    where = getattr(context, "command_path", None)
    given = getattr(error, "option_name", None)
    if given and (options := getattr(error, "possibilities", None)):
        return UserError(f"no such option: {given}", where=where, mend=f"did you mean {min(options)}?")
    if given and str(where).endswith(" make"):
        mend = f"settings have no dashes: {given.lstrip('-')}=VALUE; options are in `{where} --help`"
        return UserError(f"no such option: {given}", where=where, mend=mend)
    verbs = list(getattr(getattr(context, "command", None), "commands", {}))
    if verbs and "No such command" in str(error):
        word = str(error).split("'")[1]
        close = nearest(word, verbs)
        mend = f"did you mean {close}?" if close else f"known: {', '.join(verbs)}"
        return UserError(f"no such command: {word}", where=where, mend=mend)
    return UserError(message, where=where, mend=f"see `{where or 'lilliput'} --help`")


def _file_trouble(error: OSError) -> LilliputError:
    path = str(error.filename) if error.filename else None
    reason = (error.strerror or str(error)).lower()
    if isinstance(error, FileNotFoundError):
        return UserError("no such file or folder", where=path, mend="check the spelling of the path")
    if isinstance(error, PermissionError):
        return UserError("no permission to read or write this", where=path, mend="name another path")
    if isinstance(error, IsADirectoryError | NotADirectoryError | FileExistsError):
        return UserError(f"cannot be used as a path: {reason}", where=path, mend="name another path")
    mend = "once that is mended, the same command goes on where it stopped"
    return StorageError(f"the system refused: {reason}", where=path, mend=mend)


def _disk_full(error: BaseException) -> StorageError:
    path = getattr(error, "filename", None)
    mend = "free some space; the last good state is untouched, and the same command goes on from it"
    return StorageError("the disk is full", where=str(path) if path else _fullest(), mend=mend)


def _fullest() -> str | None:
    """The folder we write to whose file system has next to no room, if one can be told."""
    from lilliput.store import default_root

    for folder in (Path.cwd(), default_root(), Path(os.environ.get("TMPDIR", "/tmp"))):
        if folder.is_dir() and shutil.disk_usage(folder).free < _LITTLE_ROOM:
            return str(folder)
    return None

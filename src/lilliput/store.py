"""Stage outputs on disk: found by the hash of what made them, written atomically.

A stage is a folder `STORE/<stage>/<hash>/` with a `manifest.json`. The hash covers the stage's name and
everything that decides its output (settings, hashes of its inputs, the version of its format), so a stage
whose hash exists is never run again and every run shares it. A folder appears under its name only when it
is complete: it is written beside, fsynced and renamed.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from lilliput.errors import ConfigError, StorageError
from lilliput.progress import say

_READ = 1 << 20


def canonical_hash(value: object) -> str:
    """Hex SHA-256 of `value` as JSON with sorted keys: equal settings, equal hash."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def file_hash(path: Path | str) -> str:
    """Hex SHA-256 of a file's bytes."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(_READ):
            digest.update(block)
    return digest.hexdigest()


def read_json(path: Path | str) -> Any:
    """The JSON value in `path`; raises StorageError if it is no JSON."""
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        mend = "delete the file and run again"
        raise StorageError(f"damaged JSON: {error}", where=str(path), mend=mend) from None


def fsync_dir(path: Path) -> None:
    """Make renames inside `path` durable (a no-op where folders cannot be opened)."""
    if sys.platform == "win32":
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_atomic(path: Path | str, data: bytes | str) -> None:
    """Write a file so that a reader sees the old one or the new one, never a part."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    raw = data.encode() if isinstance(data, str) else data
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(raw)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    fsync_dir(path.parent)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def write_json(path: Path | str, value: object) -> None:
    """Write `value` as indented JSON, atomically."""
    write_atomic(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


@contextmanager
def atomic_dir(path: Path | str) -> Iterator[Path]:
    """Yield a hidden folder beside `path`; on success its files are fsynced and it takes the name `path`.

    On any failure the hidden folder is removed. An existing `path` is replaced.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}."))
    try:
        yield temporary
        for file in temporary.rglob("*"):
            if file.is_file():
                with open(file, "rb") as opened:
                    os.fsync(opened.fileno())
        os.chmod(temporary, 0o777 & ~_umask())
        fsync_dir(temporary)
        if path.exists():
            old = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}.old."))
            os.replace(path, old / path.name)
            os.replace(temporary, path)
            shutil.rmtree(old)
        else:
            os.replace(temporary, path)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    fsync_dir(path.parent)


def check_replaceable(out: Path, ours: Sequence[str], marks: set[str], never: Sequence[Path] = ()) -> None:
    """Refuse to write the folder `out` over anything but an earlier one of its kind, with nothing else beside it.

    ours: patterns of the names that such a folder holds; marks: those that every one has. never: where what it is made
    from lies. Raises ConfigError.
    """
    reason = None
    nearest = next(folder for folder in (out, *out.parents) if folder.exists())
    if out.exists() and not out.is_dir():
        reason = "there is a file of that name"
    elif out.resolve() in {place.resolve() for place in never}:
        reason = "that is what it is made from"
    elif out.is_dir() and (names := {file.name for file in out.iterdir()}):
        foreign = [name for name in names if not any(fnmatch(name, pattern) for pattern in ours)]
        if foreign or not marks <= names:
            reason = "the folder is not empty" + (f": it holds {min(foreign)}" if foreign else "")
    elif not nearest.is_dir() or not os.access(nearest, os.W_OK):
        reason = "nothing can be written there"
    if reason:
        raise ConfigError(reason, where=str(out), mend="give another --out")


def clear_abandoned(path: Path) -> None:
    """Remove what killed writers of `path` left beside it; to be called with the lock held that they held."""
    for left in path.parent.glob(f".{path.name}.*"):
        if left.is_dir():
            shutil.rmtree(left, ignore_errors=True)
        else:
            left.unlink(missing_ok=True)


@dataclass(frozen=True)
class Stage:
    """A finished stage. path: its folder. manifest: what it measured. fresh: made just now, not found."""

    path: Path
    manifest: dict[str, Any]
    hash: str
    fresh: bool


def default_root() -> Path:
    """`$LILLIPUT_STORE`, else the platform's cache folder."""
    if asked := os.environ.get("LILLIPUT_STORE"):
        return Path(asked).expanduser()
    if sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA", Path.home() / "AppData" / "Local"))
    elif sys.platform == "darwin":
        base = Path.home() / "Library" / "Caches"
    else:
        base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return base / "lilliput"


@contextmanager
def locked(path: Path | str, what: str) -> Iterator[None]:
    """Hold the lock `path`. The system drops a dead process's lock, so a killed run never blocks the next."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        say(f"another process is at work on {what}; waiting for it")
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


class Store:
    """The folder of stage outputs; many runs and processes may share one."""

    def __init__(self, root: Path | str | None = None) -> None:
        self.root = Path(root) if root is not None else default_root()

    def find(self, name: str, key: dict[str, Any]) -> Stage | None:
        """The finished stage made from `key`, if there is one."""
        digest = canonical_hash({"stage": name, "key": key})
        path = self.root / name / digest[:24]
        if not (path / "manifest.json").is_file():
            return None
        return Stage(path, read_json(path / "manifest.json")["result"], digest, fresh=False)

    def stage(self, name: str, key: dict[str, Any], build: Callable[[Path], dict[str, Any]]) -> Stage:
        """The output of stage `name` for `key`: found, or built by `build(folder) -> measured values`.

        Two processes that ask for the same stage build it once.
        """
        if found := self.find(name, key):
            return found
        digest = canonical_hash({"stage": name, "key": key})
        path = self.root / name / digest[:24]
        with locked(self.root / name / f"{digest[:24]}.lock", f"the {name} stage"):
            if found := self.find(name, key):
                return found
            clear_abandoned(path)
            with atomic_dir(path) as folder:
                result = build(folder)
                write_json(folder / "manifest.json", {"stage": name, "key": key, "result": result})
        return Stage(path, read_json(path / "manifest.json")["result"], digest, fresh=True)

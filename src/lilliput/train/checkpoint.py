"""Checkpoints: folders that appear whole or not at all, and that prove they are undamaged when read.

`checkpoints/step-00001234/` holds `model.safetensors`, `optimizer.safetensors`, `state.json` and
`SHA256SUMS` (as `sha256sum -c` reads it). It is written beside, fsynced and renamed; the last two are kept,
so that a damaged one leaves the one before. After the run was thrown back (see `loop`) the same step is
saved again, with another place in the data, as `step-00001234.1`.
"""

from __future__ import annotations

import errno
import json
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from lilliput.errors import CheckpointError, ConfigError, StorageError
from lilliput.progress import warn
from lilliput.store import atomic_dir, file_hash, fsync_dir

FORMAT = 1
_NAME = re.compile(r"^step-(\d{8,})(?:\.(\d+))?$")
_SUMS = "SHA256SUMS"
_PARTS = ("model.safetensors", "optimizer.safetensors", "state.json")
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


@dataclass(frozen=True)
class Saved:
    """One checkpoint's content, on the CPU. state: whatever the loop wrote (JSON values)."""

    path: Path
    model: dict[str, torch.Tensor]
    optimizer: dict[str, torch.Tensor]
    state: dict[str, Any]


def name_of(step: int, attempt: int = 0) -> str:
    """The folder of a step; `attempt` counts how often the run was thrown back to it."""
    return f"step-{step:08d}" + (f".{attempt}" if attempt else "")


def found(folder: Path) -> list[Path]:
    """The checkpoints in `folder`, the oldest first; half-written ones are not among them."""
    if not folder.is_dir():
        return []
    matches = [(path, _NAME.match(path.name)) for path in folder.iterdir() if path.is_dir()]
    keyed = [((int(match[1]), int(match[2] or 0)), path) for path, match in matches if match]
    return [path for _, path in sorted(keyed)]


def clear_abandoned(folder: Path) -> None:
    """Remove what a killed process left half-written."""
    if folder.is_dir():
        for left in folder.glob(".step-*"):
            shutil.rmtree(left, ignore_errors=True)


def disk_full(error: BaseException) -> bool:
    """Whether the system refused to write more: disk or quota full, or a file-size limit."""
    if isinstance(error, SafetensorError):  # raised by the writer's own file code, with the code in its text
        return any(f"os error {code})" in str(error) for code in _FULL)
    return isinstance(error, OSError) and error.errno in _FULL


def storage_error(folder: Path, needed: int, detail: object) -> StorageError:
    """The error for a full disk, saying what is safe and how to go on."""
    good = found(folder)
    safe = f"the last good checkpoint is {good[-1].name}" if good else "no checkpoint exists yet"
    room = f"about {-(-needed // 1_000_000)} MB" if needed else "some room"
    return StorageError(
        f"no room left to write ({detail}); {safe}",
        where=str(folder),
        mend=f"make {room} free there and run the same command again: it goes on from that checkpoint",
    )


def save(
    folder: Path,
    step: int,
    model: Mapping[str, torch.Tensor],
    optimizer: Mapping[str, torch.Tensor],
    state: Mapping[str, Any],
    *,
    attempt: int = 0,
    keep: int = 2,
) -> Path:
    """Write a checkpoint and drop all but the last `keep`; StorageError where the disk is full.

    Needs, for a moment, room for keep + 1 checkpoints. Those there before stay until this one is safe.
    """
    path = folder / name_of(step, attempt)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        clear_abandoned(folder)
        with atomic_dir(path) as temporary:
            for part, tensors in zip(_PARTS, (model, optimizer), strict=False):
                save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, temporary / part)
            text = json.dumps({"format": FORMAT, "step": step, **state}, indent=1)
            (temporary / _PARTS[2]).write_text(text + "\n", encoding="utf-8")
            sums = "".join(f"{file_hash(temporary / part)}  {part}\n" for part in _PARTS)
            (temporary / _SUMS).write_text(sums, encoding="utf-8")
            fsync_dir(temporary)
    except (OSError, SafetensorError) as error:
        if not disk_full(error):
            raise
        bytes_needed = sum(t.numel() * t.element_size() for part in (model, optimizer) for t in part.values())
        raise storage_error(folder, bytes_needed, error) from error
    for old in found(folder)[:-keep]:
        _remove(old)
    return path


def _remove(path: Path) -> None:
    """Hide a checkpoint, then delete it: killed half-way, it is never taken for one."""
    hidden = path.with_name(f".{path.name}.old")
    shutil.rmtree(hidden, ignore_errors=True)
    path.rename(hidden)
    shutil.rmtree(hidden, ignore_errors=True)


def weights_hash(folder: Path) -> str:
    """The SHA-256 of the newest checkpoint's weights, as it was written down; CheckpointError where there is none."""
    paths = found(folder)
    if not paths:
        raise CheckpointError("the run's checkpoints have disappeared", where=str(folder))
    return _read_sums(paths[-1]).get(_PARTS[0], "")


def load(path: Path) -> Saved:
    """Read one checkpoint; CheckpointError where a file is missing, torn or altered."""
    sums = _read_sums(path)
    for part in _PARTS:
        if part not in sums or not (path / part).is_file():
            raise CheckpointError("the checkpoint is incomplete", where=str(path / part))
        if file_hash(path / part) != sums[part]:
            raise CheckpointError("the checkpoint is damaged (checksum)", where=str(path / part))
    state = json.loads((path / _PARTS[2]).read_text(encoding="utf-8"))
    if state.get("format") != FORMAT:
        # No damage, so no falling back to the one before: the run belongs to another version.
        raise ConfigError(
            f"the checkpoint has format {state.get('format')}, this version reads {FORMAT}",
            where=str(path),
            mend="go on with the version of Lilliput that began the run",
        )
    return Saved(path, load_file(path / _PARTS[0]), load_file(path / _PARTS[1]), state)


def _read_sums(path: Path) -> dict[str, str]:
    try:
        lines = (path / _SUMS).read_text(encoding="utf-8").splitlines()
        return {name: digest for digest, name in (line.split("  ", 1) for line in lines)}
    except (FileNotFoundError, UnicodeDecodeError, ValueError):
        raise CheckpointError("the checkpoint has no readable checksums", where=str(path / _SUMS)) from None


def load_latest(folder: Path) -> Saved | None:
    """The newest undamaged checkpoint, or None where the run has not begun.

    A damaged one is reported, passed over for the one before, and removed once that one is read. Where all
    are damaged: CheckpointError, never a silent new start.
    """
    clear_abandoned(folder)
    paths = found(folder)
    damaged: list[Path] = []
    for path in reversed(paths):
        try:
            saved = load(path)
        except CheckpointError as error:
            warn(f"{error}; trying the checkpoint before it")
            damaged.append(path)
            continue
        for bad in damaged:
            _remove(bad)
        return saved
    if paths:
        raise CheckpointError(
            "none of the run's checkpoints is undamaged",
            where=str(folder),
            mend="restore one from a copy, or remove the folder to train from the start",
        )
    return None

"""`metrics.jsonl`: one row for each logged step and each evaluation, never one that a resume undid."""

from __future__ import annotations

import json
import math
import os
from importlib.util import find_spec
from pathlib import Path
from typing import IO, Any

from lilliput.errors import MissingExtra

Row = dict[str, Any]


def read_metrics(path: Path | str) -> list[Row]:
    """The rows written so far; a last line torn by a kill is left out."""
    rows: list[Row] = []
    if not Path(path).is_file():
        return rows
    with open(path, "rb") as file:
        for line in file:
            row = _parse(line)
            if row is None:
                break
            rows.append(row)
    return rows


def _parse(line: bytes) -> Row | None:
    if not line.endswith(b"\n"):
        return None
    try:
        row = json.loads(line)
    except ValueError:
        return None
    return row if isinstance(row, dict) and "step" in row else None


def _plain(value: Any) -> Any:
    """NaN and infinities have no JSON: null."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return value


class Metrics:
    """Appends rows; each is flushed, so a kill loses none and a reader sees them as they come."""

    def __init__(self, folder: Path, step: int, *, tensorboard: bool = False) -> None:
        """Open for a run that is at `step`: rows of later steps, which will be done again, are cut off."""
        self.path = folder / "metrics.jsonl"
        self.evaluated: set[int] = set()
        self.cut(step)
        self._file: IO[str] = open(self.path, "a", encoding="utf-8")  # noqa: SIM115  (closed by close())
        self._board = _board(folder, step) if tensorboard else None

    def cut(self, step: int) -> None:
        """Drop rows beyond `step`."""
        self.evaluated.clear()
        if not self.path.is_file():
            return
        keep = 0
        with open(self.path, "rb") as file:
            for line in file:
                row = _parse(line)
                if row is None or row["step"] > step:
                    break
                keep += len(line)
                if "evaluation" in row:
                    self.evaluated.add(int(row["step"]))
        os.truncate(self.path, keep)

    def write(self, row: Row) -> None:
        """Append one row; it must hold `step`."""
        if "evaluation" in row:
            self.evaluated.add(int(row["step"]))
        self._file.write(json.dumps(_plain(row), ensure_ascii=False, allow_nan=False) + "\n")
        self._file.flush()
        if self._board is not None:
            flat = {**row, **row.get("evaluation", {})}
            for name, value in flat.items():
                if name != "step" and isinstance(value, int | float):
                    self._board.add_scalar(name, value, row["step"])

    def sync(self) -> None:
        """Make the rows durable, before the checkpoint that relies on them."""
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Close the files."""
        self._file.close()
        if self._board is not None:
            self._board.close()


def check_tensorboard() -> None:
    """Raise MissingExtra where TensorBoard events cannot be written."""
    if find_spec("tensorboard") is None:
        raise MissingExtra("tensorboard", "log")


def _board(folder: Path, step: int) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise MissingExtra("tensorboard", "log") from None
    return SummaryWriter(str(folder / "tensorboard"), purge_step=step)

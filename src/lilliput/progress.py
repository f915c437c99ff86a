"""What a person sees while work goes on: messages, warnings, and progress with rate and remaining time.

Everything goes to stderr, so that stdout stays free for results (`--json`, generated text).
"""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import Any

_quiet = False
# Off a terminal a line every few seconds is enough to see that the work goes on.
_PLAIN_INTERVAL = 5.0
_TTY_INTERVAL = 0.1


def configure(*, quiet: bool) -> None:
    """Silence `say` and progress (warnings are always shown)."""
    global _quiet
    _quiet = quiet


def is_quiet() -> bool:
    """Whether progress is silenced: what a process started from this one is to be told."""
    return _quiet


def say(message: str) -> None:
    """Tell the person something, unless they asked for quiet."""
    if not _quiet:
        print(message, file=sys.stderr, flush=True)


def warn(message: str) -> None:
    """Tell the person something they must not miss."""
    print(f"warning: {message}", file=sys.stderr, flush=True)


_told: set[str] = set()


def warn_once(message: str) -> None:
    """`warn`, unless this process has said so before."""
    if message not in _told:
        _told.add(message)
        warn(message)


def duration(seconds: float) -> str:
    """`75` → `1m15s`; `3700` → `1h01m`."""
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02d}s"
    return f"{whole // 3600}h{whole % 3600 // 60:02d}m"


def count(value: float) -> str:
    """`1234567` → `1.23M`."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:.3g}{letter}"
    return f"{value:.3g}"


class Progress:
    """Progress of one piece of work, as a context manager.

    title: what is done. total: how many units in all, if known. unit: what is counted. start: units done
    before (a resumed run), so that the rate is that of this process.
    """

    def __init__(self, title: str, total: int | None = None, unit: str = "items", *, start: int = 0) -> None:
        self.title, self.total, self.unit = title, total, unit
        self.done = self._start = start
        self._fields: dict[str, Any] = {}
        self._tty = sys.stderr.isatty()
        self._shown_done: int | None = None

    def __enter__(self) -> Progress:
        self._began = self._last = time.monotonic()
        return self

    def update(self, done: int, **fields: Any) -> None:
        """Say how far the work is (an absolute count); `fields` are shown beside it."""
        self.done = done
        self._fields.update(fields)
        now = time.monotonic()
        if not _quiet and now - self._last >= (_TTY_INTERVAL if self._tty else _PLAIN_INTERVAL):
            self._last = now
            self._show(now)

    def _line(self, now: float) -> str:
        elapsed = max(now - self._began, 1e-9)
        rate = (self.done - self._start) / elapsed
        parts = [self.title]
        if self.total:
            share = min(1.0, self.done / self.total)
            parts.append(f"{share:4.0%}  {count(self.done)}/{count(self.total)} {self.unit}")
        else:
            parts.append(f"{count(self.done)} {self.unit}")
        parts.append(f"{count(rate)}/s")
        if self.total and rate > 0:
            parts.append(f"{duration((self.total - self.done) / rate)} left")
        parts += [
            f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}"
            for name, value in self._fields.items()
        ]
        return "  ".join(parts)

    def _show(self, now: float) -> None:
        self._shown_done = self.done
        if self._tty:
            print(f"\r\x1b[2K{self._line(now)}", end="", file=sys.stderr, flush=True)
        else:
            print(self._line(now), file=sys.stderr, flush=True)

    def __exit__(self, kind: type[BaseException] | None, _: object, __: TracebackType | None) -> None:
        if _quiet or self._shown_done is None:
            return
        if self._shown_done != self.done:
            self._show(time.monotonic())
        if self._tty:
            print(file=sys.stderr, flush=True)

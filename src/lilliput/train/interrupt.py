"""Ctrl-C (or a scheduler's SIGTERM) during training: the step is finished and saved first."""

from __future__ import annotations

import signal
import threading
import time
from types import FrameType, TracebackType
from typing import Any

# A terminal sends Ctrl-C to torchrun and to its processes, and torchrun passes it on: one key, two signals.
SAME_SECONDS = 2.0


class Interrupt:
    """Context manager. `asked` turns true at the first signal; a second Ctrl-C raises KeyboardInterrupt.

    Where `at_once` is set (all is saved already, as during an evaluation) the first one raises too.
    """

    def __init__(self) -> None:
        self.asked = False
        self.at_once = False
        self._asked_at = 0.0
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Interrupt:
        # Only the main thread may set handlers; elsewhere (a notebook's worker) signals stay as they are.
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._handle)
        return self

    def _handle(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        again = self.asked and number == signal.SIGINT and now - self._asked_at > SAME_SECONDS
        if self.at_once or again:
            raise KeyboardInterrupt
        if not self.asked:
            self.asked, self._asked_at = True, now

    def __exit__(self, kind: type[BaseException] | None, _: object, __: TracebackType | None) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

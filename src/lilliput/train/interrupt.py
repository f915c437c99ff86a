"""Ctrl-C (or a scheduler's SIGTERM) during training: the step is finished and saved first."""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType
from typing import Any


class Interrupt:
    """Context manager. `asked` turns true at the first signal; a second one raises KeyboardInterrupt at once.

    Where `at_once` is set (all is saved already, as during an evaluation) the first one raises too.
    """

    def __init__(self) -> None:
        self.asked = False
        self.at_once = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Interrupt:
        # Only the main thread may set handlers; elsewhere (a notebook's worker) signals stay as they are.
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._handle)
        return self

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.asked or self.at_once:
            raise KeyboardInterrupt
        self.asked = True

    def __exit__(self, kind: type[BaseException] | None, _: object, __: TracebackType | None) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

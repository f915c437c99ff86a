"""Measuring in a fresh process: a call is made there, and its answer or its error comes back."""

from __future__ import annotations

import multiprocessing
import re
import signal
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch

from lilliput.device import peak_rss, reset_peak_rss
from lilliput.errors import LilliputError
from lilliput.progress import configure, is_quiet

_STATUS = Path("/proc/self/status")


class ApartError(LilliputError):
    """The fresh process ended without an answer. code: its exit code, negative where a signal ended it."""

    def __init__(self, code: int | None) -> None:
        ended = code is not None and code < 0
        super().__init__(
            f"the measuring process ended with code {code} and gave no answer",
            mend="choose a smaller model or batch, or free some memory"
            if ended
            else 'a script that measures begins its work under `if __name__ == "__main__":`',
        )


def call_apart(work: Callable[[], Any]) -> Any:
    """`work()` in a process that has done nothing before; raises what it raises.

    work: a function of a module, or a `partial` of one. Raises ApartError where the process ends without one,
    as where the system ended it because memory ran out.
    """
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe(duplex=False)
    process = context.Process(target=_answer, args=(there, work, is_quiet()), daemon=True)
    process.start()
    there.close()
    try:
        done, outcome = here.recv()
    except EOFError:
        process.join()
        raise ApartError(process.exitcode) from None
    finally:
        process.kill()
        process.join()
        here.close()
    if not done:
        raise outcome
    return outcome


def _answer(pipe: Connection, work: Callable[[], Any], quiet: bool) -> None:
    configure(quiet=quiet)
    # Ctrl-C reaches every process of a terminal; the caller ends this one.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        pipe.send((True, work()))
    except Exception as error:
        pipe.send((False, error))


def memory_mark(device: torch.device) -> int:
    """Bytes that this process (on a GPU: its allocator) holds now; its peak is counted anew from here on, where
    the system allows that (Linux)."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return torch.cuda.memory_allocated(device)
    reset_peak_rss()
    return _status("VmRSS") or peak_rss()


def memory_since(mark: int, device: torch.device) -> int:
    """Growth in bytes of the peak over `mark`."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) - mark
    # getrusage's peak would do, but on Linux a new process inherits the one of the process that started it.
    return max(0, (_status("VmHWM") or peak_rss()) - mark)


def _status(field: str) -> int | None:
    """Bytes of a line of Linux's process status; None elsewhere."""
    try:
        found = re.search(rf"^{field}:\s+(\d+) kB$", _STATUS.read_text(encoding="ascii"), re.MULTILINE)
    except OSError:
        return None
    return int(found[1]) * 1024 if found else None

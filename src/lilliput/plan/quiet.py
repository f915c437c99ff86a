"""Is this machine quiet enough to be timed?"""

from __future__ import annotations

import os
import time
from pathlib import Path

_MOMENT = 0.3
# Of the cores that are to be timed, so much must be idle: housekeeping takes a few per cent.
_IDLE = 0.85
_STAT = Path("/proc/stat")


def quiet(cores: int) -> bool:
    """Whether `cores` cores (at most all there are) have next to nothing else to do just now; takes 0.3 seconds.

    Where the system does not tell it counts as quiet.
    """
    idle = _idle_cores()
    return idle is None or idle >= _IDLE * min(cores, os.cpu_count() or cores)


def _idle_cores() -> float | None:
    """Cores without work over a moment; what the machine's owner takes from a virtual one counts as work."""
    if _STAT.is_file():
        before = _ticks()
        time.sleep(_MOMENT)
        after = _ticks()
        return after[2] * (after[0] - before[0]) / max(1, after[1] - before[1])
    if hasattr(os, "getloadavg"):
        return (os.cpu_count() or 1) - os.getloadavg()[0]
    return None


def _ticks() -> tuple[int, int, int]:
    """(idle ticks of all cores so far, all ticks, cores), by proc(5)."""
    lines = [line.split() for line in _STAT.read_text(encoding="ascii").splitlines() if line.startswith("cpu")]
    # user nice system idle iowait irq softirq steal; guests are counted in user, too
    counts = [int(value) for value in lines[0][1:9]]
    return counts[3] + counts[4], sum(counts), len(lines) - 1

"""What this machine is and can do: device, threads, compiler, memory."""

from __future__ import annotations

import os
import platform
import shutil
import sys
from contextlib import suppress
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

from lilliput.errors import ConfigError

if TYPE_CHECKING:
    import torch


def pick_device(name: str = "auto") -> torch.device:
    """The device to work on: a GPU where there is one, else the CPU; `name` names one outright.

    Under `torchrun` each process takes the GPU of its local rank.
    """
    import torch

    gpu = torch.cuda.is_available()
    if name == "auto":
        name = f"cuda:{os.environ.get('LOCAL_RANK', '0')}" if gpu else "cpu"
    try:
        chosen = torch.device(name)
    except RuntimeError:
        raise ConfigError(f"no such device: {name}", where="device", mend="auto, cpu or cuda") from None
    if chosen.type not in ("cpu", "cuda"):
        raise ConfigError(f"no work is done on {chosen.type}", where=f"device {name}", mend="auto, cpu or cuda")
    if chosen.type == "cuda" and (chosen.index or 0) >= torch.cuda.device_count():
        raise ConfigError("no such GPU that torch can use", where=f"device {name}", mend="cpu, or another number")
    return chosen


def threads() -> int:
    """Threads to compute with: OMP_NUM_THREADS where set, else the cores this process may use."""
    asked = os.environ.get("OMP_NUM_THREADS", "")
    if asked.isdigit() and int(asked) > 0:
        return int(asked)
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def compiler() -> str | None:
    """The C++ compiler that `torch.compile` would use on a CPU, or None."""
    for candidate in (os.environ.get("CXX"), "g++", "clang++", "c++"):
        if candidate and (found := shutil.which(candidate)):
            return found
    return None


def peak_rss() -> int:
    """Peak resident memory of this process, in bytes."""
    if sys.platform == "win32":
        return 0
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def reset_peak_rss() -> None:
    """Count `peak_rss` anew from here on, where the system allows that (Linux)."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def total_memory() -> int:
    """Memory of this machine in bytes (0 where the system does not say)."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return 0


def versions() -> dict[str, str]:
    """Versions of Python and of every package a result depends on."""
    found = {"python": platform.python_version()}
    for package in ("lilliput", "torch", "numpy", "tokenizers", "safetensors", "transformers"):
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def _cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text(errors="replace").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def machine() -> dict[str, object]:
    """This machine, for the record beside a result."""
    import torch

    gpu = torch.cuda.get_device_name(0) if torch.cuda.is_available() else None
    return {
        "cpu": _cpu_name(),
        "cores": threads(),
        "memory_gb": round(total_memory() / 1e9, 1),
        "gpu": gpu,
        "system": f"{platform.system()} {platform.machine()}",
    }

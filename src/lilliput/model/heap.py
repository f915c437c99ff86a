"""The C library's heap, told to keep what it has.

A training step allocates and frees tensors of tens of megabytes. By default glibc gives such blocks back to the
system at once, and the system clears every page again at the next step: on a CPU that was 10 to 15 % of a
compiled step's time.
"""

from __future__ import annotations

import ctypes
import sys

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4


def keep_freed_memory() -> bool:
    """Have this process reuse freed memory instead of returning it to the system; True where that is possible
    (Linux with glibc). Call it before training; the process then keeps its peak memory until `return_freed_memory`."""
    library = _glibc()
    return library is not None and bool(
        library.mallopt(_M_MMAP_MAX, 0) and library.mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)
    )


def return_freed_memory() -> None:
    """Give what is free back to the system, once. Call it after training: a process that trains one model after another
    would otherwise grow by the gaps that each shape leaves for the next, about 100 MB a shape of 1M parameters."""
    if (library := _glibc()) is not None:
        library.malloc_trim(0)


def _glibc() -> ctypes.CDLL | None:
    """The C library where it is glibc; None elsewhere."""
    if not sys.platform.startswith("linux"):
        return None
    try:
        library = ctypes.CDLL("libc.so.6")
    except OSError:  # another C library
        return None
    return library if hasattr(library, "mallopt") and hasattr(library, "malloc_trim") else None

"""What `doctor` looks at."""

from __future__ import annotations

import os
import shutil
import sys
import sysconfig
import tempfile
from importlib.metadata import PackageNotFoundError, requires, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from lilliput import device
from lilliput.store import default_root

# Where a package is imported under another name than it is installed by.
_IMPORTED_AS = {"pyyaml": "yaml", "scikit-learn": "sklearn"}
# What each extra of pyproject.toml adds, for people.
_ADDS = {
    "hf": "data sets of the Hugging Face hub",
    "data": "Parquet and .zst files",
    "tokenizers": "SentencePiece models, and faster encoding by tiktoken",
    "lab": "verdicts of studies, the baseline of classify",
    "log": "TensorBoard",
}
_LITTLE_DISK = 5e9


def checkup() -> dict[str, Any]:
    """Everything `doctor` reports, as plain values."""
    machine = device.machine()
    compiler = device.compiler()
    headers = Path(sysconfig.get_path("include"), "Python.h").is_file()
    data: dict[str, Any] = {
        "lilliput": version("lilliput"),
        "python": {"version": ".".join(map(str, sys.version_info[:3])), "executable": sys.executable},
        "torch": {"version": str(torch.__version__), "threads": torch.get_num_threads()},
        "cpu": {"name": machine["cpu"], "cores": device.threads()},
        "memory": {"total_gb": _gb(device.total_memory()), "free_gb": _gb(_free_memory())},
        "gpu": machine["gpu"],
        "compiler": {"path": compiler, "python_headers": headers, "compile": bool(compiler) and headers},
        "store": _store(),
        "extras": {name: _extra(name) for name in _ADDS},
    }
    return data | {"advice": _advice(data)}


def _gb(size: float) -> float:
    return round(size / 1e9, 1)


def _free_memory() -> int:
    """Memory that programs can still have, in bytes (0 where the system does not say)."""
    info = Path("/proc/meminfo")
    if info.is_file():
        for line in info.read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    return 0


def _store() -> dict[str, Any]:
    """The store's folder, the room on its disk, and whether we may write there."""
    root = default_root().absolute()
    existing = next(folder for folder in (root, *root.parents) if folder.exists())
    usage = shutil.disk_usage(existing)
    used = sum(_size(file) for file in root.rglob("*")) if root.is_dir() else 0
    sizes = {"free_gb": _gb(usage.free), "used_gb": _gb(used)}
    return {"path": str(root), **sizes, "writable": _writable(existing)}


def _size(file: Path) -> int:
    try:
        return file.stat().st_size if file.is_file() else 0
    except OSError:
        # Another process at work there has just removed it.
        return 0


def _writable(folder: Path) -> bool:
    if not folder.is_dir() or not os.access(folder, os.W_OK):
        return False
    try:
        with tempfile.TemporaryFile(dir=folder):
            return True
    except OSError:
        return False


def _extra(name: str) -> dict[str, Any]:
    """Whether the packages of an extra are here, and how to get them."""
    wanted = [
        line.split(";")[0].strip()
        for line in requires("lilliput") or []
        if f'extra == "{name}"' in line or f"extra == '{name}'" in line
    ]
    packages = [_package(line) for line in wanted]
    missing = [package for package in packages if not _present(package)]
    return {"present": not missing, "missing": missing, "install": f"pip install 'lilliput[{name}]'"}


def _package(requirement: str) -> str:
    end = next((i for i, letter in enumerate(requirement) if not (letter.isalnum() or letter in "-_.")), None)
    return requirement[:end]


def _present(package: str) -> bool:
    try:
        version(package)
    except PackageNotFoundError:
        return False
    return find_spec(_IMPORTED_AS.get(package.lower(), package.replace("-", "_"))) is not None


def _advice(data: dict[str, Any]) -> list[str]:
    """What would let this machine do more, in order of weight."""
    advice = []
    store, compiler = data["store"], data["compiler"]
    if not store["writable"]:
        advice.append(f"the store {store['path']} cannot be written: set LILLIPUT_STORE to a folder of yours")
    if store["free_gb"] * 1e9 < _LITTLE_DISK:
        advice.append(f"only {store['free_gb']} GB are free for the store: free some, or set LILLIPUT_STORE")
    if not compiler["path"]:
        advice.append("no C++ compiler: training works, and is faster with one (install g++ or clang++)")
    elif not compiler["python_headers"]:
        advice.append("no Python.h: torch.compile on a CPU needs it (install python3-dev or its like)")
    for name, extra in data["extras"].items():
        if not extra["present"]:
            advice.append(f"for {_ADDS[name]}: {extra['install']}")
    return advice


def describe(data: dict[str, Any]) -> str:
    """The same for people."""
    compiler, store = data["compiler"], data["store"]
    free = data["memory"]["free_gb"]
    compiles = "" if compiler["compile"] else "  (torch.compile is off)"
    rows = [
        ("lilliput", data["lilliput"]),
        ("python", f"{data['python']['version']}  {data['python']['executable']}"),
        ("torch", f"{data['torch']['version']}  {data['torch']['threads']} threads"),
        ("cpu", f"{data['cpu']['name']}  {data['cpu']['cores']} cores"),
        ("memory", f"{data['memory']['total_gb']} GB" + (f", {free} GB free" if free else "")),
        ("gpu", data["gpu"] or "none that torch can use"),
        ("compiler", f"{compiler['path'] or 'none'}{compiles}"),
        ("store", f"{store['path']}  {store['free_gb']} GB free, {store['used_gb']} GB used"),
    ]
    rows += [
        (f"extra {name}", "present" if extra["present"] else f"absent: {', '.join(extra['missing'])}")
        for name, extra in data["extras"].items()
    ]
    lines = [f"{name:<11} {value}" for name, value in rows]
    lines += ["", *data["advice"]] if data["advice"] else ["", "Nothing is missing."]
    return "\n".join(lines)

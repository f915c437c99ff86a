"""A folder with a little real text, and one tiny model made from it by the command line, shared by all."""

import inspect
import io
import json
import os
import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from e2e_support import SMALL

from lilliput.cli.main import run

_MODULES = ("argparse", "ast", "difflib", "inspect", "json", "pathlib", "statistics", "textwrap")
_UNSEEN = "typing"


@dataclass(frozen=True)
class Shell:
    """Commands as people type them, in one folder."""

    folder: Path

    def __call__(self, command: str, *, stdin: str = "", timeout: int = 240) -> subprocess.CompletedProcess[str]:
        """Run a line of shell; `lilliput` and `python` are those that run the tests."""
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        env = {**os.environ, "PATH": path, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
        return subprocess.run(
            ["bash", "-c", command], cwd=self.folder, env=env, input=stdin,
            capture_output=True, text=True, encoding="utf-8", timeout=timeout,
        )  # fmt: skip


@dataclass(frozen=True)
class Caller:
    """Lilliput's command lines, run in this process: what `Shell` does, without starting a program each time."""

    capfd: pytest.CaptureFixture[str]
    monkeypatch: pytest.MonkeyPatch

    def __call__(self, command: str, *, stdin: str = "") -> subprocess.CompletedProcess[str]:
        """Run `lilliput …`; stdout and stderr are those of the process, as a shell would see them."""
        words = shlex.split(command)
        assert words[0] == "lilliput"
        self.monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin.encode()), "utf-8"))
        self.capfd.readouterr()
        code = run(words[1:])
        sys.stdout.flush()
        out, err = self.capfd.readouterr()
        return subprocess.CompletedProcess(words, code, out, err)


@pytest.fixture
def call(shell: Shell, tiny_run: dict[str, Any], capfd, monkeypatch) -> Caller:
    """Lilliput in the folder of `shell`, with the tiny model there."""
    monkeypatch.chdir(shell.folder)
    # As many threads as `shell` gives: they are part of what decides a run's weights.
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    return Caller(capfd, monkeypatch)


def write_texts(folder: Path) -> None:
    """Text of the kinds people have: a plain file, a folder, and JSONL that the others do not hold."""
    import importlib

    sources = {name: inspect.getsource(importlib.import_module(name)) for name in _MODULES}
    (folder / "notes.txt").write_text("\n\n".join(sources.values()), encoding="utf-8")
    (folder / "my_texts").mkdir()
    for name, text in sources.items():
        (folder / "my_texts" / f"{name}.txt").write_text(text, encoding="utf-8")
    unseen = inspect.getsource(importlib.import_module(_UNSEEN))
    pieces = [piece for piece in unseen.split("\n\n\n") if piece.strip()]
    rows = "".join(json.dumps({"text": piece}) + "\n" for piece in pieces[:40])
    (folder / "dev.jsonl").write_text(rows, encoding="utf-8")


@pytest.fixture(scope="session")
def shell(tmp_path_factory: pytest.TempPathFactory) -> Shell:
    """A shell in a folder with texts."""
    folder = tmp_path_factory.mktemp("work")
    write_texts(folder)
    return Shell(folder)


@pytest.fixture(scope="session")
def tiny_run(shell: Shell) -> dict[str, Any]:
    """What `lilliput make --json` answered for a tiny model of `notes.txt`, in `runs/tiny`."""
    done = shell(f"lilliput make tiny corpus=notes.txt {' '.join(SMALL)} --out runs/tiny --json")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("\n") == 1
    answer: dict[str, Any] = json.loads(done.stdout)
    answer["stderr"] = done.stderr
    return answer

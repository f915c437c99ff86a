"""A ladder stopped by Ctrl-C, then killed, then let go on ends as one that was left alone, to the last bit."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

_WORDS = (
    "ladder tiny corpus=my_texts budget.params=40k model.context=32 train.tokens=48k train.batch_tokens=1024 "
    "inherit.layers=uniform inherit.sequences=10 evaluate.bytes=6k rounds.parts=2 --rates 1 --json"
)
# Ctrl-C reaches a program that is started from here only where it asks for it.
_ENTRY = (
    "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler); "
    "from lilliput.cli.main import run; sys.exit(run(sys.argv[1:]))"
)


def _start(folder: Path, out: str, store: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", _ENTRY, *_WORDS.split(), "--out", out]
    surroundings = {**os.environ, "LILLIPUT_STORE": str(store), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        command, cwd=folder, env=surroundings, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        start_new_session=True,
    )  # fmt: skip


def _until(process: subprocess.Popen[str], words: str) -> None:
    assert process.stderr is not None
    for line in process.stderr:
        if words in line:
            return
    raise AssertionError(f"it ended without {words!r}")


def _end(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    out, err = process.communicate(timeout=600)
    return process.returncode, out, err


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.skipif(sys.platform == "win32", reason="needs signals")
def test_a_stopped_and_killed_ladder_ends_as_one_left_alone(shell: Any, tmp_path: Path) -> None:
    code, answered, said = _end(_start(shell.folder, "runs/alone", tmp_path / "alone"))
    assert code == 0, said
    alone = json.loads(answered)

    stopped = _start(shell.folder, "runs/stopped", tmp_path / "stopped")
    _until(stopped, "cell 2 of 5")
    os.killpg(stopped.pid, signal.SIGINT)
    code, answered, said = _end(stopped)
    assert code == 1
    assert "same command" in json.loads(answered)["error"]["mend"]

    killed = _start(shell.folder, "runs/stopped", tmp_path / "stopped")
    _until(killed, "cell 4 of 5")
    os.killpg(killed.pid, signal.SIGKILL)
    killed.communicate(timeout=60)

    code, answered, said = _end(_start(shell.folder, "runs/stopped", tmp_path / "stopped"))
    assert code == 0, said
    assert "2 cells to train" in said
    found = json.loads(answered)
    for name in ("bits_per_byte", "gain", "cell", "samples"):
        assert [rung[name] for rung in found["rungs"]] == [rung[name] for rung in alone["rungs"]]
    code, again, said = _end(_start(shell.folder, "runs/stopped", tmp_path / "stopped"))
    assert json.loads(again) == found
    assert "finished before" in said

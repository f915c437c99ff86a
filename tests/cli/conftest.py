"""What the tests of the command line share: running it as people do."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest


@dataclass(frozen=True)
class Ran:
    """One command as the shell sees it."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """The one JSON object on stdout; fails where there is more or less."""
        assert self.out.count("\n") == 1, self.out
        return json.loads(self.out)


@pytest.fixture
def lilliput(tmp_path: Path) -> Callable[..., Ran]:
    """Run `lilliput WORDS…` in a folder of the test's own."""

    def run(*words: object, stdin: str | bytes = "", env: dict[str, str] | None = None) -> Ran:
        raw = stdin.encode() if isinstance(stdin, str) else stdin
        command = [sys.executable, "-m", "lilliput.cli.main", *map(str, words)]
        surroundings = {**os.environ, "OMP_NUM_THREADS": "1", **(env or {})}
        done = subprocess.run(command, input=raw, capture_output=True, cwd=tmp_path, env=surroundings)
        # Strict decoding: whatever a command prints is valid UTF-8.
        return Ran(done.returncode, done.stdout.decode(), done.stderr.decode())

    return run

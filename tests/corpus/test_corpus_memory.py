"""Memory stays within what is promised (the measurement is bench/corpus_memory.py)."""

import subprocess
import sys
from pathlib import Path

import pytest

BENCH = Path(__file__).resolve().parents[2] / "bench" / "corpus_memory.py"


@pytest.mark.slow
@pytest.mark.data
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("case", ["novels", "chinese", "long_line", "long_row"])
def test_peak_memory_is_bounded(data_dir: Path, case: str) -> None:
    command = [sys.executable, BENCH, case, "--data", data_dir]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr

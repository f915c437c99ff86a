"""kill -9 at any moment, then the same command: the final weights are those of a run left alone."""

import sys
from pathlib import Path

import pytest
from killing import SECONDS, compare

KILLS = 25


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.skipif(sys.platform == "win32", reason="needs signals")
def test_a_run_killed_25_times_ends_in_the_same_weights(tmp_path: Path) -> None:
    seen = compare(tmp_path, kills=KILLS, seed=0, seconds=SECONDS)
    assert seen["seconds_alone"] >= 60
    assert len(seen["kills"]) == KILLS
    for moment in ("checkpoint write", "epoch edge", "evaluation"):
        assert seen["phases"][moment] >= 1, seen["phases"]
    assert len({kill["store"] for kill in seen["kills"]}) == 2
    assert seen["damaged"] == 0
    assert seen["bit_identical"], seen["sha256"]
    assert seen["same_losses"]
    assert seen["bits_per_byte"]["alone"] == seen["bits_per_byte"]["killed"]

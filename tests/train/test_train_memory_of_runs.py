"""A process that trains several models: each has a peak of its own, and what one leaves is given back."""

import sys
from pathlib import Path

import pytest
from train_support import CPU, model, settings, stream

from lilliput.device import peak_rss
from lilliput.train.loop import train


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux counts a peak anew")
def test_a_run_has_a_peak_of_its_own(tmp_path: Path) -> None:
    train(model(), stream(), settings(steps=2), tmp_path / "a", device=CPU)
    big = bytearray(400_000_000)
    high = peak_rss()
    del big
    # This run, too, ends in giving back what is free: the next one counts from there.
    train(model(), stream(), settings(steps=2), tmp_path / "b", device=CPU)
    result = train(model(), stream(), settings(steps=2), tmp_path / "c", device=CPU)
    assert result.peak_memory < high - 300_000_000

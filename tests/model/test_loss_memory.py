"""The loss's memory must not grow with positions × vocabulary."""

import subprocess
import sys

import pytest

_MEASURE = """
import sys, torch
from lilliput.device import peak_rss
from lilliput.model.loss import cross_entropy
rows, vocab = int(sys.argv[1]), 16384
x = torch.randn(rows, 32, requires_grad=True)
w = torch.randn(vocab, 32, requires_grad=True)
before = peak_rss()
cross_entropy(x, w, torch.randint(0, vocab, (rows,))).backward()
print(peak_rss() - before)
"""


def test_bounded():
    if sys.platform != "linux":
        pytest.skip("peak memory is read from Linux")
    grown = [
        int(
            subprocess.run(
                [sys.executable, "-c", _MEASURE, str(rows)], capture_output=True, check=True
            ).stdout
        )
        for rows in (2048, 8192)
    ]
    logits = 8192 * 16384 * 4
    assert grown[1] < logits / 4
    assert grown[1] - grown[0] < 64e6

"""Minimal pairs: does the model find the acceptable sentence likelier than the unacceptable one?

As BLiMP (1912.00582 §3): Σ log p of BOS + sentence, without regard to length; a pair counts if the good sentence has
strictly more. Pairs stand in paradigms, and paradigms in phenomena; a phenomenon's accuracy, and the task's, is the
mean of its paradigms'.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from lilliput.evaluate.noise import Noise
from lilliput.evaluate.reader import Reader
from lilliput.evaluate.row import Row
from lilliput.evaluate.score import Score

FIELDS = ("sentence_good", "sentence_bad")


@dataclass(frozen=True)
class Pair:
    """Two sentences that differ in what is tested."""

    good: str
    bad: str

    def noisy(self, noise: Noise) -> Pair:
        """The pair with the same noise in what both sentences share."""
        return Pair(*noise.alike((self.good, self.bad)))


def pair(row: Row) -> Pair:
    """The pair of a row; UserError where it is none."""
    return Pair(*(row.text(field, empty=False) for field in FIELDS))


def score_pairs(reader: Reader, pairs: Sequence[Pair], *, title: str | None = "evaluating") -> Score:
    """Score every pair."""
    requests = [("", sentence) for pair in pairs for sentence in (pair.good, pair.bad)]
    found = reader.likelihoods(requests, title)
    log_p = found.log_p.reshape(-1, 2)
    return Score(log_p[:, 0] > log_p[:, 1], tokens=found.tokens, cut=found.cut)

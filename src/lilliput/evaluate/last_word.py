"""The last word of a passage, as LAMBADA asks for it (1606.06031).

`acc`: each token of the word is the likeliest at its place, so greedy writing would write it. `perplexity`:
exp(−mean Σ log p of a word), a word as one unit whatever its number of tokens.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from lilliput.evaluate.mean import mean_error
from lilliput.evaluate.noise import Noise
from lilliput.evaluate.reader import Reader
from lilliput.evaluate.row import Row
from lilliput.evaluate.score import Floats, Score

FIELDS = ("context", "continuation")
# exp of more is no number of ours.
_LARGEST = 700


@dataclass(frozen=True)
class Passage:
    """A passage without its last word, and that word."""

    context: str
    word: str

    def noisy(self, noise: Noise) -> Passage:
        """The passage with noise before its last word."""
        return Passage(noise(self.context), self.word)


def passage(row: Row) -> Passage:
    """The passage of a row; UserError where it is none."""
    return Passage(row.text(FIELDS[0]), row.text(FIELDS[1], empty=False))


def score_last_words(reader: Reader, passages: Sequence[Passage], *, title: str | None = "evaluating") -> Score:
    """Score every passage: accuracy, and perplexity with its standard error by the delta method."""
    requests = [(passage.context, f" {passage.word}") for passage in passages]
    found = reader.likelihoods(requests, title)
    values, figures = {"log_p": found.log_p}, perplexity_of(found.log_p)
    return Score(found.greedy, values=values, figures=figures, tokens=found.tokens, cut=found.cut)


def perplexity_of(log_p: Floats) -> dict[str, float | None]:
    """The perplexity of words, (words,) log-probabilities in nats, and its error; None where it is too large."""
    nats, error = -float(log_p.mean()), mean_error(log_p)
    perplexity = math.exp(nats) if nats < _LARGEST else None
    stderr = None if error is None or perplexity is None else perplexity * error
    return {"perplexity": perplexity, "perplexity_stderr": stderr}

"""The last word of a passage, as LAMBADA asks for it (1606.06031).

`acc`: each token of the word is the likeliest at its place, so greedy writing would write it. `perplexity`:
exp(−mean Σ log p of a word), a word as one unit whatever its number of tokens.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from lilliput.evaluate.items import Row
from lilliput.evaluate.likelihood import likelihoods
from lilliput.evaluate.mean import mean_error

if TYPE_CHECKING:
    from lilliput.model.decoder import Decoder
    from lilliput.tokenizer.load import Tokenizer

FIELDS = ("context", "continuation")


@dataclass(frozen=True)
class Passage:
    """A passage without its last word, and that word."""

    context: str
    word: str


def passage(row: Row) -> Passage:
    """The passage of a row: `context, continuation`, or `text`, whose last word follows its last space, as on the
    hub. UserError where it is none."""
    if "text" not in row.fields:
        return Passage(row.text(FIELDS[0]), row.text(FIELDS[1], empty=False))
    context, space, word = row.text("text", empty=False).rpartition(" ")
    if not space or not word.strip():
        raise row.wrong("text has no last word after a space")
    return Passage(context, word)


@dataclass(frozen=True)
class LastWordScore:
    """log_p: of each last word, in nats. correct: whether greedy writing gives it."""

    log_p: npt.NDArray[np.float64]
    correct: npt.NDArray[np.bool_]
    tokens: int
    cut: int

    def to_dict(self) -> dict[str, Any]:
        """For JSON: accuracy and perplexity with their standard errors (of the perplexity by the delta method)."""
        perplexity, error = _exp(-float(self.log_p.mean())), mean_error(self.log_p)
        return {
            "acc": float(self.correct.mean()),
            "acc_norm": None,
            "stderr": mean_error(self.correct),
            "perplexity": perplexity,
            "perplexity_stderr": None if error is None or perplexity is None else perplexity * error,
            "items": len(self.correct),
            "tokens": self.tokens,
            "cut": self.cut,
        }


def _exp(value: float) -> float | None:
    """exp, or None where it is too large for a number."""
    return math.exp(value) if value < 700 else None


def score_last_words(
    model: Decoder,
    tokenizer: Tokenizer,
    passages: Sequence[Passage],
    *,
    batch: int | None = None,
    title: str | None = "evaluating",
) -> LastWordScore:
    """Score every passage; `batch` and `title` as for `likelihoods`."""
    requests = [(passage.context, f" {passage.word}") for passage in passages]
    found = likelihoods(model, tokenizer, requests, batch=batch, title=title)
    return LastWordScore(found.log_p, found.greedy, found.tokens, found.cut)

"""Minimal pairs: does the model find the acceptable sentence likelier than the unacceptable one?

As BLiMP (1912.00582 §3): Σ log p of BOS + sentence, without regard to length; a pair counts if the good sentence has
strictly more. Pairs stand in paradigms, and paradigms in phenomena; a phenomenon's accuracy, and the task's, is the
mean of its paradigms'.
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

FIELDS = ("sentence_good", "sentence_bad")


@dataclass(frozen=True)
class Pair:
    """Two sentences that differ in what is tested. phenomenon: None where the rows do not say."""

    good: str
    bad: str
    paradigm: str
    phenomenon: str | None


def pair(row: Row) -> Pair:
    """The pair of a row: its paradigm is its `UID`, or else its file; UserError where it is none."""
    good, bad = (row.text(field, empty=False) for field in FIELDS)
    paradigm = row.text("UID") if "UID" in row.fields else row.part
    phenomenon = row.text("linguistics_term") if "linguistics_term" in row.fields else None
    return Pair(good, bad, paradigm, phenomenon)


@dataclass(frozen=True)
class PairScore:
    """log_p: (pairs, 2), of the good and the bad sentence. correct: per pair. paradigms: per pair, its name.
    phenomena: of each paradigm that names one."""

    log_p: npt.NDArray[np.float64]
    correct: npt.NDArray[np.bool_]
    paradigms: npt.NDArray[np.str_]
    phenomena: dict[str, str]
    tokens: int
    cut: int

    def to_dict(self) -> dict[str, Any]:
        """For JSON: the mean, and each phenomenon and paradigm."""
        rows = {}
        for name in sorted(set(self.paradigms.tolist())):
            own = self.correct[self.paradigms == name]
            rows[name] = {"acc": float(own.mean()), "stderr": mean_error(own), "items": len(own)}
        grouped: dict[str, list[dict[str, Any]]] = {}
        for name, row in rows.items():
            if name in self.phenomena:
                grouped.setdefault(self.phenomena[name], []).append(row)
        return {
            **_mean(list(rows.values())),
            "acc_norm": None,
            "tokens": self.tokens,
            "cut": self.cut,
            "phenomena": {name: _mean(grouped[name]) for name in sorted(grouped)},
            "paradigms": rows,
        }


def _mean(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The mean of paradigms, each with its own items and so with errors of its own."""
    errors = [row["stderr"] for row in rows]
    known = None not in errors
    return {
        "acc": sum(row["acc"] for row in rows) / len(rows),
        "stderr": math.sqrt(sum(error**2 for error in errors)) / len(rows) if known else None,
        "items": sum(row["items"] for row in rows),
    }


def score_pairs(
    model: Decoder,
    tokenizer: Tokenizer,
    pairs: Sequence[Pair],
    *,
    batch: int | None = None,
    title: str | None = "evaluating",
) -> PairScore:
    """Score every pair; `batch` and `title` as for `likelihoods`."""
    requests = [("", sentence) for pair in pairs for sentence in (pair.good, pair.bad)]
    found = likelihoods(model, tokenizer, requests, batch=batch, title=title)
    log_p = found.log_p.reshape(-1, 2)
    return PairScore(
        log_p,
        log_p[:, 0] > log_p[:, 1],
        np.array([pair.paradigm for pair in pairs]),
        {pair.paradigm: pair.phenomenon for pair in pairs if pair.phenomenon is not None},
        found.tokens,
        found.cut,
    )

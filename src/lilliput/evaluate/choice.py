"""Choice tasks: which of several continuations does the model find likeliest?

For each choice, Σ log p of " " + choice after the query. `acc`: the likeliest is the right one. `acc_norm`: the same
after dividing by the choice's UTF-8 bytes, so that long choices are not at a disadvantage (what `lm-eval` calls
acc_bytes; its acc_norm divides by characters, the same in ASCII). Of equals the first wins.
"""

from __future__ import annotations

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

FIELDS = (("query", "choices", "gold"), ("ctx", "endings", "label"))
"""How a row may name its query, its choices and the number of the right one."""


@dataclass(frozen=True)
class ChoiceItem:
    """A query, the choices that may follow it, and the number of the right one."""

    query: str
    choices: tuple[str, ...]
    gold: int


def choice_item(row: Row) -> ChoiceItem:
    """The item of a row; UserError where it is none."""
    query, choices, gold = next((names for names in FIELDS if names[0] in row.fields), FIELDS[0])
    texts = row.texts(choices)
    return ChoiceItem(row.text(query), texts, row.index(gold, len(texts)))


@dataclass(frozen=True)
class ChoiceScore:
    """log_p: per item, of its choices, in nats. correct, correct_norm: per item, for paired comparisons."""

    log_p: list[npt.NDArray[np.float64]]
    correct: npt.NDArray[np.bool_]
    correct_norm: npt.NDArray[np.bool_]
    tokens: int
    cut: int

    def to_dict(self) -> dict[str, Any]:
        """For JSON: accuracies with their standard errors."""
        return {
            "acc": float(self.correct.mean()),
            "acc_norm": float(self.correct_norm.mean()),
            "stderr": mean_error(self.correct),
            "stderr_norm": mean_error(self.correct_norm),
            "items": len(self.correct),
            "tokens": self.tokens,
            "cut": self.cut,
        }


def score_choices(
    model: Decoder,
    tokenizer: Tokenizer,
    items: Sequence[ChoiceItem],
    *,
    batch: int | None = None,
    title: str | None = "evaluating",
) -> ChoiceScore:
    """Score every item; `batch` and `title` as for `likelihoods`."""
    requests = [(item.query, f" {choice}") for item in items for choice in item.choices]
    found = likelihoods(model, tokenizer, requests, batch=batch, title=title)
    log_p = np.split(found.log_p, np.cumsum([len(item.choices) for item in items])[:-1])
    sizes = [np.array([len(choice.encode()) for choice in item.choices]) for item in items]
    gold = np.array([item.gold for item in items])
    return ChoiceScore(
        log_p,
        np.array([values.argmax() for values in log_p]) == gold,
        np.array([(values / size).argmax() for values, size in zip(log_p, sizes, strict=True)]) == gold,
        found.tokens,
        found.cut,
    )

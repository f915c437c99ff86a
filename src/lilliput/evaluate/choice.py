"""Choice tasks: which of several continuations does the model find likeliest?

For each choice, Σ log p of " " + choice after the query. `acc`: the likeliest is the right one. `acc_norm`: the same
after dividing by the choice's UTF-8 bytes, so that long choices are not at a disadvantage (what `lm-eval` calls
acc_bytes; its acc_norm divides by characters, the same in ASCII). Of equals the first wins.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from lilliput.evaluate.noise import Noise
from lilliput.evaluate.reader import Reader
from lilliput.evaluate.row import Row
from lilliput.evaluate.score import Score

FIELDS = (("query", "choices", "gold"), ("ctx", "endings", "label"))
"""How a row may name its query, its choices and the right one."""


@dataclass(frozen=True)
class ChoiceItem:
    """A query, the choices that may follow it, and the numbers of the right ones, of which most items have one."""

    query: str
    choices: tuple[str, ...]
    gold: tuple[int, ...]

    def asked(self, delimiter: str) -> list[tuple[str, str]]:
        """(what stands before, the continuation) of each choice."""
        return [(self.query, f"{delimiter}{choice}") for choice in self.choices]

    def noisy(self, noise: Noise) -> ChoiceItem:
        """The item with noise in its query; the choices stay comparable."""
        return replace(self, query=noise(self.query))

    def example(self, delimiter: str) -> str:
        """The item with its answer."""
        return f"{self.query}{delimiter}{self.choices[self.gold[0]]}"


def choice_item(row: Row) -> ChoiceItem:
    """The item of a row; UserError where it is none."""
    query, choices, gold = next((names for names in FIELDS if names[0] in row.fields), FIELDS[0])
    texts = row.texts(choices)
    return ChoiceItem(row.text(query), texts, row.right(gold, texts))


PARTIAL_FIELDS = ("contexts", "ending", "gold")


@dataclass(frozen=True)
class PartialItem:
    """Partial evaluation (Trinh and Le 2018): several beginnings, of which one is right, and one ending that is scored
    after each."""

    contexts: tuple[str, ...]
    ending: str
    gold: tuple[int, ...]

    def asked(self, delimiter: str) -> list[tuple[str, str]]:
        """As of a choice."""
        return [(context, f"{delimiter}{self.ending}") for context in self.contexts]

    def noisy(self, noise: Noise) -> PartialItem:
        """The item with noise in what its beginnings share."""
        return replace(self, contexts=noise.alike(self.contexts))

    def example(self, delimiter: str) -> str:
        """The item with its answer."""
        return f"{self.contexts[self.gold[0]]}{delimiter}{self.ending}"


def partial_item(row: Row) -> PartialItem:
    """The item of a row; UserError where it is none."""
    contexts = row.texts("contexts")
    return PartialItem(contexts, row.text("ending", empty=False), row.right("gold", contexts))


def score_choices(
    reader: Reader,
    items: Sequence[ChoiceItem | PartialItem],
    *,
    before: Sequence[str],
    delimiter: str = " ",
    title: str | None = "evaluating",
) -> Score:
    """Score every item. before: of each, what stands before its query: description and examples."""
    asked = [item.asked(delimiter) for item in items]
    requests = []
    for first, own in zip(before, asked, strict=True):
        # Examples are long: choices of one query share their text.
        joined = {query: first + query for query, _ in own}
        requests += [(joined[query], text) for query, text in own]
    found = reader.likelihoods(requests, title)
    log_p = np.split(found.log_p, np.cumsum([len(own) for own in asked])[:-1])
    # The delimiter is no part of the choice.
    skipped = len(delimiter.encode())
    sizes = [np.array([len(text.encode()) - skipped for _, text in own]) for own in asked]
    per_byte = [values / size for values, size in zip(log_p, sizes, strict=True)]
    right, right_norm = (
        np.array([values.argmax() in item.gold for values, item in zip(every, items, strict=True)])
        for every in (log_p, per_byte)
    )
    return Score(right, right_norm, tokens=found.tokens, cut=found.cut)

"""Summaries: what the model writes after a document, compared with a person's summary by ROUGE (see rouge.py)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lilliput.evaluate.mean import mean_error
from lilliput.evaluate.noise import Noise
from lilliput.evaluate.reader import Reader
from lilliput.evaluate.rouge import rouge
from lilliput.evaluate.row import Row
from lilliput.evaluate.score import Score

FIELDS = ("document", "summary")
# A zero-shot prompt that small models have met on the web, where it announces a summary.
_ASKS = "\n\nTL;DR:"
# XSum's summaries are one sentence, of 23 words on average (1808.08745).
_MAX_NEW = 64
_NAMES = ("rouge1", "rouge2", "rougeL")


@dataclass(frozen=True)
class Document:
    """A document and its summary."""

    document: str
    summary: str

    def noisy(self, noise: Noise) -> Document:
        """The document with noise, its summary as it was."""
        return Document(noise(self.document) or self.document, self.summary)


def document(row: Row) -> Document:
    """The document of a row; UserError where it is none."""
    return Document(*(row.text(field, empty=False) for field in FIELDS))


def score_summaries(reader: Reader, documents: Sequence[Document], *, title: str | None = "writing") -> Score:
    """Write a summary of every document, greedily and of one line, and compare; the item's number is ROUGE-L."""
    found = reader.write([(one.document, _ASKS) for one in documents], _MAX_NEW, title)
    every = np.array([rouge(text, one.summary) for text, one in zip(found.texts, documents, strict=True)])
    values = {name: every[:, at] for at, name in enumerate(_NAMES)}
    figures: dict[str, float | None] = {name: float(held.mean()) for name, held in values.items()}
    figures |= {f"{name}_stderr": mean_error(held) for name, held in values.items()}
    return Score(None, values=values, main=_NAMES[-1], figures=figures, tokens=found.tokens, cut=found.cut)

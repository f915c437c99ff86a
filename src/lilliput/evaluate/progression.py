"""Story progression: does the model find a story's true continuation likelier than a spoilt one?

The test of the STLM project (2405.14159), made of any stories: each is cut in two, and its continuation is held against
the thirteen corruptions of `corruptions.py`, one comparison each. One counts if the true continuation has strictly more
Σ log p after the story's beginning. The accuracy is the mean of the corruptions', so chance is a half.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lilliput.evaluate.corruptions import LEAST_WORDS, SCALES, corruptions
from lilliput.evaluate.mean import mean_error
from lilliput.evaluate.noise import Noise
from lilliput.evaluate.reader import Reader
from lilliput.evaluate.row import Row
from lilliput.evaluate.score import Score

FIELDS = ("story", "continuation", "corrupted", "corruption")
PUBLISHED = ("first_n_words", "actual_continuation")
STORY = ("text",)
"""A row is a comparison as it stands, one of the published data set (a story with its corruptions), or a story."""
_LONGEST = 100, 50  # words of a story's beginning and of its continuation


@dataclass(frozen=True)
class Comparison:
    """A story's beginning, how it goes on, and how it does not."""

    story: str
    continuation: str
    corrupted: str

    def noisy(self, noise: Noise) -> Comparison:
        """The comparison with noise in the story's beginning."""
        return Comparison(noise(self.story), self.continuation, self.corrupted)


def comparison(row: Row) -> Comparison:
    """The comparison of a row; UserError where it is none."""
    return Comparison(row.text("story"), *(row.text(field, empty=False) for field in FIELDS[1:3]))


def comparisons(row: Row) -> Iterator[Row]:
    """The rows of comparisons that a row holds: itself, or one for each corruption of a story; none where the story is
    too short to be cut in two."""
    if set(FIELDS) <= row.fields.keys():
        yield row
        return
    if set(PUBLISHED) <= row.fields.keys():
        story, continuation = (row.text(field, empty=False) for field in PUBLISHED)
        spoilt = [(name, row.text(name)) for name in SCALES if name in row.fields]
    elif set(STORY) <= row.fields.keys():
        story, continuation = halves(row.text("text"))
        spoilt = list(corruptions(continuation, f"{story} {continuation}")) if continuation else []
    else:
        raise row.wrong("the row holds no story: it has no text")
    for name, text in spoilt:
        fields = dict(zip(FIELDS, (story, continuation, text, name), strict=True))
        yield Row({**fields, "scale": SCALES[name]}, row.where, row.part)


def halves(text: str) -> tuple[str, str]:
    """The first half of a story's words, at most a hundred, and up to fifty that follow; two empty texts where fewer
    than `LEAST_WORDS` would follow."""
    words = list(re.finditer(r"\S+", text))
    first = min(len(words) // 2, _LONGEST[0])
    last = min(len(words), first + _LONGEST[1])
    if first < 1 or last - first < LEAST_WORDS:
        return "", ""
    return text[: words[first - 1].end()], text[words[first].start() : words[last - 1].end()]


def score_progression(reader: Reader, items: Sequence[Comparison], *, title: str | None = "evaluating") -> Score:
    """Score every comparison.

    `all`: of the stories with all thirteen comparisons, the share whose true continuation beats every one. A story's
    comparisons share what they are held against, so the standard errors are over stories.
    """
    requests = [(item.story, f" {text}") for item in items for text in (item.continuation, item.corrupted)]
    found = reader.likelihoods(requests, title)
    log_p = found.log_p.reshape(-1, 2)
    right = log_p[:, 0] > log_p[:, 1]
    stories: dict[tuple[str, str], list[bool]] = {}
    for item, one in zip(items, right, strict=True):
        stories.setdefault((item.story, item.continuation), []).append(bool(one))
    shares = np.array([np.mean(own) for own in stories.values()])
    # Fewer comparisons, as under a limit, would be easier to pass.
    every = np.array([all(own) for own in stories.values() if len(own) == len(SCALES)], np.float64)
    figures: dict[str, Any] = {"stderr": mean_error(shares), "stories": len(stories), "all": None, "all_stderr": None}
    if len(every):
        figures |= {"all": float(every.mean()), "all_stderr": mean_error(every)}
    return Score(right, figures=figures, tokens=found.tokens, cut=found.cut)

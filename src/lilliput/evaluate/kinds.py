"""The kinds of tasks: what makes an item of a row, and a score of items."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from lilliput.errors import UserError
from lilliput.evaluate import choice, last_word, pairs, progression, summary
from lilliput.evaluate.row import Row
from lilliput.evaluate.score import Score


@dataclass(frozen=True)
class Kind:
    """item: makes an item of a row. score: (reader, items, title=…) → Score. own: the sets of fields that make a row
    one of this kind as it stands. texts: those of a layout's fields that are texts. prompted: whether description and
    examples may stand before an item (`score` then takes before= and delimiter=). parts: as in known.py. rows: the rows
    of items that one row of the data holds, where that is not the row itself."""

    item: Callable[[Row], Any]
    score: Callable[..., Score]
    own: tuple[tuple[str, ...], ...]
    texts: tuple[str, ...]
    prompted: bool = False
    parts: Mapping[str, Any] = field(default_factory=dict)
    rows: Callable[[Row], Iterable[Row]] | None = None


_PARADIGMS = {"names": ["paradigms", "phenomena"], "field": "UID", "category": "linguistics_term", "mean": "parts"}
_SPOILT = {"names": ["corruptions", "scales"], "field": "corruption", "category": "scale", "mean": "parts"}

KINDS = {
    "choice": Kind(choice.choice_item, choice.score_choices, choice.FIELDS, ("query",), True),
    "partial": Kind(choice.partial_item, choice.score_choices, (choice.PARTIAL_FIELDS,), ("ending",), True),
    "pairs": Kind(pairs.pair, pairs.score_pairs, (pairs.FIELDS,), pairs.FIELDS, parts=_PARADIGMS),
    "last-word": Kind(last_word.passage, last_word.score_last_words, (last_word.FIELDS,), last_word.FIELDS),
    "progression": Kind(
        progression.comparison,
        progression.score_progression,
        (progression.FIELDS, progression.PUBLISHED),
        progression.FIELDS[:3],
        parts=_SPOILT,
        rows=progression.comparisons,
    ),
    "summary": Kind(summary.document, summary.score_summaries, (summary.FIELDS,), summary.FIELDS),
}


def kind_of(row: Row) -> str:
    """The kind of task that has such rows. Raises UserError where none has."""
    for name, kind in KINDS.items():
        if any(set(fields) <= row.fields.keys() for fields in kind.own):
            return name
    layouts = " | ".join(", ".join(fields) for kind in KINDS.values() for fields in kind.own)
    mend = f"a task's rows have one of these sets of fields: {layouts}"
    raise UserError(f"the row's fields make no task: {', '.join(row.fields)}", where=row.where, mend=mend)

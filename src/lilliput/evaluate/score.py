"""What a task's items came to, item by item, and the figures made of them.

Items may stand in parts (BLiMP's paradigms, MMLU's subjects), and parts in categories. Each benchmark says what its
accuracy is the mean of: its items, or its parts, each with the same weight. A category's figure follows the same rule.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from lilliput.evaluate.mean import mean_error

Bools = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Parts:
    """How a task's items are divided.

    groups: of each item, the name of its part. categories: of a part, the categories it belongs to, if any.
    over_groups: whether the accuracy is the mean of the parts'; else that of all items. names: what parts and
    categories are called in results.
    """

    groups: Sequence[str]
    categories: Mapping[str, Sequence[str]]
    over_groups: bool
    names: tuple[str, str]


def parts_of(
    groups: Sequence[str], own: Sequence[str | None], said: Mapping[str, Any], known: Mapping[str, Sequence[str]]
) -> Parts:
    """The parts of items. groups, own: of each item, its part and, where its row names one, its category. said: `parts`
    of a task's file. known: the parts of each category."""
    categories: dict[str, list[str]] = {}
    for category, names in known.items():
        for name in names:
            categories.setdefault(name, []).append(category)
    categories |= {group: [category] for group, category in zip(groups, own, strict=True) if category is not None}
    of, under = said["names"]
    return Parts(groups, categories, said["mean"] == "parts", (of, under))


@dataclass(frozen=True)
class Score:
    """A task's items, each judged; everything that compares models item by item reads this.

    right, right_norm: (items,), whether the answer is right by Σ log p, and by the same per byte; None where the task
    has no such thing. values: further numbers of each item, (items,) each, by name. main: the one of `values` that
    stands for the item where `right` is None. figures: further results of the whole. tokens: scored or written.
    cut: how many texts were too long for the context.
    """

    right: Bools | None
    right_norm: Bools | None = None
    values: Mapping[str, Floats] = field(default_factory=dict)
    main: str | None = None
    figures: Mapping[str, Any] = field(default_factory=dict)
    tokens: int = 0
    cut: int = 0
    parts: Parts | None = None

    @property
    def results(self) -> Floats:
        """(items,): what the task's main figure is the mean of, 1 or 0 where an item is right or wrong."""
        return np.asarray(self.values[self.main or ""] if self.right is None else self.right, np.float64)

    @property
    def groups(self) -> list[str] | None:
        """Of each item, its part, where the main figure is the mean of the parts'; None where it is the items'."""
        return list(self.parts.groups) if self.parts and self.parts.over_groups else None

    def mean(self, results: npt.ArrayLike) -> tuple[float, float | None]:
        """(the task's figure of such results of its items, its standard error)."""
        held = np.asarray(results, np.float64)
        return _weighed([held[at] for at in self._places().values()] if self.groups else [held])

    def to_dict(self) -> dict[str, Any]:
        """For JSON: accuracies and further figures with their standard errors; then of each category and part."""
        acc, stderr = self.mean(self.right) if self.right is not None else (None, None)
        norm, stderr_norm = self.mean(self.right_norm) if self.right_norm is not None else (None, None)
        found = {
            "acc": acc,
            "acc_norm": norm,
            "stderr": stderr,
            "stderr_norm": stderr_norm,
            "items": len(self.results),
            **self.figures,
            "tokens": self.tokens,
            "cut": self.cut,
        }
        return found if self.parts is None else {**found, **self._divided(self.parts)}

    def _places(self) -> dict[str, npt.NDArray[np.int64]]:
        """Of each part, in the order of their names, the numbers of its items."""
        groups = np.asarray(self.parts.groups if self.parts else [])
        return {str(name): np.flatnonzero(groups == name) for name in np.unique(groups)}

    def _divided(self, parts: Parts) -> dict[str, Any]:
        places = self._places()
        held: dict[str, list[str]] = {}
        for name in places:
            for category in parts.categories.get(name, ()):
                held.setdefault(category, []).append(name)
        categories = {}
        for category in sorted(held):
            own = [places[name] for name in held[category]]
            categories[category] = self._row(own if parts.over_groups else [np.concatenate(own)])
        of, under = parts.names
        return {
            "mean_of": of if parts.over_groups else "items",
            under: categories,
            of: {name: self._row([at]) for name, at in places.items()},
        }

    def _row(self, places: Sequence[npt.NDArray[np.int64]]) -> dict[str, Any]:
        """The figures of some items; of several parts, the mean of theirs."""
        acc, stderr = _weighed([self.results[at] for at in places])
        row = {"acc": acc, "stderr": stderr, "items": sum(len(at) for at in places)}
        if self.right_norm is not None:
            row["acc_norm"] = _weighed([self.right_norm[at] for at in places])[0]
        return row


def _weighed(parts: Sequence[npt.ArrayLike]) -> tuple[float, float | None]:
    """The mean of the parts' means, and its standard error: parts have items, and so errors, of their own."""
    means = [float(np.mean(np.asarray(part, np.float64))) for part in parts]
    errors = [mean_error(part) for part in parts]
    known = [error for error in errors if error is not None]
    error = math.sqrt(sum(error**2 for error in known)) / len(parts) if len(known) == len(parts) else None
    return sum(means) / len(means), error

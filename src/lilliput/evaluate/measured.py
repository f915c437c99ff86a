"""What one model reached on one set of items, item by item: all that a paired comparison needs.

`Scores` holds documents (bits per byte), `MaskedScores` windows (nats a masked token), `ItemScores` the items of a
task (right or wrong, or a number for each).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import numpy.typing as npt

from lilliput.errors import ConfigError
from lilliput.evaluate.resampling import LN2, Array, document_error, group_mean, item_error


class Measured(ABC):
    """One model on one set of items."""

    @property
    @abstractmethod
    def results(self) -> Array:
        """Per item, shape (items,). Differences of two models' results have a mean and an error too."""

    @property
    @abstractmethod
    def sign(self) -> int:
        """+1 where more is better, −1 where less is."""

    @abstractmethod
    def mean(self, results: Array) -> float:
        """The figure that such results on these items make."""

    @abstractmethod
    def error(self, results: Array) -> float:
        """Its standard error over the choice of items (bootstrap)."""

    @abstractmethod
    def same_items(self, other: Measured) -> bool:
        """Whether the other model was measured on the same items, and so can be compared."""

    @abstractmethod
    def with_results(self, results: Array) -> Measured:
        """The same items with other results."""

    @property
    def value(self) -> float:
        return self.mean(self.results)

    def blended(self, other: Measured, part: float) -> Measured:
        """What lies `part` of the way to another model's results; ConfigError where these are of other items."""
        if not self.same_items(other):
            reason = "two arms were not measured on the same documents"
            raise ConfigError(reason, mend="give the study `evaluate:` texts, so that every arm is measured on those")
        return self.with_results((1 - part) * self.results + part * other.results)


@dataclass(frozen=True)
class Scores(Measured):
    """Bits per byte. nats, sizes: per document, shape (documents,); sizes in UTF-8 bytes.

    text: identifies the documents; only scores of the same text are compared.
    """

    nats: Array
    sizes: Array
    text: str = ""

    @property
    def results(self) -> Array:
        return self.nats

    @property
    def sign(self) -> int:
        return -1

    def with_results(self, results: Array) -> Scores:
        return replace(self, nats=results)

    def mean(self, results: Array) -> float:
        return float(results.sum() / self.sizes.sum() / LN2)

    def error(self, results: Array) -> float:
        return document_error(results, self.sizes)

    def same_items(self, other: Measured) -> bool:
        return isinstance(other, Scores) and self.text == other.text and np.array_equal(self.sizes, other.sizes)


@dataclass(frozen=True)
class MaskedScores(Scores):
    """Nats a masked token. nats, sizes: per window, its loss and how many of its tokens are masked.

    text: identifies windows and masks, and so the tokenizer.
    """

    def mean(self, results: Array) -> float:
        return float(results.sum() / self.sizes.sum())

    def error(self, results: Array) -> float:
        return LN2 * super().error(results)


@dataclass(frozen=True)
class ItemScores(Measured):
    """A measure of a task. points: per item, shape (items,): 1 for right and 0 for wrong, or another number.

    data: identifies the items; only scores on the same are compared. groups: the name of each item's group where the
    task's figure is the mean over groups, such as BLiMP's paradigms. lower: whether less is better.
    """

    points: Array
    data: str = ""
    groups: Sequence[str] | npt.NDArray[np.str_] | None = None
    lower: bool = False

    @property
    def results(self) -> Array:
        return self.points

    @property
    def sign(self) -> int:
        return -1 if self.lower else 1

    def with_results(self, results: Array) -> ItemScores:
        return replace(self, points=results)

    @cached_property
    def _numbers(self) -> npt.NDArray[np.int64] | None:
        return None if self.groups is None else np.unique(np.asarray(self.groups), return_inverse=True)[1]

    def mean(self, results: Array) -> float:
        return group_mean(results, self._numbers)

    def error(self, results: Array) -> float:
        return item_error(results, self._numbers)

    def same_items(self, other: Measured) -> bool:
        return isinstance(other, ItemScores) and self.data == other.data and len(self.points) == len(other.points)

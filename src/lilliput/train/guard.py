"""Watches each step's loss and gradient: which steps to leave out, and when to go back.

A step whose loss or gradient is not finite, or far above what was usual, is not applied. After a few in a
row the weights themselves are suspect.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

# Steps in a row left out before the run is thrown back to its last checkpoint.
MAX_SKIPS = 5
# Times thrown back, without getting past the place, before the run is given up.
MAX_RETURNS = 2
_MEMORY = 0.98
_SETTLED = 20
_LOSS_FACTOR, _LOSS_MARGIN = 2.0, 1.0
_NORM_FACTOR = 100.0


@dataclass
class Guard:
    """Running means and counts; all of it is in the checkpoint, so that a resumed run judges alike."""

    loss: float = 0.0
    """Mean loss of the applied steps, nats a token, forgetting slowly."""
    norm: float = 0.0
    """The same of the gradients' norms."""
    applied: int = 0
    skipped: int = 0
    in_a_row: int = 0
    returns: int = 0
    """Times thrown back since the run last got past the place of trouble."""
    trouble: int = 0
    """The step at which it was last thrown back."""

    def accept(self, loss: float, norm: float, *, rises: bool = False) -> bool:
        """Whether to apply this step. loss: nats a token. norm: of the whole gradient, before clipping. rises: the loss
        rises by design, so that only what is not finite is left out."""
        if self._sound(loss, norm, rises):
            weight = max(1 - _MEMORY, 1 / (self.applied + 1))
            self.loss += weight * (loss - self.loss)
            self.norm += weight * (norm - self.norm)
            self.applied += 1
            self.in_a_row = 0
            return True
        self.skipped += 1
        self.in_a_row += 1
        return False

    def _sound(self, loss: float, norm: float, rises: bool) -> bool:
        if not (math.isfinite(loss) and math.isfinite(norm)):
            return False
        if rises or self.applied < _SETTLED:
            return True
        return loss <= _LOSS_FACTOR * self.loss + _LOSS_MARGIN and norm <= _NORM_FACTOR * self.norm

    def lost(self) -> bool:
        """Whether to go back to the last checkpoint."""
        return self.in_a_row >= MAX_SKIPS

    def went_back(self, step: int, before: Mapping[str, Any]) -> None:
        """Take the means of the checkpoint (`before`), keep the counts; `step` is where the trouble was."""
        self.loss, self.norm = float(before["loss"]), float(before["norm"])
        self.applied = int(before["applied"])
        self.in_a_row = 0
        self.returns += 1
        self.trouble = step

    def passed(self, step: int) -> None:
        """A checkpoint at `step` is being written: past the trouble, earlier returns no longer count."""
        if step > self.trouble:
            self.returns = 0

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON; floats survive exactly."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Guard:
        """The inverse of `to_dict`."""
        return cls(**dict(data))

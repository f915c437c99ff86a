"""What a run of training came to."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from lilliput.train.config import TrainConfig


@dataclass(frozen=True)
class TrainResult:
    """What a run came to."""

    steps: int
    tokens: int
    """Target tokens of all steps, left-out ones included."""
    seconds: float
    """Training time over all of the run's processes in turn, evaluations and saves included."""
    skipped: int
    """Steps left out for their loss or gradient."""
    final_loss: float
    """Mean training loss of the last row of the metrics, nats a token."""
    epochs: float
    """Passes over the corpus, as read."""
    peak_memory: int
    """Bytes: resident on a CPU, allocated on a GPU; the most of any of the run's processes in turn."""
    config: TrainConfig
    """The settings as run: on a resumed run those its first machine decided."""

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {**asdict(self), "config": self.config.to_dict()}

"""Learning to tell labels: all weights of an encoder, with a head on [CLS] (1810.04805 §4.1)."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lilliput.errors import ConfigError
from lilliput.train.masked import trimmed
from lilliput.train.objectives import Objective

NO_LABEL = -100


class Examples:
    """Rows of text with a label, as windows of the loop: ids, PAD behind them, and in the last column the label."""

    def __init__(self, ids_NS: np.ndarray, labels_N: np.ndarray) -> None:
        """ids_NS: int32 (rows, context), with PAD. labels_N: their labels' numbers."""
        self._rows = np.concatenate([ids_NS, labels_N[:, None]], axis=1).astype(np.int32)

    def windows(self, context: int) -> int:
        """How many rows there are; `context` must be theirs."""
        if self._rows.shape[1] != context + 1:
            raise ConfigError(f"rows of {self._rows.shape[1] - 1} positions, not {context}", where="length")
        return len(self._rows)

    def batch(self, indices: np.ndarray, context: int) -> np.ndarray:
        """int64 (len(indices), context + 1)."""
        rows: np.ndarray = self._rows[indices].astype(np.int64)
        return rows


class TellLabels(Objective):
    """Cross-entropy of the label, the mean over the rows of a batch; with `weights` each label's rows weigh so much."""

    def __init__(self, weights: list[float] | None = None) -> None:
        self._weights = None if weights is None else torch.tensor(weights)

    def loss(self, model: nn.Module, windows_BT1: Tensor) -> Tensor:
        """Each row counts for all its positions, by which the loop divides."""
        ids_BS, labels_B = windows_BT1[:, :-1], windows_BT1[:, -1]
        logits_BL = model(trimmed(ids_BS))
        weights = None if self._weights is None else self._weights.to(logits_BL.device)
        nats: Tensor = F.cross_entropy(logits_BL, labels_B, weights, ignore_index=NO_LABEL, reduction="sum")
        return nats * ids_BS.shape[1]

    def identity(self) -> dict[str, Any]:
        """The weights, where there are any."""
        return {"labels": None if self._weights is None else [round(float(w), 6) for w in self._weights]}

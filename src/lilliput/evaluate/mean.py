"""The standard error of a mean over items."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt


def mean_error(values: npt.ArrayLike) -> float | None:
    """s / √n with s² over n − 1; None for fewer than two values. Of an accuracy p it is √(p(1 − p)/(n − 1)), as
    `lm-eval` gives it."""
    held = np.asarray(values, np.float64)
    return float(held.std(ddof=1) / np.sqrt(len(held))) if len(held) > 1 else None

"""What a ranking rests on: the runs, what they moved, and how well the fit describes them."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from lilliput.plan.prior import TERMS, Prior, fitted


def explanation(prior: Prior) -> dict[str, Any]:
    """Plain values: `terms` (each coefficient before and after the runs, and the groups of runs that vary it), `groups`
    (every run's shape, bits per byte, and what the fit gives for it) and `residual` (its standard deviation)."""
    deviations = np.sqrt(np.diag(prior.covariance))
    terms = [
        {
            "name": term.name,
            "start": term.start,
            "start_sd": term.spread,
            "value": float(mean),
            "sd": float(deviation),
            "groups": groups,
            "why": term.why,
        }
        for term, mean, deviation, groups in zip(TERMS, prior.mean, deviations, prior.informed, strict=True)
    ]
    groups = fitted(prior)
    gaps = [math.log(row["bits_per_byte"] / row["fitted"]) for group in groups for row in group["shapes"]]
    residual = math.sqrt(sum(gap**2 for gap in gaps) / len(gaps)) if gaps else None
    return {"terms": terms, "groups": groups, "residual": residual, "noise": prior.noise, "misfit": prior.misfit}

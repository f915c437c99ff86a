"""A study's correlations: over its arms, how one quantity goes with another, and the verdict on what was claimed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from lilliput.errors import ConfigError
from lilliput.evaluate.correlation import judge_correlation, slope, spearman
from lilliput.evaluate.statistics import arm_levels
from lilliput.lab.fields import SPEEDS, holds, value_of
from lilliput.lab.metrics import BITS, Metric, metric_of
from lilliput.lab.spec import Trend
from lilliput.lab.tasks import measured_by

Found = Mapping[tuple[str, int], dict[str, Any]]  # (arm, seed) → a finished cell

_WORDS = {
    "tokens_per_second": "tokens a second, batch 1",
    "tokens_per_second_at_20": "tokens a second of one text, batch 20",
}


def in_words(y: str) -> str:
    """What a study correlates, for a sentence or an axis."""
    metric = metric_of(y, [y]) or Metric(None, BITS)
    return _WORDS.get(y) or (metric.words if metric.task is None else f"accuracy at {y}")


def speeds(own: list[dict[str, Any]]) -> dict[str, float]:
    """An arm's speed by batch, the mean over its cells: tokens a second of one text, of encoders milliseconds."""
    by_batch: dict[str, list[float]] = {}
    for cell in own:
        for speed in cell.get("speed") or []:
            by_batch.setdefault(str(speed["batch"]), []).append(float(speed.get("per_sequence") or speed["ms"]))
    return {batch: sum(values) / len(values) for batch, values in by_batch.items()}


def correlate(trend: Trend, found: Found, main: str = BITS) -> dict[str, Any]:
    """ρ over the arms that have finished cells, the points it is taken over, and the verdict. main: what `y` is where
    the trend does not say.

    An arm is one point: its seeds are averaged. Metrics are compared at equal seeds where some arms have more
    (`arm_levels`); a speed has nothing to do with the seed.
    """
    met = {key: cell for key, cell in found.items() if holds(trend.where, cell)}
    name = trend.y or main
    y = _levels(name, met)
    x = {arm: value for arm, value in _means(met, lambda cell: value_of(cell, trend.x)).items() if arm in y}
    bound = trend.bound
    row: dict[str, Any] = {
        "x": trend.x,
        "y": name,
        "where": trend.where,
        "claim": None if bound is None else {"kind": bound[0], "bound": bound[1]},
        "text": trend.text or _said(trend, name),
        "points": [{"arm": arm, "x": value, "y": y[arm]} for arm, value in x.items()],
    }
    try:
        rho = spearman(list(x.values()), [y[arm] for arm in x])
        if trend.slope:
            doubling = trend.slope == "doubling"
            row["slope"] = {**slope(list(x.values()), [y[arm] for arm in x], doubling=doubling), "per": trend.slope}
    except ConfigError as error:
        return row | {"verdict": "not measured", "why": error.message, "rho": None}
    verdict = None if bound is None else judge_correlation(*bound, rho)
    return row | {"verdict": verdict, "why": "", "rho": rho.to_dict()}


def _levels(y: str, found: Found) -> dict[str, float]:
    if y in SPEEDS:
        return _means(found, lambda cell: speeds([cell]).get(str(SPEEDS[y])))
    metric = metric_of(y, [y, y.rpartition(".")[0]]) or Metric(None, BITS)
    if metric.task is not None:
        return arm_levels({key: scored.value for key, scored in measured_by(metric, found).items()})
    return arm_levels({key: float(cell["value"]) for key, cell in found.items() if cell["value"] is not None})


def _means(found: Found, quantity: Callable[[dict[str, Any]], float | None]) -> dict[str, float]:
    """The mean of a quantity over each arm's cells that have it."""
    values: dict[str, list[float]] = {}
    for (arm, _), cell in found.items():
        if (value := quantity(cell)) is not None:
            values.setdefault(arm, []).append(value)
    return {arm: sum(own) / len(own) for arm, own in values.items()}


def _said(trend: Trend, y: str) -> str:
    said = f"ρ({trend.x}, {in_words(y)})"
    if trend.bound is not None:
        kind, bound = trend.bound
        said = f"|{said}| ≤ {bound:g}" if kind == "within" else f"{said} {'≤' if kind == 'at_most' else '≥'} {bound:g}"
    return said.replace("-", "−") + (f" where {trend.where}" if trend.where else "")

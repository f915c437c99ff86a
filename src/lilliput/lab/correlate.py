"""A study's correlations: over its arms, how one quantity goes with another, and the verdict on what was claimed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from lilliput.errors import ConfigError
from lilliput.evaluate.correlation import judge_correlation, spearman
from lilliput.evaluate.statistics import arm_levels
from lilliput.lab.fields import holds, value_of
from lilliput.lab.spec import Trend

Found = Mapping[tuple[str, int], dict[str, Any]]  # (arm, seed) → a finished cell

# What a study may correlate, in words.
WORDS = {
    "bits_per_byte": "bits per byte",
    "tokens_per_second": "tokens a second, batch 1",
    "tokens_per_second_at_20": "tokens a second of one text, batch 20",
}
_BATCH = {"tokens_per_second": 1, "tokens_per_second_at_20": 20}


def speeds(own: list[dict[str, Any]]) -> dict[str, float]:
    """An arm's decoding speed by batch: tokens a second of one text, the mean over the arm's cells."""
    by_batch: dict[str, list[float]] = {}
    for cell in own:
        for speed in cell.get("speed") or []:
            by_batch.setdefault(str(speed["batch"]), []).append(float(speed["per_sequence"]))
    return {batch: sum(values) / len(values) for batch, values in by_batch.items()}


def correlate(trend: Trend, found: Found) -> dict[str, Any]:
    """ρ over the arms that have finished cells, the points it is taken over, and the verdict.

    An arm is one point: its seeds are averaged. Bits per byte are compared at equal seeds where some arms have more
    (`arm_levels`); a speed has nothing to do with the seed.
    """
    met = {key: cell for key, cell in found.items() if holds(trend.where, cell)}
    y = _levels(trend.y, met)
    x = {arm: value for arm, value in _means(met, lambda cell: value_of(cell, trend.x)).items() if arm in y}
    bound = trend.bound
    row: dict[str, Any] = {
        "x": trend.x,
        "y": trend.y,
        "where": trend.where,
        "claim": None if bound is None else {"kind": bound[0], "bound": bound[1]},
        "text": trend.text or _in_words(trend),
        "points": [{"arm": arm, "x": value, "y": y[arm]} for arm, value in x.items()],
    }
    try:
        rho = spearman(list(x.values()), [y[arm] for arm in x])
    except ConfigError as error:
        return row | {"verdict": "not measured", "why": error.message, "rho": None}
    verdict = None if bound is None else judge_correlation(*bound, rho)
    return row | {"verdict": verdict, "why": "", "rho": rho.to_dict()}


def _levels(y: str, found: Found) -> dict[str, float]:
    if y == "bits_per_byte":
        return arm_levels({key: float(cell["value"]) for key, cell in found.items()})
    return _means(found, lambda cell: speeds([cell]).get(str(_BATCH[y])))


def _means(found: Found, quantity: Callable[[dict[str, Any]], float | None]) -> dict[str, float]:
    """The mean of a quantity over each arm's cells that have it."""
    values: dict[str, list[float]] = {}
    for (arm, _), cell in found.items():
        if (value := quantity(cell)) is not None:
            values.setdefault(arm, []).append(value)
    return {arm: sum(own) / len(own) for arm, own in values.items()}


def _in_words(trend: Trend) -> str:
    said = f"ρ({trend.x}, {WORDS[trend.y]})"
    if trend.bound is not None:
        kind, bound = trend.bound
        said = f"|{said}| ≤ {bound:g}" if kind == "within" else f"{said} {'≤' if kind == 'at_most' else '≥'} {bound:g}"
    return said.replace("-", "−") + (f" where {trend.where}" if trend.where else "")

"""Tokens to equal loss: how much sooner one arm reaches what another one comes to.

The level is the other arm's last value on the way while its learning rate was constant (or over the whole run, where it
never falls), so that no arm is credited with the end of its schedule. The arm's own curve, too, counts up to there. The
ratio is the other arm's tokens over those the arm needs, read off between two evaluations along the logarithm of the
tokens. What was spent before the arm's first token (choosing its parts, learning masks; its teacher) is charged in
FLOPs beside it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from lilliput.evaluate.statistics import t_quantile
from lilliput.lab.correlate import Found
from lilliput.lab.spec import Reach


def reach(pair: Reach, found: Found) -> dict[str, Any]:
    """The ratio over the seeds that both arms have, geometric mean with its 95 % t interval, and the verdict.

    A seed in which the arm never comes so far gives no ratio but a bound that it stays below.
    """
    row: dict[str, Any] = {
        "arm": pair.arm,
        "versus": pair.versus,
        "at_least": pair.at_least,
        "text": pair.text or f"{pair.arm} reaches what {pair.versus} comes to with fewer tokens",
        "seeds": [],
        "ratio": None,
    }
    for seed in sorted(seed for arm, seed in found if arm == pair.arm and (pair.versus, seed) in found):
        row["seeds"].append({"seed": seed, **_one(found[pair.arm, seed], found[pair.versus, seed])})
    row["ratio"] = _interval([one["ratio"] for one in row["seeds"]])
    return row | {"verdict": _verdict(row, pair.at_least)}


def _one(arm: Mapping[str, Any], versus: Mapping[str, Any]) -> dict[str, Any]:
    """One seed: the level, the tokens of both, their ratio, and the ratios of FLOPs with what came before charged."""
    tokens, level = _constant(versus)[-1]
    curve = _constant(arm)
    needed = tokens_to(curve, level)
    bound = tokens / curve[-1][0]
    if needed is None:
        return {"level": level, "tokens": {"arm": None, "versus": tokens}, "ratio": None, "below": bound}
    work = versus["cost"]["flops"] * tokens / versus["cost"]["tokens"]
    own = arm["cost"]["flops"] * needed / arm["cost"]["tokens"]
    chosen = sum((arm.get("inherit") or {}).get("cost", {}).get("flops", {}).values())
    taught = (arm.get("teacher") or {}).get("flops", 0.0)
    charged = {"choice": work / (own + chosen), "choice and teacher": work / (own + chosen + taught)}
    return {"level": level, "tokens": {"arm": needed, "versus": tokens}, "ratio": tokens / needed, "charged": charged}


def _constant(cell: Mapping[str, Any]) -> list[list[float]]:
    """[tokens, bits per byte] on the way, up to where the rate begins to fall."""
    config, curve = cell["cost"]["config"], cell["held_out_curve"]
    if config["schedule"] != "wsd":
        return list(curve)
    begin = (config["steps"] - config["decay_steps"]) * config["batch_sequences"] * config["context"]
    return [point for point in curve if point[0] <= begin] or list(curve[:1])


def tokens_to(curve: Sequence[Sequence[float]], level: float) -> float | None:
    """Tokens at which a curve of [tokens, value] first comes down to `level`; None where it never does. A curve that
    begins below is there by its first point at the latest."""
    for before, (tokens, value) in zip([None, *curve], curve, strict=False):
        if value > level:
            continue
        if before is None:
            return tokens
        share = (before[1] - level) / (before[1] - value)
        return math.exp(math.log(before[0]) + share * (math.log(tokens) - math.log(before[0])))
    return None


def _interval(ratios: Sequence[float | None]) -> dict[str, float | None] | None:
    """Geometric mean and its interval; None unless every seed has a ratio."""
    logs = [math.log(ratio) for ratio in ratios if ratio is not None]
    if not logs or len(logs) < len(ratios):
        return None
    mean = sum(logs) / len(logs)
    if len(logs) == 1:
        return {"value": math.exp(mean), "low": None, "high": None}
    deviation = math.sqrt(sum((one - mean) ** 2 for one in logs) / (len(logs) - 1))
    half = t_quantile(0.975, len(logs) - 1) * deviation / math.sqrt(len(logs))
    return {"value": math.exp(mean), "low": math.exp(mean - half), "high": math.exp(mean + half)}


def _verdict(row: Mapping[str, Any], at_least: float | None) -> str | None:
    """On `at_least`; one seed never gives *supported*."""
    if not row["seeds"]:
        return "not measured"
    if at_least is None:
        return None
    ratio = row["ratio"]
    if ratio is None:
        below = all(one["ratio"] is None and one["below"] < at_least for one in row["seeds"])
        return "not supported" if below else "inconclusive"
    if ratio["low"] is None:
        return "inconclusive"
    return "supported" if ratio["low"] >= at_least else "not supported" if ratio["high"] < at_least else "inconclusive"

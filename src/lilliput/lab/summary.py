"""From finished cells to what a study says: a row for each arm, and a verdict on each claim.

All chance is computed by `lilliput.evaluate.statistics`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lilliput.lab.cells import scores
from lilliput.lab.compared import Compared, way
from lilliput.lab.correlate import Found, correlate, speeds
from lilliput.lab.grid import Cell
from lilliput.lab.metrics import Metric, metric_of
from lilliput.lab.reach import reach
from lilliput.lab.spec import Claim, Reach, Study
from lilliput.lab.tasks import measured_by, metrics_of, task_rows


def summarise_study(
    study: Study, cells: list[Cell], found: Found, failed: Mapping[tuple[str, int], str]
) -> dict[str, Any]:
    """Everything the table, the picture and `--json` show, from whatever cells have finished.

    failed: why a cell would not train, by (arm, seed).
    """
    by_metric = {study.loss: Compared({key: scores(cell) for key, cell in found.items() if cell["value"] is not None})}
    by_metric |= {metric.name: Compared(measured_by(metric, found)) for metric in metrics_of(study.asked, found)}
    main, base = by_metric.get(study.main.name, Compared({})), study.base_arm()
    arms = []
    for arm, settings in study.arm_settings().items():
        own = [cell for (name, _), cell in sorted(found.items()) if name == arm]
        lost = sum(name == arm for name, _ in failed)
        row: dict[str, Any] = {"name": arm, "settings": settings, "seeds": len(own), "failed": lost}
        if own:
            row |= main.row(arm, base) if arm in main.levels else {}
            row |= _cost(own) | {"speed": speeds(own), "start": _start(own)}
            row |= {"forgetting": _forgetting(own)}
            row |= {"loss": _loss(own)} if study.main.name != study.loss else {}
            row |= {"pseudo": True} if own[0]["shape"].get("byte_head") == "parallel" else {}
        arms.append(row)
    return {
        "study": study.name,
        "question": study.question,
        "recipe": study.recipe,
        "settings": list(study.settings),
        "metric": study.main.name,
        "seeds": list(study.seeds),
        "more_seeds": {arm: more for arm in study.arm_settings() if (more := study.seeds_of(arm)[len(study.seeds) :])},
        "baseline": base,
        "cells": {"done": len(found), "failed": len(failed), "total": len(cells)},
        "arms": arms,
        "tasks": task_rows(study.asked, list(study.arm_settings()), base, found, by_metric),
        "claims": [_verdict(study, claim, by_metric) for claim in study.claims],
        "correlations": [correlate(trend, found, study.main.name) for trend in study.correlations],
        "reaches": [reach(_named(study, pair), found) for pair in study.reaches],
        "published": [figure.model_dump() for figure in study.published],
        "failures": [{"arm": arm, "seed": seed, "reason": why} for (arm, seed), why in failed.items()],
        "seed_sd": main.seed_sd,
        "dof": main.variance.dof,
        "machines": _distinct([cell["machine"] for cell in found.values()]),
        "versions": _distinct([cell["versions"] for cell in found.values()]),
        "evaluated_on": sorted({text for cell in found.values() for text in cell["recipe"]["evaluate"]["text"]})
        or ["the held-out part of the corpus"],
        "notes": study.notes,
    }


def _loss(own: list[dict[str, Any]]) -> float | None:
    """An arm's loss on held-out text, where it was pre-trained and is no committee."""
    known = [float(cell["value"]) for cell in own if cell["value"] is not None]
    return sum(known) / len(known) if known else None


def _start(own: list[dict[str, Any]]) -> float | None:
    """Bits per byte of an inherited model before any training, on the held-out part of its corpus."""
    found = [cell["inherit"]["bits_per_byte"]["child"]["value"] for cell in own if "inherit" in cell]
    return sum(found) / len(found) if found else None


def _forgetting(own: list[dict[str, Any]]) -> dict[str, list[float]] | None:
    """Of an arm in rounds: nats a token of each part of the first round's text, `first` when that had ended and `last`
    under the final model, as means over the arm's cells."""
    told = [cell["rounds"]["forgetting"] for cell in own if cell.get("rounds")]
    known = [rows for rows in told if rows and all(row.get("first") is not None for row in rows)]
    if not known or len({len(rows) for rows in known}) > 1:
        return None
    return {
        name: [sum(row[name] for row in part) / len(part) for part in zip(*known, strict=True)]
        for name in ("first", "last")
    }


def _cost(own: list[dict[str, Any]]) -> dict[str, Any]:
    """What one cell of an arm costs, as means over its cells."""

    def mean(name: str) -> float:
        return sum(float(cell["cost"][name]) for cell in own) / len(own)

    return {
        "parameters": own[0]["parameters"],
        "tokens": round(mean("tokens")),
        "seconds": round(mean("seconds"), 1),
        "flops": mean("flops"),
        "peak_memory": max(int(cell["cost"]["peak_memory"]) for cell in own),
        "skipped_steps": sum(int(cell["cost"]["skipped"]) for cell in own),
    }


def _verdict(study: Study, claim: Claim, by_metric: Mapping[str, Compared]) -> dict[str, Any]:
    arm, versus = study.arm(claim.arm), study.arm(claim.versus)
    to = None if claim.to is None else study.arm(claim.to)
    metric = metric_of(claim.metric or study.main.name, study.asked) or study.main
    compared = by_metric.get(metric.name, Compared({}))
    return {
        "kind": claim.kind,
        "arm": arm,
        "versus": versus,
        "delta": claim.delta,
        "metric": metric.name,
        "task": metric.task,
        "measure": metric.measure,
        **({} if to is None else {"to": to, "part": claim.part}),
        "text": claim.text or _in_words(claim, arm, way(claim.part or 0.0, versus, to) if to else versus, metric),
        **compared.judge(claim, arm, versus, to),
    }


def _named(study: Study, pair: Reach) -> Reach:
    return pair.model_copy(update={"arm": study.arm(pair.arm), "versus": study.arm(pair.versus)})


def _in_words(claim: Claim, arm: str, versus: str, metric: Metric) -> str:
    by = f"{metric.difference(claim.delta, sign=False)} {metric.unit[1]}"
    at = f" at {metric.name}" if metric.task else ""
    if claim.kind == "superiority":
        return f"{arm} is better than {versus}{at}" + (f" by more than {by}" if claim.delta else "")
    if claim.kind == "non-inferiority":
        return f"{arm} is not worse than {versus}{at}" + (f" by {by} or more" if claim.delta else "")
    return f"{arm} and {versus} differ{at} by less than {by}"


def _distinct(values: list[Any]) -> list[Any]:
    kept: list[Any] = []
    for value in values:
        if value not in kept:
            kept.append(value)
    return kept

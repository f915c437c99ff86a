"""From the finished cells of a ladder to what it says: the rungs with their gains, sizes, speeds and costs, beside the
paper's."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from lilliput.evaluate.statistics import Effect, judge
from lilliput.lab.cells import finished
from lilliput.lab.grid import Cell, cells_of
from lilliput.lab.ladder.ask import Ask
from lilliput.lab.ladder.plan import BASE, INHERITANCE, PLANNER, ROUNDS, RUNGS, TEACHER, TITLES, Arm, Plan
from lilliput.lab.ladder.rates import at_the_edge, tried
from lilliput.lab.ladder.studies import RUNG_DELTA, WHOLE_SHARE, command, shown_arms
from lilliput.lab.spec import Study
from lilliput.plan.cost import BITS, weight_bytes
from lilliput.plan.rules import describe, table_share

# PanGu-π Pro, Fig. 1: average accuracy in per cent of the five rungs.
PAPER = dict(zip(RUNGS, (42.41, 44.11, 46.53, 49.79, 51.28), strict=True))
_ZERO = {"value": 0.0, "low": 0.0, "high": 0.0}


@dataclass(frozen=True)
class Facts:
    """What a ladder's answer is made of. summary: that of its study. speeds: by shape (speed.py)."""

    ask: Ask
    plan: Plan
    picks: Mapping[str, float]
    study: Study
    summary: Mapping[str, Any]
    speeds: Mapping[str, list[dict[str, Any]]]
    out: Path


def answer(facts: Facts) -> dict[str, Any]:
    """The whole answer, without places: `rungs`, `planner`, `whole`, `teacher`, `rates`, `cost`, `curves`, …"""
    found = _cells(facts)
    rows = {arm: _rung(facts, arm, found) for arm in shown_arms(facts.plan)}
    planner = rows.pop(PLANNER, None) or {"arm": facts.plan.planner, "name": TITLES[facts.plan.planner]}
    whole = _whole(facts)
    tuned = tried(facts.ask, facts.plan, facts.out)
    return {
        "question": facts.summary["question"],
        "recipe": facts.ask.recipe.name,
        "command": command(facts.ask),
        "rungs": list(rows.values()),
        "whole": whole,
        "planner": planner,
        "teacher": _teacher(facts, found),
        "rates": tuned,
        "cost": _costs(facts, found, tuned),
        "bytes": facts.plan.bytes,
        "pieces": facts.plan.pieces,
        "paper": {"source": "PanGu-π Pro, arXiv 2402.02791, Fig. 1: average accuracy, %", "rungs": PAPER},
        "seeds": facts.ask.all_seeds(),
        "seed_sd": facts.summary["seed_sd"],
        "evaluated_on": _judged(facts),
        "machines": facts.summary["machines"],
        "versions": facts.summary["versions"],
        "notes": [*facts.plan.notes, *_notes(facts, rows)],
        "curves": {arm: _curves(facts, arm, found) for arm in shown_arms(facts.plan)},
    }


def _cells(facts: Facts) -> dict[tuple[str, int], dict[str, Any]]:
    """Finished cells by (arm, seed), the teacher's among them."""
    found: dict[tuple[str, int], dict[str, Any]] = {}
    cells = cells_of(facts.study, facts.out)
    teachers = {cell.teacher.hash: cell.teacher for cell in cells if cell.teacher is not None}
    every: list[Cell] = [*cells, *teachers.values()]
    for cell in every:
        if (known := finished(facts.out, cell)) is not None:
            found[cell.arm, cell.seed] = known
    return found


def _rung(facts: Facts, arm: str, found: Mapping[tuple[str, int], dict[str, Any]]) -> dict[str, Any]:
    row = next(row for row in facts.summary["arms"] if row["name"] == arm)
    own = facts.plan.arms[arm]
    cells = [cell for (name, _), cell in sorted(found.items()) if name == arm]
    share = facts.picks[arm]
    told: dict[str, Any] = {
        "name": TITLES[arm],
        "arm": arm,
        "bits_per_byte": row.get("mean"),
        "low": row.get("low"),
        "high": row.get("high"),
        "sd": row.get("sd"),
        "seeds": row["seeds"],
        **_gain(facts, arm),
        "over_base": _effect(row["gain"]) if row.get("gain") else None,
        "paper": PAPER.get(arm),
        "parameters": own.shape.parameters(),
        "shape": {"summary": describe(own.shape), **asdict(own.shape)},
        "share": table_share(own.shape),
        "weight_bytes": {str(bits): weight_bytes(own.shape, bits) for bits in BITS},
        "speed": facts.speeds.get(shape_key(own), []),
        "lr": share * own.lr,
        "lr_share": share,
        "tokens": own.tokens,
        "settings": own.settings,
        "cell": cells[0]["hash"] if cells else None,
        "samples": cells[0]["samples"] if cells else [],
        "cost": _cost(cells),
        "tasks": _tasks(facts, arm),
    }
    return told


def _tasks(facts: Facts, arm: str) -> dict[str, dict[str, Any]]:
    """By task: its items, and by measure the arm's level with its interval and its gain over the base."""
    found: dict[str, dict[str, Any]] = {}
    for task in facts.summary["tasks"]:
        known = {measure["measure"]: measure["arms"].get(arm) for measure in task["measures"]}
        levels = {name: _level(level) for name, level in known.items() if level is not None}
        if levels:
            found[task["task"]] = {"items": task["items"], "shots": task["shots"], **levels}
    return found


def _level(level: Mapping[str, Any]) -> dict[str, Any]:
    gain = level["gain"]
    told = {"value": level["mean"], "low": level["low"], "high": level["high"]}
    return told | {"gain": gain and _effect(gain), "outcome": gain and gain["outcome"]}


def _gain(facts: Facts, arm: str) -> dict[str, Any]:
    """What a rung gains over the one below; the base has nothing below, the planner's best is set against the base."""
    if arm == BASE:
        return {"gain": _ZERO, "outcome": None, "verdict": None}
    claims = [claim for claim in facts.summary["claims"] if claim["arm"] == arm and claim["kind"] == "non-inferiority"]
    effect = claims[0]["effect"] if claims else None
    if effect is None:
        return {"gain": None, "outcome": None, "verdict": None}
    return {"gain": _effect(effect), "outcome": effect["outcome"], "verdict": claims[0]["verdict"]}


def _effect(effect: Mapping[str, Any]) -> dict[str, float]:
    return {"value": effect["gain"], "low": effect["low"], "high": effect["high"]}


def _whole(facts: Facts) -> dict[str, Any] | None:
    """The last rung against the base: at least 5 % lower is claimed."""
    effect = next(claim["effect"] for claim in facts.summary["claims"] if claim["kind"] == "superiority")
    base = next(row for row in facts.summary["arms"] if row["name"] == BASE).get("mean")
    if effect is None or base is None:
        return None
    delta = WHOLE_SHARE * base
    known: dict[str, Any] = {
        name: math.nan if effect[name] is None else effect[name] for name in Effect.__dataclass_fields__
    }
    return {
        "gain": _effect(effect),
        "share": {name: value / base for name, value in _effect(effect).items()},
        "outcome": effect["outcome"],
        "claimed": WHOLE_SHARE,
        "verdict": judge("superiority", Effect(**known), delta),
        "rungs": {
            "delta": RUNG_DELTA,
            "verdicts": [claim["verdict"] for claim in facts.summary["claims"] if claim["kind"] == "non-inferiority"],
        },
    }


def _cost(cells: list[dict[str, Any]]) -> dict[str, Any]:
    """Of one cell, as means: its own training, and what came before it."""
    if not cells:
        return {}
    chosen = [sum((cell.get("inherit") or {}).get("cost", {}).get("flops", {}).values()) for cell in cells]
    spent = [sum((cell.get("inherit") or {}).get("cost", {}).get("seconds", {}).values()) for cell in cells]
    taught = cells[0].get("teacher") or {}
    own, seconds = _mean(cells, "flops"), _mean(cells, "seconds")
    before, took = sum(chosen) / len(cells), sum(spent) / len(cells)
    return {
        "seconds": round(seconds, 1),
        "flops": own,
        "carving": {"seconds": round(took, 1), "flops": before},
        "teacher": {"seconds": float(taught.get("seconds", 0.0)), "flops": float(taught.get("flops", 0.0))},
        "in_all": {
            "seconds": round(seconds + took + float(taught.get("seconds", 0.0)), 1),
            "flops": own + before + float(taught.get("flops", 0.0)),
        },
        "peak_memory": max(int(cell["cost"]["peak_memory"]) for cell in cells),
    }


def _mean(cells: list[dict[str, Any]], name: str) -> float:
    return sum(float(cell["cost"][name]) for cell in cells) / len(cells)


def _teacher(facts: Facts, found: Mapping[tuple[str, int], dict[str, Any]]) -> dict[str, Any]:
    own = facts.plan.teacher
    cell = found.get((TEACHER, 0), {})
    cost = cell.get("cost", {})
    return {
        "parameters": own.shape.parameters(),
        "shape": {"summary": describe(own.shape), **asdict(own.shape)},
        "tokens": own.tokens,
        "bits_per_byte": cell.get("value"),
        "seconds": cost.get("seconds"),
        "flops": cost.get("flops"),
    }


def _costs(
    facts: Facts, found: Mapping[tuple[str, int], dict[str, Any]], tuned: list[dict[str, Any]]
) -> dict[str, dict[str, float]]:
    """Seconds and FLOPs of all the training: arms with every seed, teacher, learning rates. The trial at the rate that
    an arm takes is that arm's first seed: it was trained once, and is counted there."""
    arms = [cell for (name, _), cell in found.items() if name != TEACHER]
    teacher = found.get((TEACHER, 0), {}).get("cost", {})
    others = [row for row in tuned if row["share"] != facts.picks[row["arm"]]]
    parts = {
        "arms": (sum(float(cell["cost"][what]) for cell in arms) for what in ("seconds", "flops")),
        "teacher": (float(teacher.get(what, 0.0)) for what in ("seconds", "flops")),
        "learning rates": (sum(float(row[what]) for row in others) for what in ("seconds", "flops")),
    }
    return {name: dict(zip(("seconds", "flops"), values, strict=True)) for name, values in parts.items()}


def _curves(
    facts: Facts, arm: str, found: Mapping[tuple[str, int], dict[str, Any]]
) -> dict[str, list[list[float]]]:
    """By seed: [bytes of text trained on, bits per byte on a small held-out sample]."""
    known = {seed: cell for (name, seed), cell in sorted(found.items()) if name == arm}
    return {
        str(seed): [[round(x * cell["tokenizer"]["bytes_per_token"]), y] for x, y in cell["held_out_curve"]]
        for seed, cell in known.items()
    }


def _judged(facts: Facts) -> str:
    if not facts.plan.judge:
        return "the held-out part of the corpus"
    if facts.plan.choose:
        return "one half of the held-out part of the corpus, by hash"
    return ", ".join(Path(file).name for file in facts.plan.judge)


def _notes(facts: Facts, rows: Mapping[str, Mapping[str, Any]]) -> list[str]:
    found = []
    if len(facts.ask.rates) == 1:
        share = facts.ask.rates[0]
        found.append("learning rates were not tuned: every arm has " + ("" if share == 1 else f"{share:g} times ")
                     + "the rule's")  # fmt: skip
    elif edge := at_the_edge(facts.ask, dict(facts.picks)):
        names = ", ".join(TITLES[arm] for arm in edge)
        found.append(f"at the edge of the rates tried: {names}; wider --rates might serve them better")
    if facts.ask.seeds == 1:
        found.append("one seed: intervals are over documents alone, and nothing is shown for certain")
    counts = [row["parameters"] for row in rows.values()]
    spread = (max(counts) - min(counts)) / min(counts)
    read = f"every arm reads {facts.plan.bytes:,} bytes, replayed ones counted"
    rest = f"{TITLES[INHERITANCE]} and {TITLES[ROUNDS]} also rest on the teacher"
    return [*found, f"parameters differ by {spread:.1%} at most; {read}; {rest}"]


def shape_key(arm: Arm) -> str:
    """A shape by what its speed depends on; layers of a ladder's arms share nothing and all run."""
    told = sorted(asdict(arm.shape).items())
    beside = ("init", "share", "capacity", "routed_every")
    return ",".join(f"{name}={value}" for name, value in told if name not in beside)

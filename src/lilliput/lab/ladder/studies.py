"""The two studies of a ladder: which learning rate suits each arm, and the arms with those rates.

They are ordinary studies (docs/studies.md): their cells are shared, go on after a kill, and are spread over the
processes and machines that share the folder.
"""

from __future__ import annotations

import json
import re
from itertools import pairwise
from pathlib import Path
from typing import Any

import yaml

from lilliput.lab.cells import finished
from lilliput.lab.grid import Cell, cells_of
from lilliput.lab.ladder.ask import Ask
from lilliput.lab.ladder.plan import BASE, PLANNER, ROUNDS, RUNGS, TITLES, Plan
from lilliput.lab.spec import Study, read_study, setting
from lilliput.store import write_atomic

# Declared before any run: no rung loses so many bits per byte, and the whole gains this share of the base's.
RUNG_DELTA, WHOLE_SHARE = 0.005, 0.05
_QUESTION = "What does each component of PanGu-π Pro buy, at equal parameters and equal training bytes?"
_RATES_QUESTION = "Which learning rate suits each arm of the ladder?"


def write_studies(ask: Ask, plan: Plan, picks: dict[str, float] | None, out: Path) -> Study:
    """Write the study of the learning rates, or with `picks` (a share of the rule's rate for each arm) that of the
    arms; returns it."""
    folder = out / "rates" if picks is None else out
    values = _rates(ask, plan) if picks is None else _arms(ask, plan, picks)
    name = re.sub(r"[^A-Za-z0-9._-]", "-", out.name).lstrip("._-")[:50] or "ladder"
    head = {"name": name if picks is not None else f"{name}-rates", "recipe": "recipe.yaml"}
    texts = {"recipe.yaml": plan.recipe, "study.yaml": yaml.safe_dump(head | values, sort_keys=False, width=200)}
    for file, text in texts.items():
        # The very same file is left alone: another process may be reading it.
        if not (folder / file).is_file() or (folder / file).read_text(encoding="utf-8") != text:
            write_atomic(folder / file, text)
    return read_study(folder / "study.yaml")


def _rates(ask: Ask, plan: Plan) -> dict[str, Any]:
    arms = {
        arm_at(arm, rate): [*_settings(plan, arm, rate), *_scored(plan.choose)]
        for arm in plan.arms
        for rate in ask.rates
    }
    return {
        "question": _RATES_QUESTION,
        "teacher": _teacher(plan),
        "arms": arms,
        "seeds": [ask.recipe.seed],
        "notes": "Shares of the rule's rate, tried at one seed; the arms of the ladder take the best of their own. "
        "Never scored on the text that the arms are judged by.",
    }


def _arms(ask: Ask, plan: Plan, picks: dict[str, float]) -> dict[str, Any]:
    values: dict[str, Any] = {
        "question": _QUESTION,
        "teacher": _teacher(plan),
        "arms": {arm: [*_settings(plan, arm, picks[arm]), *_scored(plan.judge)] for arm in plan.arms},
        "baseline": BASE,
        "seeds": ask.all_seeds(),
        "claims": _claims(),
        "notes": f"Made by `{command(ask)}`; report.html has the whole. {'. '.join(plan.notes)}.",
    }
    if ask.tasks:
        values |= {"tasks": list(ask.tasks), "data": ask.data}
    return values


def _claims() -> list[dict[str, Any]]:
    """Each rung, and the whole against its base: better at all here, by 5 % in the report, where the base is known."""
    rungs = [
        {
            "kind": "non-inferiority", "arm": arm, "versus": before, "delta": RUNG_DELTA,
            "text": f"{TITLES[arm]} is not worse than the rung below by {RUNG_DELTA:g} bits per byte or more",
        }
        for before, arm in pairwise(RUNGS)
    ]  # fmt: skip
    said = "the whole is better than its base"
    whole = {"kind": "superiority", "arm": ROUNDS, "versus": BASE, "delta": 0.0, "text": said}
    return [*rungs, whole]


def _settings(plan: Plan, arm: str, rate: float) -> list[str]:
    """An arm at a share of the rule's rate; at the whole of it the run derives the rate itself."""
    own = plan.arms[arm]
    if rate == 1:
        return own.settings
    # A law of the recipe's own has said what the whole rate is.
    law = ["train.lr_law.lr=null", "train.lr_law.batch_tokens=null", "train.lr_law.power=0.5"]
    law = law if "lr_law" in plan.recipe else []
    return [*own.settings, *law, setting("train.lr", float(f"{rate * own.lr:.6g}"))]


def _teacher(plan: Plan) -> list[str]:
    # The same in both studies, so that it is one cell.
    return [*plan.teacher.settings, *_scored(plan.judge)]


def _scored(files: list[str]) -> list[str]:
    return [setting("evaluate.text", files)] if files else []


def arm_at(arm: str, rate: float) -> str:
    """An arm at a share of the rule's rate, by name."""
    return f"{arm} x{rate:g}"


def command(ask: Ask) -> str:
    """What people type to make this ladder."""
    words = ["lilliput ladder", *map(_quoted, ask.words), f"--seeds {ask.seeds}"]
    words.append(f"--rates {','.join(f'{rate:g}' for rate in ask.rates)}")
    default = Ask.__dataclass_fields__
    for option, name in (("--teacher-size", "teacher_size"), ("--teacher-bytes", "teacher_bytes")):
        if getattr(ask, name) != default[name].default:
            words.append(f"{option} {getattr(ask, name):g}")
    words += [f"--task {task}" for task in ask.tasks]
    return " ".join(words + ([f"--data {ask.data}"] if ask.data else []))


def _quoted(word: str) -> str:
    return word if re.fullmatch(r"[\w@%+=:,./-]+", word) else json.dumps(word)


def unfinished(study: Study, folder: Path) -> list[Cell]:
    """Those that are still to be trained."""
    return [cell for cell in cells_of(study, folder) if finished(folder, cell) is None]


def shown_arms(plan: Plan) -> list[str]:
    """The rungs from the base up, then the planner's best where it is an arm of its own."""
    return [*RUNGS, *([PLANNER] if PLANNER in plan.arms else [])]

"""A study's tasks: each finished cell's model answers them once; what statistics need of it goes to the cell's file.
Labelled sets, which encoders are fine-tuned for (sets.py), are kept alike.

Like speeds they can be added later, from the weights in the store; nothing is ever trained again for them.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from lilliput.evaluate.measured import ItemScores
from lilliput.lab.cells import unanswered
from lilliput.lab.compared import Compared
from lilliput.lab.grid import fill_path
from lilliput.lab.metrics import MEASURES, Metric
from lilliput.lab.spec import Study

if TYPE_CHECKING:
    import torch

    from lilliput.evaluate.task import Task
    from lilliput.lab.sets import LabelSet

Found = Mapping[tuple[str, int], dict[str, Any]]  # (arm, seed) → a finished cell

# Where a cell's answers hold what a measure is the mean of, item by item: flags, packed, or numbers; numbers not named
# here have the measure's own name.
_FLAGS = {"acc": "right", "acc_norm": "right_norm"}
_NUMBERS = {"perplexity": "log_p"}
_DIGITS = 4
# What is kept of a task's result; the figures of its parts follow from the items.
_KEPT = ("acc", "acc_norm", "stderr", "stderr_norm", "items", "kind", "shots", "bos", "cut", "whole", "data_hash")


class Asked:
    """A study's tasks and labelled sets with their rows, and the hashes of these."""

    def __init__(self, study: Study, tasks: Sequence[Task | LabelSet]) -> None:
        self.study = study
        self.tasks = {task.name: task for task in tasks}
        self.hashes = {task.name: task.hash for task in tasks}

    @classmethod
    def of(cls, study: Study, found: Sequence[Mapping[str, Any] | None]) -> Asked | None:
        """None where there is no task, or every cell has answered all: a clone of the results needs no data.

        found: of each cell what is finished. Raises UserError where the data is missing or damaged.
        """
        from lilliput.evaluate.task import open_task
        from lilliput.lab.sets import open_sets

        if all(cell is not None and not unanswered(study, cell) for cell in found):
            return None
        folder = Path(fill_path(str(study.data), f"study {study.name}")).expanduser()
        return cls(study, [*(open_task(name, folder) for name in study.tasks), *open_sets(study)])

    def left(self, found: Mapping[str, Any]) -> list[Task | LabelSet]:
        """The tasks that a finished cell has not answered, or with other rows."""
        held = found.get("tasks", {})
        stale = unanswered(self.study, found)
        return [
            task
            for name, task in self.tasks.items()
            if name in stale or held[name]["data_hash"] != self.hashes[name]
        ]


def answer(model: Path, task: Task, device: torch.device, title: str) -> dict[str, Any]:
    """What the model in a directory makes of a task: its figures, and item by item what statistics need.

    right, right_norm: as `pack` has them, where the task knows right and wrong. values: other numbers of each item, by
    their names. groups: [name, items] of each run of items in one group, where the figure is the mean of the groups.
    """
    from lilliput.evaluate.task import score_task, task_row
    from lilliput.export.hf import load_model_dir

    decoder, tokenizer = load_model_dir(model, device)
    score = score_task(decoder, tokenizer, task, title=title)
    row = task_row(task, score, tokenizer)
    flags = {"right": score.right, "right_norm": score.right_norm}
    numbers = {name: [round(float(one), _DIGITS) for one in held] for name, held in score.values.items()}
    return {
        **{name: row[name] for name in _KEPT},
        **{name: pack(held) for name, held in flags.items() if held is not None},
        **({"values": numbers} if numbers else {}),
        **({"groups": [[name, len(list(run))] for name, run in groupby(score.groups)]} if score.groups else {}),
    }


def pack(flags: npt.NDArray[np.bool_]) -> str:
    """Right and wrong, a bit an item, the first in the highest bit, as base64."""
    return base64.b64encode(np.packbits(flags).tobytes()).decode()


def unpack(text: str, count: int) -> npt.NDArray[np.float64]:
    """The reverse of `pack`: 1 for right and 0 for wrong, shape (count,)."""
    return np.unpackbits(np.frombuffer(base64.b64decode(text), np.uint8), count=count).astype(np.float64)


def item_scores(answers: Mapping[str, Any], measure: str) -> ItemScores | None:
    """A task's answers by one measure; None where they have none such."""
    groups = answers.get("groups")
    names = None if groups is None else np.repeat([name for name, _ in groups], [count for _, count in groups])
    if (flags := answers.get(_FLAGS.get(measure, ""))) is not None:
        return ItemScores(unpack(flags, answers["items"]), answers["data_hash"], names)
    if (numbers := answers.get("values", {}).get(_NUMBERS.get(measure, measure))) is not None:
        # The perplexity of words is compared by its logarithm, the mean of −log p, of which less is better.
        sign = -1 if measure == "perplexity" else 1
        return ItemScores(sign * np.asarray(numbers, np.float64), answers["data_hash"], names, lower=sign < 0)
    return None


def measured_by(metric: Metric, found: Found) -> dict[tuple[str, int], ItemScores]:
    """Every cell's answers by a metric, where it has them."""
    scored = {
        key: item_scores(cell.get("tasks", {}).get(metric.task, {}), metric.measure) for key, cell in found.items()
    }
    return {key: value for key, value in scored.items() if value is not None}


def metrics_of(tasks: Sequence[str], found: Found) -> list[Metric]:
    """The measures of the tasks that some cell has."""

    def has(answers: Mapping[str, Any], measure: str) -> bool:
        return _FLAGS.get(measure) in answers or _NUMBERS.get(measure, measure) in answers.get("values", {})

    every = [Metric(task, measure) for task in tasks for measure in MEASURES]
    held = [cell.get("tasks", {}) for cell in found.values()]
    return [metric for metric in every if any(has(one.get(metric.task, {}), metric.measure) for one in held)]


def task_rows(
    tasks: Sequence[str], arms: Sequence[str], base: str, found: Found, by_metric: Mapping[str, Compared]
) -> list[dict[str, Any]]:
    """For `--json` and the tables: each task, and by each of its measures each arm's level and gain."""
    rows = []
    for task in tasks:
        held = [cell["tasks"][task] for cell in found.values() if task in cell.get("tasks", {})]
        measures = []
        for metric in metrics_of([task], found):
            compared = by_metric[metric.name]
            have = [arm for arm in arms if arm in compared.levels]
            measures.append({
                "metric": metric.name,
                "measure": metric.measure,
                "seed_sd": compared.seed_sd,
                "dof": compared.variance.dof,
                "arms": {arm: compared.row(arm, base) for arm in have},
            })  # fmt: skip
        rows.append({
            "task": task,
            "items": held[0]["items"] if held else None,
            "groups": len({name for name, _ in held[0]["groups"]}) if held and held[0].get("groups") else None,
            "shots": held[0]["shots"] if held else None,
            **_beside(held),
            "data_hash": sorted({one["data_hash"] for one in held}),
            "arms": list(arms),
            "measures": measures,
        })  # fmt: skip
    return rows


def _beside(held: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What stands beside the arms at a labelled set: the baseline's accuracy on the rows of the cells, their mean."""
    known = [one["baseline"] for one in held if "baseline" in one]
    if not known:
        return {}
    return {"baseline": {"name": known[0]["name"], "mean": sum(one["acc"] for one in known) / len(known)}}

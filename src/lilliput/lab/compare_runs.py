"""Any finished runs, compared as a study compares its arms: on the same documents, and on the items of tasks.

A run is the folder of a `lilliput make`, the model in it, or the file of a study's cell. Runs whose recipes differ in
the seed alone are one arm, seeds a random effect; a run that is alone stands for itself, and its interval covers the
choice of documents or items only.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from lilliput.corpus.files import printable
from lilliput.device import pick_device
from lilliput.errors import ConfigError
from lilliput.evaluate.measured import Scores
from lilliput.lab.cells import scores
from lilliput.lab.compared import Compared
from lilliput.lab.metrics import BITS, Metric
from lilliput.lab.tables import gain_cells, level_cell, markdown, task_tables
from lilliput.lab.tasks import answer, measured_by, metrics_of, task_rows
from lilliput.store import Store, canonical_hash, file_hash, read_json

_ANSWERS_FORMAT = 1
# What of a recipe is no part of what makes two runs the same but for chance.
_FREE = ("name", "seed", "evaluate")
_MEND = "give the folder of a finished `lilliput make`, or a cell, results/NAME/cells/ARM-seedN.json"


@dataclass(frozen=True)
class Finished:
    """A finished run. name, arm: what it is called alone, and with others that differ in the seed. recipe: identifies
    it but for its seed; None: it is like no other. scores: None where it was scored on no text. tasks: its answers by
    task. model: None where only a cell's file is here."""

    name: str
    arm: str
    path: Path
    recipe: str | None
    seed: int
    scores: Scores | None
    model: Path | None
    tasks: dict[str, Any] = field(default_factory=dict)


def compare_runs(
    paths: Sequence[Path],
    *,
    tasks: Sequence[str] = (),
    data: Path | None = None,
    store: Store | None = None,
    device: str = "auto",
) -> dict[str, Any]:
    """The first run's arm against each other, by bits per byte and by every task that all have answered.

    tasks: answered now by the models (kept in the store), their rows under `data`. Raises ConfigError for fewer than
    two runs, for one that is none, and where the texts differ.
    """
    if len(paths) < 2:
        raise ConfigError("one run cannot be compared", where="RUN", mend="name two or more")
    runs = [_read(path.expanduser()) for path in paths]
    if len({run.path.resolve() for run in runs}) < len(runs):
        raise ConfigError("the same run is named twice", where="RUN", mend="name each run once")
    if tasks:
        runs = _answered(runs, tasks, data, store or Store(), device)
    common = [name for name in runs[0].tasks if all(name in run.tasks for run in runs)]
    texts = _same_text(runs, common)
    arms = _arms(runs)
    base = next(iter(arms))
    found = {(arm, seed): {"tasks": run.tasks} for arm, own in arms.items() for seed, run in own.items()}
    by_metric = {metric.name: Compared(measured_by(metric, found)) for metric in metrics_of(common, found)}
    if texts is not None:
        measured = {(arm, seed): run.scores for arm, own in arms.items() for seed, run in own.items() if run.scores}
        by_metric[BITS] = Compared(measured)
    rows = [
        {
            "name": arm,
            "runs": [str(run.path.absolute()) for run in own.values()],
            "seeds": len(own),
            **(by_metric[BITS].row(arm, base) if texts is not None else {}),
        }
        for arm, own in arms.items()
    ]
    return {
        "baseline": base,
        "text": texts,
        "arms": rows,
        "tasks": task_rows(common, list(arms), base, found, by_metric),
        # Whether the runs tell how much another seed changes.
        "repeated": any(compared.variance.dof for compared in by_metric.values()),
    }


def _read(path: Path) -> Finished:
    """A finished run from where the person says it lies."""
    if path.suffix == ".json" and path.is_file():
        return _cell(path)
    run = path.parent if (path / "config.json").is_file() and not (path / "results.json").is_file() else path
    if (run / "results.json").is_file() and (run / "documents.json").is_file():
        results, documents = read_json(run / "results.json"), read_json(run / "documents.json")
        known = scores({"documents": {**documents, "text_hash": results["held_out"]["text_hash"]}})
        recipe = results["recipe"]
        name = run.absolute().name
        return Finished(name, name, run, _identity(recipe), int(recipe["seed"]), known, run / "model")
    if (path / "config.json").is_file():
        return Finished(path.absolute().name, path.absolute().name, path, None, 0, None, path)
    raise ConfigError("there is no finished run here", where=printable(path), mend=_MEND)


def _cell(path: Path) -> Finished:
    found = read_json(path)
    if not isinstance(found, dict) or not {"arm", "seed", "recipe", "documents"} <= found.keys():
        raise ConfigError("this file is no cell of a study", where=printable(path), mend=_MEND)
    arm, seed, tasks = found["arm"], found["seed"], found.get("tasks", {})
    return Finished(f"{arm}, seed {seed}", arm, path, _identity(found["recipe"]), seed, scores(found), None, tasks)


def _identity(recipe: Mapping[str, Any]) -> str:
    return canonical_hash({key: value for key, value in recipe.items() if key not in _FREE})


def _answered(
    runs: Sequence[Finished], names: Sequence[str], data: Path | None, store: Store, device: str
) -> list[Finished]:
    """The runs with their models' answers to the tasks; what the store has is not asked again."""
    from lilliput.evaluate.task import open_task

    tasks = [open_task(name, None if data is None else data.expanduser()) for name in dict.fromkeys(names)]
    done = []
    for run in runs:
        answers = dict(run.tasks)
        for task in tasks:
            known = task.hash
            if answers.get(task.name, {}).get("data_hash") == known:
                continue
            if run.model is None:
                mend = f"run its study with `tasks: [{task.name}]`, or name the run's folder"
                raise ConfigError(f"this cell has no answers to {task.name}", where=printable(run.path), mend=mend)
            key = {"format": _ANSWERS_FORMAT, "model": _files(run.model), "task": task.name, "data": known}
            model, title = run.model, f"{task.name}, {run.name}"

            def build(_: Path, *, model: Path = model, task: Any = task, title: str = title) -> dict[str, Any]:
                return {"answers": answer(model, task, pick_device(device), title)}

            answers[task.name] = store.stage("answers", key, build).manifest["answers"]
        done.append(replace(run, tasks=answers))
    return done


def _files(model: Path) -> dict[str, str]:
    files = [model / "config.json", model / "tokenizer.json", *sorted(model.glob("*.safetensors"))]
    return {file.name: file_hash(file) for file in files if file.is_file()}


def _same_text(runs: Sequence[Finished], common: Sequence[str]) -> dict[str, Any] | None:
    """What text all were scored on; None where some were scored on none, and only tasks are compared."""
    first = runs[0].scores
    for run in runs:
        if run.scores is None and not common:
            mend = "name tasks for the models to answer: --task NAME --data DIR; or give a run's folder"
            raise ConfigError("this model was scored on no text", where=printable(run.path), mend=mend)
        if first is not None and run.scores is not None and not first.same_items(run.scores):
            mend = "make them again with the same evaluate.text=[FILE] (the weights stay, only the scores are new)"
            raise ConfigError(f"{runs[0].name} and {run.name} were scored on different text", where="RUN", mend=mend)
    if first is None or any(run.scores is None for run in runs):
        return None
    return {"documents": len(first.sizes), "bytes": int(np.sum(first.sizes)), "hash": first.text}


def _arms(runs: Sequence[Finished]) -> dict[str, dict[int, Finished]]:
    """The runs by arm and seed, each arm called after its first run.

    Where all runs differ in the seed alone, each stands for itself, and so does one that repeats another. Where an arm
    shares no seed with the first, the arms' runs are paired in the order of their seeds.
    """
    grouped: dict[str, dict[int, Finished]] = {}
    for run in runs:
        identity = run.recipe or str(run.path)
        if run.seed in grouped.get(identity, {}):
            identity = str(run.path)
        grouped.setdefault(identity, {})[run.seed] = run
    if len(grouped) == 1:
        grouped = {str(run.path): {0: run} for run in runs}
    first = next(iter(grouped.values()))
    if not all(first.keys() & own.keys() for own in grouped.values()):
        grouped = {key: dict(enumerate(run for _, run in sorted(own.items()))) for key, own in grouped.items()}
    firsts = [next(iter(own.values())) for own in grouped.values()]
    names = [first.arm if len(own) > 1 else first.name for first, own in zip(firsts, grouped.values(), strict=True)]
    if len(set(names)) < len(names):
        names = [printable(first.path) for first in firsts]
    return dict(zip(names, grouped.values(), strict=True))


def in_words(found: Mapping[str, Any]) -> str:
    """The tables, and how far they reach."""
    base, parts = found["baseline"], []
    if found["text"]:
        metric = Metric(None, BITS)
        head = ["run", "bits per byte", f"gain over {base}", "95 % interval", "outcome", "seeds"]
        rows = [
            [
                arm["name"],
                level_cell(metric, arm),
                *gain_cells(metric, arm["gain"], arm["name"] == base),
                str(arm["seeds"]),
            ]
            for arm in found["arms"]
        ]
        text = found["text"]
        parts += [markdown(head, rows), f"on {text['documents']:,} documents, {text['bytes']:,} bytes"]
    if found["tasks"]:
        parts.append(task_tables(found["tasks"], base))
    if not found["repeated"]:
        said = "too few of these runs share their seeds to tell what another one would change"
        parts.append(f"The intervals cover the text and the items alone: {said}.")
    return "\n\n".join(parts)

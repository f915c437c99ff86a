"""Cells: one arm with one seed, measured once and kept as a small file.

`results/NAME/cells/ARM-seedS.json` holds everything the statistics need, so a study goes on from a fresh
clone; weights and checkpoints stay in the store (`STORE/cells/HASH/`).
"""

from __future__ import annotations

import json
import math
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock, Timeout

from lilliput.evaluate.measured import MaskedScores, Scores
from lilliput.lab.grid import TEACHER, Cell, fill_in
from lilliput.lab.metrics import MASKED
from lilliput.lab.spec import Study
from lilliput.progress import say
from lilliput.report.scale import thin
from lilliput.store import Store, locked, read_json, write_atomic
from lilliput.train.metrics import read_metrics

_CURVE_POINTS = 100
_HEAD_LINES = 8  # of a cell's file: study, arm, seed, hash are among them


def cell_file(folder: Path, cell: Cell) -> Path:
    """The file of a finished cell under the study's results folder."""
    return folder / "cells" / f"{cell.stem}.json"


def read_cell(folder: Path, cell: Cell) -> dict[str, Any] | None:
    """A finished cell, whatever its settings were; None if there is none."""
    path = cell_file(folder, cell)
    return dict(read_json(path)) if path.is_file() else None


def finished(folder: Path, cell: Cell) -> dict[str, Any] | None:
    """The finished cell with these very settings, if there is one."""
    found = read_cell(folder, cell)
    return found if found is not None and found["hash"] == cell.hash else None


def take_over(study: Study, folder: Path, cell: Cell) -> dict[str, Any] | None:
    """Where another cell beside this one asked for the very same, in this study or in one of its neighbours, write what
    it found as this cell's own; None where there is none."""
    for file in sorted(folder.parent.glob("*/cells/*.json")):
        # The file's first lines hold the hash: most files need not be parsed.
        with file.open(encoding="utf-8") as lines:
            if not any(cell.hash in line for line in islice(lines, _HEAD_LINES)):
                continue
        found = dict(read_json(file))
        if found.get("hash") == cell.hash and "value" in found:
            own = {"study": study.name, "arm": cell.arm, "seed": cell.seed, "settings": list(cell.settings)}
            write_atomic(cell_file(folder, cell), dump({**found, **own}))
            return {**found, **own}
    return None


def complete(study: Study, folder: Path, cell: Cell) -> bool:
    """Whether nothing is left to measure in a cell: it has finished, and has the tasks and the speed that the study
    asks for."""
    found = finished(folder, cell)
    return found is not None and not lacks(study, found)


def lacks(study: Study, found: Mapping[str, Any]) -> list[str]:
    """What a finished cell still lacks of what the study asks for, in words."""
    return [*unanswered(study, found), *(["its speed"] if study.speed and not found.get("speed") else [])]


def unanswered(study: Study, found: Mapping[str, Any]) -> list[str]:
    """The tasks and labelled sets that a finished cell has not answered, or with other settings of fine-tuning."""
    held, asked = found.get("tasks", {}), study.classify
    stale = {name for name, one in held.items() if asked and "tuning" in one and not asked.fits(one["tuning"])}
    return [name for name in study.asked if name not in held or name in stale]


def _failure_file(folder: Path, cell: Cell) -> Path:
    return folder / "cells" / f"{cell.stem}.failed.json"


def note_failure(folder: Path, cell: Cell, reason: str) -> None:
    """Keep that a cell would not train: that, too, is a result. The next run tries it once more."""
    known = {"arm": cell.arm, "seed": cell.seed, "hash": cell.hash, "reason": reason}
    write_atomic(_failure_file(folder, cell), dump(known))


def failure(folder: Path, cell: Cell) -> str | None:
    """Why the cell with these settings would not train, if that is what happened."""
    path = _failure_file(folder, cell)
    if not path.is_file() or finished(folder, cell):
        return None
    known = read_json(path)
    return str(known["reason"]) if known["hash"] == cell.hash else None


def scores(found: Mapping[str, Any]) -> Scores:
    """What the statistics need of a finished cell that has a loss."""
    documents = found["documents"]
    kind, sizes = (MaskedScores, "masked") if "masked" in documents else (Scores, "bytes")
    return kind(
        np.asarray(documents["nats"], np.float64),
        np.asarray(documents[sizes], np.float64),
        str(documents["text_hash"]),
    )


def locks_of(folder: Path) -> Path:
    """The folder of a study's locks, which git leaves alone."""
    locks = folder / ".locks"
    if not (locks / ".gitignore").exists():
        write_atomic(locks / ".gitignore", "*\n")
    return locks


@contextmanager
def taken(folder: Path, cell: Cell) -> Iterator[bool]:
    """Try to take a cell: True while this process holds it, False if another does.

    The system drops the lock of a process that dies, so a killed one never blocks the others.
    """
    lock = FileLock(locks_of(folder) / f"{cell.stem}.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        yield False
        return
    try:
        yield True
    finally:
        lock.release()


def measure(study: Study, cell: Cell, folder: Path, store: Store, device: str) -> dict[str, Any]:
    """Run one cell to its end, going on where a killed run stopped, and write its file; before it the cell of its
    teacher, where that has not been run here."""
    given = {}
    if cell.teacher is not None:
        given[TEACHER] = str(_teacher(study, cell.teacher, folder, store, device))
    began = time.monotonic()
    made = [_made(study, one, given, store, device) for one in cell.each(study.loss)]
    found = _record(study, cell, made, folder, run_folder(store, cell), time.monotonic() - began)
    write_atomic(cell_file(folder, cell), dump(found))
    _failure_file(folder, cell).unlink(missing_ok=True)
    return found


def _made(study: Study, cell: Cell, given: Mapping[str, str], store: Store, device: str) -> dict[str, Any]:
    """Make the model of a cell that is no committee."""
    # Here, not above: `study list` and `show` answer without loading all that training needs.
    from lilliput.encoding import untrained
    from lilliput.pipeline import make

    recipe, run = fill_in(cell.recipe, f"study {study.name}", given), run_folder(store, cell)
    if cell.scratch:
        return untrained(recipe, run, store, device)
    results = make(recipe, run, store, device=device)
    # A study of many cells would fill the disk: the weights stay, the optimizer's state is needed no more.
    shutil.rmtree(run / "checkpoints", ignore_errors=True)
    return results


def run_folder(store: Store, cell: Cell) -> Path:
    """Where the run of a cell lies, its model in `model`; there is none where the store has not trained it."""
    return store.root / "cells" / cell.hash[:24]


def _teacher(study: Study, cell: Cell, folder: Path, store: Store, device: str) -> Path:
    """The teacher's model directory, made once for all processes that share the store."""
    model = run_folder(store, cell) / "model"
    with locked(locks_of(folder) / "teacher.lock", f"the teacher of {study.name}"):
        if not (model / "config.json").is_file() or finished(folder, cell) is None:
            say(f"the teacher of {study.name}")
            measure(study, cell, folder, store, device)
    return model


def add_speed(found: dict[str, Any], folder: Path, cell: Cell, device: str) -> None:
    """Measure how fast the shape of a finished cell writes here, and write that to the cell's file.

    By the paper's protocol: random weights, so that the trained ones need not be at hand, in a process of its own. Of
    encoders how long a batch of texts takes, a committee's members one after another.
    """
    if found["metric"] == MASKED:
        from lilliput.evaluate.encoder_speed import latency_of_shape
        from lilliput.model.encoder_config import EncoderConfig

        known = {name: value for name, value in found["shape"].items() if name != "family"}
        add(folder, cell, {"speed": latency_of_shape(EncoderConfig(**known), found.get("members", 1))})
        return
    from lilliput.evaluate.speed import BATCHES, speed_of_shape
    from lilliput.model.config import ModelConfig

    shape = ModelConfig(**{name: value for name, value in found["shape"].items() if name != "summary"})
    title = f"writing, {cell.arm}"
    speeds = [speed_of_shape(shape, batch=batch, device=device, title=title).to_dict() for batch in BATCHES]
    add(folder, cell, {"speed": speeds})


def add(folder: Path, cell: Cell, more: Mapping[str, Any]) -> None:
    """Add to what a finished cell's file holds."""
    write_atomic(cell_file(folder, cell), dump({**(read_cell(folder, cell) or {}), **more}))


def _taught(teacher: Cell, folder: Path) -> dict[str, Any]:
    """Which teacher a cell had, and what that one's training cost."""
    cost = dict(read_cell(folder, teacher) or {})["cost"]
    return {"hash": teacher.hash, "flops": cost["flops"], "seconds": cost["seconds"]}


def _record(
    study: Study, cell: Cell, made: list[dict[str, Any]], folder: Path, run: Path, wall: float
) -> dict[str, Any]:
    """made: what the runs of its members came to, of most cells one."""
    results = made[0]
    return {
        "study": study.name,
        "arm": cell.arm,
        "seed": cell.seed,
        "hash": cell.hash,
        **({"teacher": _taught(cell.teacher, folder)} if cell.teacher else {}),
        **({"members": cell.members} if cell.members > 1 else {}),
        **({"scratch": True} if cell.scratch else {}),
        "settings": list(cell.settings),
        "metric": study.loss,
        **_level(results, study.loss, alone=len(made) == 1 and not cell.scratch),
        "baselines": results["baselines"],
        "parameters": sum(one["parameters"] for one in made),
        "shape": results["shape"],
        "tokenizer": results["tokenizer"],
        **({"inherit": results["inherit"]} if results.get("inherit") else {}),
        **({"rounds": _rounds(results["rounds"])} if results.get("rounds") else {}),
        "cost": {**_summed([one["cost"] for one in made]), "wall_seconds": round(wall, 1)},
        "machine": results["machine"],
        "versions": results["versions"],
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        **(_ways(run, study.loss) if (run / "results.json").is_file() else {}),
        "samples": results["samples"],
        "recipe": cell.recipe.to_dict(),
        **(_documents(results, run, study.loss) if (run / "results.json").is_file() else {}),
    }


def _level(results: Mapping[str, Any], loss: str, *, alone: bool) -> dict[str, Any]:
    """The loss on held-out text; none of a committee, whose members are no one model, nor of what is not trained."""
    if not alone:
        return {"value": None, "low": None, "high": None}
    held = results["held_out"]
    return {"value": held["value" if loss == MASKED else loss], "low": held["low"], "high": held["high"]}


def _ways(run: Path, loss: str) -> dict[str, Any]:
    """The losses on the way, in training and on held-out text."""
    rows = read_metrics(run / "metrics.jsonl")
    return {"curve": _curve(rows, "loss"), "held_out_curve": _curve(rows, loss)}


def _documents(results: Mapping[str, Any], run: Path, loss: str) -> dict[str, Any]:
    """The loss document by document, of encoders window by window."""
    if loss == MASKED:
        from lilliput.encoder_results import WINDOWS

        return {"documents": read_json(run / WINDOWS)}
    documents, held = read_json(run / "documents.json"), results["held_out"]
    return {
        "documents": {
            # Scores are compared only where this is the same, so never a pseudo one with a likelihood's.
            "text_hash": held["text_hash"] + (" by a parallel head" if held.get("pseudo") else ""),
            "nats": [round(value, 3) for value in documents["nats"]],
            "bytes": documents["bytes"],
        }
    }


def _summed(costs: list[dict[str, Any]]) -> dict[str, Any]:
    """What several runs cost together; the settings are those of the first."""
    if len(costs) == 1:
        return costs[0]
    added = {name: sum(cost[name] for cost in costs) for name in ("seconds", "tokens", "flops", "skipped")}
    return {**costs[0], **added, "peak_memory": max(cost["peak_memory"] for cost in costs)}


def _rounds(told: dict[str, Any]) -> dict[str, Any]:
    """What rounds did, without the texts that were drawn: those are of the person's corpus. Nothing is drawn where
    every round reads new text."""
    drawn = told["drawn"]
    return {**told, "drawn": drawn and {name: value for name, value in drawn.items() if name != "most"}}


def _curve(rows: list[dict[str, Any]], name: str) -> list[list[float]]:
    """[tokens, value] pairs, few enough for a small file."""
    # A row that tells of a return to a checkpoint counts no tokens.
    pairs = [(row["tokens"], {**row, **(row.get("evaluation") or {})}.get(name)) for row in rows if "tokens" in row]
    kept = [(float(x), float(y)) for x, y in pairs if y is not None and math.isfinite(y)]
    xs, ys = thin([x for x, _ in kept], [y for _, y in kept], _CURVE_POINTS)
    return [[round(x), round(y, 5)] for x, y in zip(xs, ys, strict=True)]


def dump(found: dict[str, Any]) -> str:
    """JSON with one line a key: lists of thousands of numbers stay compact, and a change is readable."""
    lines = [f"{json.dumps(key)}: {json.dumps(value, ensure_ascii=False)}" for key, value in found.items()]
    return "{\n" + ",\n".join(lines) + "\n}\n"

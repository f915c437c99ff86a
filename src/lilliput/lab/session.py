"""One call of `run_study`: this process takes cells until none is left or its limits are reached.

Cells are trained first; then each finished model answers the study's tasks; speeds come last, when no cell of the study
is training any more, and one at a time.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lilliput.device import pick_device
from lilliput.errors import TrainingError
from lilliput.lab.cells import (
    add,
    add_speed,
    failure,
    finished,
    locks_of,
    measure,
    note_failure,
    read_cell,
    run_folder,
    take_over,
    taken,
)
from lilliput.lab.grid import Cell
from lilliput.lab.metrics import Metric
from lilliput.lab.sets import LabelSet
from lilliput.lab.spec import Study
from lilliput.lab.summary import summarise_study
from lilliput.lab.tasks import Asked, answer
from lilliput.lab.write import write_results
from lilliput.progress import say, warn
from lilliput.store import Store, locked

_POLL_SECONDS = 1.0

Told = Callable[[Cell, dict[str, Any]], None]


@dataclass(frozen=True)
class Limits:
    """max_cells: measure at most so many. hours: begin none after so long. tasks, speeds: whether to measure them."""

    max_cells: int | None = None
    hours: float | None = None
    tasks: bool = True
    speeds: bool = True


class Session:
    """cells: all of the study. told: called with each cell that this process has trained, and what came of it.

    Raises UserError where the data of a task is needed and missing.
    """

    def __init__(
        self,
        study: Study,
        cells: list[Cell],
        folder: Path,
        store: Store,
        device: str,
        limits: Limits,
        told: Told | None = None,
    ) -> None:
        self.study, self.cells, self.folder = study, cells, folder
        self.store, self.device, self.limits, self.told = store, device, limits, told
        self.until = None if limits.hours is None else time.monotonic() + 3600 * limits.hours
        self.measured: list[str] = []
        self.failed: list[str] = []
        self.tried: set[str] = set()
        self.without_model: set[str] = set()
        self.asked = Asked.of(study, [finished(folder, cell) for cell in cells]) if limits.tasks else None

    def run(self) -> None:
        """Measure until nothing is left, or the limits are reached."""
        self._each(lambda cell: cell.stem not in self.tried and not finished(self.folder, cell), self._take)
        if self.asked:
            self._each(self._unasked, self._ask)
        if self.limits.speeds and self.study.speed:
            self._each(self._untimed, self._time)

    def _each(self, is_left: Callable[[Cell], bool], take: Callable[[Cell], bool]) -> None:
        """Take free cells until none is left; those that other processes hold are waited for."""
        waiting = False
        while left := [cell for cell in self.cells if is_left(cell)]:
            if self._enough():
                return
            if not any(take(cell) for cell in left):
                if self._enough():
                    return
                if not waiting:
                    say(f"waiting for {len(left)} cells that other processes are measuring")
                    waiting = True
                time.sleep(_POLL_SECONDS)

    def _enough(self) -> bool:
        if self.limits.max_cells is not None and len(self.measured) >= self.limits.max_cells:
            return True
        return self.until is not None and time.monotonic() >= self.until

    def _take(self, cell: Cell) -> bool:
        """Measure a cell if it is free and still to be done; whether this process had it."""
        if self._enough():
            return False
        with taken(self.folder, cell) as free:
            if not free:
                return False
            if finished(self.folder, cell):
                return True
            if not self._needs_model(cell) and take_over(self.study, self.folder, cell) is not None:
                say(f"{cell.arm}, seed {cell.seed}: found, another cell asked for the same")
                self._done(cell)
                return True
            if read_cell(self.folder, cell) is not None:
                say(f"{cell.arm}, seed {cell.seed}: its settings changed, measuring it again")
            done = sum(finished(self.folder, other) is not None for other in self.cells)
            say(f"cell {done + len(self.failed) + 1} of {len(self.cells)}: {cell.arm}, seed {cell.seed}")
            self.tried.add(cell.stem)
            try:
                found = measure(self.study, cell, self.folder, self.store, self.device)
            except TrainingError as error:
                warn(f"{cell.arm}, seed {cell.seed}: {error}")
                self.failed.append(f"{cell.arm}, seed {cell.seed}")
                note_failure(self.folder, cell, error.message)
                return True
        if found["value"] is not None:
            say(f"{cell.arm}, seed {cell.seed}: {found['value']:.4f} {Metric(None, self.study.loss).unit[1]}")
        if self.told:
            self.told(cell, found)
        self._done(cell)
        return True

    def _needs_model(self, cell: Cell) -> bool:
        """Whether a cell's figures alone would not do: who is told of trained cells wants their models, and tasks want
        weights that this store may not have."""
        if self.told is not None:
            return True
        return bool(self.study.asked) and not self._models(cell)

    def _models(self, cell: Cell) -> list[Path]:
        """The models that a cell's tasks are asked of; none where this store lacks one of them."""
        models = [run_folder(self.store, one) / "model" for one in cell.each(self.study.loss)]
        # From scratch no weights are taken: the members share the first one's folder.
        there = all((model / "config.json").is_file() for model in models[: 1 if cell.scratch else None])
        return models if there else []

    def _unasked(self, cell: Cell) -> bool:
        found = finished(self.folder, cell)
        return bool(found and self.asked and cell.stem not in self.without_model and self.asked.left(found))

    def _ask(self, cell: Cell) -> bool:
        """Let a finished cell's model answer the tasks that are left, unless another process has had it meanwhile."""
        if self._enough() or self.asked is None:
            return False
        with taken(self.folder, cell) as free:
            if not free:
                return False
            if not (models := self._models(cell)):
                self.without_model.add(cell.stem)
                warn(f"{cell.arm}, seed {cell.seed}: its model is not in this store, so its tasks are left out")
                return True
            for task in self.asked.left(finished(self.folder, cell) or {}):
                if isinstance(task, LabelSet):
                    answers = task.answer(self.study, cell, self.store, self.device)
                else:
                    title = f"{task.name}, {cell.arm}, seed {cell.seed}"
                    answers = answer(models[0], task, pick_device(self.device), title)
                held = (finished(self.folder, cell) or {}).get("tasks", {})
                add(self.folder, cell, {"tasks": {**held, task.name: answers}})
        self._done(cell)
        return True

    def _untimed(self, cell: Cell) -> bool:
        found = finished(self.folder, cell)
        return found is not None and not found.get("speed")

    def _time(self, cell: Cell) -> bool:
        """Give a finished cell the speed of its shape, unless another process has done so meanwhile."""
        if self._enough():
            return False
        with (
            taken(self.folder, cell) as free,
            locked(locks_of(self.folder) / "speed.lock", f"the speeds of {self.study.name}"),
        ):
            if not free:
                return False
            found = finished(self.folder, cell)
            if found is None or found.get("speed"):
                return True
            done = found_cells(self.cells, self.folder).values()
            # A speed is the shape's: cells that differ in their seed share one measurement.
            if twin := next((one for one in done if one.get("speed") and _alike(one, found)), None):
                add(self.folder, cell, {"speed": twin["speed"]})
            else:
                say(f"{cell.arm}, seed {cell.seed}: measuring how fast it is")
                add_speed(found, self.folder, cell, self.device)
        self._done(cell)
        return True

    def _done(self, cell: Cell) -> None:
        if cell.stem not in self.measured:
            self.measured.append(cell.stem)
        bring_up_to_date(self.study, self.cells, self.folder)


def _alike(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether two cells have one shape, and as many members."""
    return all(one.get(name) == other.get(name) for name in ("shape", "members"))


def found_cells(cells: list[Cell], folder: Path) -> dict[tuple[str, int], dict[str, Any]]:
    """The finished cells by (arm, seed)."""
    found = ((cell, finished(folder, cell)) for cell in cells)
    return {(cell.arm, cell.seed): done for cell, done in found if done is not None}


def failed_cells(cells: list[Cell], folder: Path) -> dict[tuple[str, int], str]:
    """Why cells would not train, by (arm, seed)."""
    reasons = ((cell, failure(folder, cell)) for cell in cells)
    return {(cell.arm, cell.seed): why for cell, why in reasons if why is not None}


def bring_up_to_date(study: Study, cells: list[Cell], folder: Path) -> dict[str, Any]:
    """Write the results that follow from the finished cells; one process at a time, so that an older state never
    overwrites a newer. Returns the summary."""
    with locked(locks_of(folder) / "results.lock", f"the results of {study.name}"):
        summary = summarise_study(study, cells, found_cells(cells, folder), failed_cells(cells, folder))
        write_results(study, summary, folder)
    return summary

"""Studies: list, run, status, show. Each function returns plain values, ready for `--json`.

Processes and machines that share a results folder share the work: each takes the next free cell by its lock,
none is run twice, and a killed process loses at most what its running cell had not saved.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lilliput.errors import ConfigError, TrainingError
from lilliput.evaluate.statistics import t_quantile
from lilliput.lab.cells import add_speed, complete, failure, finished, measure, note_failure, read_cell, taken
from lilliput.lab.grid import TEACHER, Cell, cells_of, fill_in
from lilliput.lab.spec import Study, find_study, read_study, studies_shipped
from lilliput.lab.summary import summarise_study
from lilliput.lab.write import table, verdict_lines, write_results
from lilliput.progress import duration, say, warn
from lilliput.settle import check_request
from lilliput.store import Store, locked, write_atomic

RESULTS = Path("results")
_POLL_SECONDS = 1.0

Told = Callable[[Cell, dict[str, Any]], None]


def list_studies(results: Path | str = RESULTS) -> list[dict[str, Any]]:
    """The studies that ship and those begun under `results`, with their cells done."""
    files = studies_shipped()
    files |= {file.parent.name: file for file in sorted(Path(results).glob("*/study.yaml"))}
    rows = []
    for name, file in sorted(files.items()):
        try:
            study = read_study(file)
            cells = cells_of(study, file.parent)
        except ConfigError as error:
            warn(f"the study {name} cannot be read: {error}")
            continue
        folder = Path(results) / study.name
        rows.append(
            {
                "name": name,
                "question": study.question,
                "arms": len(study.arm_settings()),
                "seeds": len(study.all_seeds()),
                "done": sum(complete(study, folder, cell) for cell in cells),
                "total": len(cells),
                "file": str(file.absolute()),
            }
        )
    return rows


def load_study(name: str | Path, results: Path | str = RESULTS) -> Study:
    """A study by its name or file, checked; ConfigError for anything in it that cannot be."""
    return read_study(find_study(str(name), Path(results)))


def run_study(
    name: str | Path,
    *,
    results: Path | str = RESULTS,
    store: Store | None = None,
    max_cells: int | None = None,
    hours: float | None = None,
    speeds: bool = True,
    device: str = "auto",
    folder: Path | None = None,
    told: Told | None = None,
) -> dict[str, Any]:
    """Measure the cells that are not finished, then write table, picture and README.

    max_cells: measure at most so many now. hours: begin no cell after so long. speeds: False leaves the speeds that the
    study asks for to a later call, when nothing else runs on the machine. folder: where the results go, by default
    `results/NAME`. told: called with each cell that this call has trained, and what came of it. Returns the summary of
    `show_study` with `measured`, the cells that this call measured. Raises ConfigError before any work where
    the study cannot run, and TrainingError at the end if cells would not train.
    """
    t_quantile(0.975, 1)  # the verdicts need SciPy: say so before hours of work, not after
    file = find_study(str(name), Path(results))
    study = read_study(file)
    cells = cells_of(study, file.parent)
    _check(study, cells)
    folder = folder or Path(results) / study.name
    if file.resolve() != (folder / "study.yaml").resolve():
        write_atomic(folder / "study.yaml", file.read_text(encoding="utf-8"))
    session = _Session(study, cells, folder, store or Store(), device, max_cells, hours, speeds, told)
    session.run()
    summary = _write(study, cells, folder)
    if session.failed:
        raise TrainingError(
            f"{len(session.failed)} cells would not train: {'; '.join(session.failed)}",
            where=f"study {study.name}",
            mend="change the arm, or run again to try once more",
        )
    return {**summary, "measured": session.measured}


class _Session:
    """One call of `run_study`."""

    def __init__(
        self,
        study: Study,
        cells: list[Cell],
        folder: Path,
        store: Store,
        device: str,
        max_cells: int | None,
        hours: float | None,
        speeds: bool,
        told: Told | None,
    ) -> None:
        self.study, self.cells, self.folder = study, cells, folder
        self.store, self.device, self.max_cells, self.told = store, device, max_cells, told
        self.speeds = speeds and study.speed
        self.until = None if hours is None else time.monotonic() + 3600 * hours
        self.measured: list[str] = []
        self.failed: list[str] = []
        self.tried: set[str] = set()

    def run(self) -> None:
        """Measure until nothing is left, or the limits are reached.

        Speeds come last, when no cell of the study is training any more, and one at a time.
        """
        self._each(lambda cell: cell.stem not in self.tried and not finished(self.folder, cell), self._take)
        if self.speeds:
            self._each(lambda cell: bool(finished(self.folder, cell)) and not self._complete(cell), self._time)

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

    def _complete(self, cell: Cell) -> bool:
        return complete(self.study, self.folder, cell)

    def _enough(self) -> bool:
        if self.max_cells is not None and len(self.measured) >= self.max_cells:
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
        self.measured.append(cell.stem)
        say(f"{cell.arm}, seed {cell.seed}: {found['value']:.4f} bits per byte")
        if self.told:
            self.told(cell, found)
        _write(self.study, self.cells, self.folder)
        return True

    def _time(self, cell: Cell) -> bool:
        """Measure the speed of a finished cell, unless another process has done so meanwhile."""
        if self._enough():
            return False
        with locked(self.folder / ".locks" / "speed.lock", f"the speeds of {self.study.name}"):
            found = finished(self.folder, cell)
            if found is None or self._complete(cell):
                return True
            say(f"{cell.arm}, seed {cell.seed}: measuring how fast it writes")
            add_speed(found, self.folder, cell, self.device)
        if cell.stem not in self.measured:
            self.measured.append(cell.stem)
        _write(self.study, self.cells, self.folder)
        return True


def _check(study: Study, cells: list[Cell]) -> None:
    """Refuse before any work what would fail in the middle: an absent file or variable, a shape that is none."""
    where = f"study {study.name}"
    for cell in cells:
        # What a teacher that is still to be trained allows, its own run will tell.
        recipe = fill_in(cell.recipe, where, {TEACHER: TEACHER} if cell.teacher else None)
        paths = [spec.source for spec in recipe.corpus] + recipe.evaluate.text
        named = (recipe.source, recipe.tokenizer.source, recipe.inherit.teacher)
        paths += [path for path in named if path is not None and path != TEACHER]
        for path in paths:
            if path.startswith(("hf:", "builtin:")) or set("*?[") & set(path):
                continue
            if not Path(path).expanduser().exists():
                raise ConfigError(f"{path} does not exist", where=f"{where}, {cell.arm}", mend="give a path that does")
        if cell.teacher is None:
            check_request(recipe)


def _found(cells: list[Cell], folder: Path) -> dict[tuple[str, int], dict[str, Any]]:
    found = ((cell, finished(folder, cell)) for cell in cells)
    return {(cell.arm, cell.seed): done for cell, done in found if done is not None}


def _failed(cells: list[Cell], folder: Path) -> dict[tuple[str, int], str]:
    reasons = ((cell, failure(folder, cell)) for cell in cells)
    return {(cell.arm, cell.seed): why for cell, why in reasons if why is not None}


def _write(study: Study, cells: list[Cell], folder: Path) -> dict[str, Any]:
    """Bring the results up to date; one process at a time, so that an older state never overwrites a newer."""
    with locked(folder / ".locks" / "results.lock", f"the results of {study.name}"):
        summary = summarise_study(study, cells, _found(cells, folder), _failed(cells, folder))
        write_results(study, summary, folder)
    return summary


def study_status(name: str | Path, *, results: Path | str = RESULTS) -> dict[str, Any]:
    """Cells done, running, out of date and left, and the hours left for one process (null until one is done)."""
    file = find_study(str(name), Path(results))
    study = read_study(file)
    cells, folder = cells_of(study, file.parent), Path(results) / study.name
    rows = [{"arm": cell.arm, "seed": cell.seed, "state": _state(study, folder, cell)} for cell in cells]
    found = _found(cells, folder)
    left = [cell for cell in cells if (cell.arm, cell.seed) not in found]
    hours = _hours(left, found)
    return {
        "study": study.name,
        "done": sum(complete(study, folder, cell) for cell in cells),
        "total": len(cells),
        "running": sum(row["state"] == "running" for row in rows),
        "hours_left": hours,
        "time_left": None if hours is None else duration(3600 * hours),
        "cells": rows,
    }


def _state(study: Study, folder: Path, cell: Cell) -> str:
    if complete(study, folder, cell):
        return "done"
    if (folder / ".locks").is_dir():
        with taken(folder, cell) as free:
            if not free:
                return "running"
    if finished(folder, cell):
        return "lacks its speed"
    if failure(folder, cell) is not None:
        return "would not train"
    return "out of date" if read_cell(folder, cell) is not None else "to do"


def _hours(left: list[Cell], found: dict[tuple[str, int], dict[str, Any]]) -> float | None:
    """From measured costs: the mean of the arm's own cells, else of all."""
    spent: dict[str, list[float]] = {}
    for (arm, _), cell in found.items():
        spent.setdefault(arm, []).append(max(cell["cost"]["seconds"], cell["cost"]["wall_seconds"]))
    if not left:
        return 0.0
    if not spent:
        return None
    every = [seconds for own in spent.values() for seconds in own]
    total = sum(_mean(spent.get(cell.arm, every)) for cell in left)
    return round(total / 3600, 5)


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)


def show_study(name: str | Path, *, results: Path | str = RESULTS) -> dict[str, Any]:
    """What a study says so far: its summary, the table as Markdown (`table`) and the verdicts as sentences."""
    file = find_study(str(name), Path(results))
    study = read_study(file)
    cells, folder = cells_of(study, file.parent), Path(results) / study.name
    summary = summarise_study(study, cells, _found(cells, folder), _failed(cells, folder))
    verdicts = [line.replace("**", "") for line in verdict_lines(summary)]
    return {**summary, "table": table(summary), "verdicts": verdicts, "folder": str(folder.absolute())}

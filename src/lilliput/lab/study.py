"""Studies: list, run, status, show. Each function returns plain values, ready for `--json`.

Processes and machines that share a results folder share the work: each takes the next free cell by its lock,
none is run twice, and a killed process loses at most what its running cell had not saved.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lilliput.errors import ConfigError, TrainingError
from lilliput.evaluate.statistics import t_quantile
from lilliput.lab.cells import complete, failure, finished, lacks, read_cell, taken
from lilliput.lab.grid import TEACHER, Cell, cells_of, fill_in
from lilliput.lab.session import Limits, Session, Told, bring_up_to_date, failed_cells, found_cells
from lilliput.lab.spec import Study, find_study, read_study, studies_shipped
from lilliput.lab.summary import summarise_study
from lilliput.lab.tables import table, task_tables
from lilliput.lab.write import verdict_lines
from lilliput.progress import duration, warn
from lilliput.settle import check_request
from lilliput.store import Store, write_atomic
from lilliput.train import parallel

RESULTS = Path("results")


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
    tasks: bool = True,
    speeds: bool = True,
    device: str = "auto",
    folder: Path | None = None,
    told: Told | None = None,
) -> dict[str, Any]:
    """Measure the cells that are not finished, then write table, picture and README.

    max_cells: measure at most so many now. hours: begin no cell after so long. tasks, speeds: False leaves the tasks or
    the speeds that the study asks for to a later call (speeds: when nothing else runs on the machine). folder: where
    the results go, by default `results/NAME`. told: called with each cell that this call has trained, and what came of
    it. Returns the summary of `show_study` with `measured`, the cells that this call measured. Raises UserError before
    any work where the study cannot run, and TrainingError at the end if cells would not train.
    """
    t_quantile(0.975, 1)  # the verdicts need SciPy: say so before hours of work, not after
    refuse_torchrun()
    file = find_study(str(name), Path(results))
    study = read_study(file)
    cells = cells_of(study, file.parent)
    _check(study, cells)
    folder = folder or Path(results) / study.name
    limits = Limits(max_cells, hours, tasks, speeds)
    session = Session(study, cells, folder, store or Store(), device, limits, told)
    if file.resolve() != (folder / "study.yaml").resolve():
        write_atomic(folder / "study.yaml", file.read_text(encoding="utf-8"))
    session.run()
    summary = bring_up_to_date(study, cells, folder)
    if session.failed:
        raise TrainingError(
            f"{len(session.failed)} cells would not train: {'; '.join(session.failed)}",
            where=f"study {study.name}",
            mend="change the arm, or run again to try once more",
        )
    return {**summary, "measured": session.measured}


def refuse_torchrun() -> None:
    """Raise ConfigError where `torchrun` started this process: each would take another cell and wait for the rest."""
    if parallel.asked() > 1:
        mend = "start it without torchrun, as often as you like: processes that share the folder share the work"
        raise ConfigError("a cell of a study is trained by one process", where="torchrun", mend=mend)


def _check(study: Study, cells: list[Cell]) -> None:
    """Refuse before any work what would fail in the middle: an absent file or variable, a shape that is none."""
    from lilliput.encoding import EncoderRun

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
            (EncoderRun.check if recipe.objective == "masked" else check_request)(recipe)


def study_status(name: str | Path, *, results: Path | str = RESULTS) -> dict[str, Any]:
    """Cells done, running, out of date and left, and the hours left for one process (null until one is done)."""
    file = find_study(str(name), Path(results))
    study = read_study(file)
    cells, folder = cells_of(study, file.parent), Path(results) / study.name
    rows = [{"arm": cell.arm, "seed": cell.seed, "state": _state(study, folder, cell)} for cell in cells]
    found = found_cells(cells, folder)
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
    if (found := finished(folder, cell)) is not None:
        return f"lacks {', '.join(lacks(study, found))}"
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
    """What a study says so far: its summary, its tables as Markdown (`table`, and `task_tables`, empty where there is
    no task) and the verdicts as sentences."""
    file = find_study(str(name), Path(results))
    study = read_study(file)
    cells, folder = cells_of(study, file.parent), Path(results) / study.name
    summary = summarise_study(study, cells, found_cells(cells, folder), failed_cells(cells, folder))
    verdicts = [line.replace("**", "") for line in verdict_lines(summary)]
    tables = {"table": table(summary), "task_tables": task_tables(summary["tasks"], summary["baseline"])}
    return {**summary, **tables, "verdicts": verdicts, "folder": str(folder.absolute())}

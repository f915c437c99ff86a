"""`lilliput study list / run / status / show / compare`: many runs, compared."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from lilliput.cli import options
from lilliput.cli.outcome import Answer

Name = Annotated[
    str, typer.Argument(metavar="NAME|FILE", help="A study that ships, or a YAML file.", show_default=False)
]
Results = Annotated[Path, typer.Option(help="The folder that holds the results of studies.")]
_HERE = Path("results")


def study_list(results: Results = _HERE, as_json: options.Json = False, quiet: options.Quiet = False) -> Answer:
    """The studies that ship and those begun here, and how far each is."""
    options.be_quiet(quiet)
    from lilliput.lab.study import list_studies

    rows = list_studies(results)
    width = max((len(row["name"]) for row in rows), default=0)
    lines = [f"{row['name']:<{width}}  {row['done']:>3} of {row['total']:<3} cells  {row['question']}" for row in rows]
    return Answer({"studies": rows}, "\n".join(lines) or "no studies")


def study_run(
    name: Name,
    results: Results = _HERE,
    max_cells: Annotated[int | None, typer.Option(help="Do at most so many cells now.", min=1)] = None,
    hours: Annotated[float | None, typer.Option(help="Begin no cell after so many hours.", min=0.0)] = None,
    tasks: Annotated[
        bool, typer.Option("--tasks/--no-tasks", help="Measure its tasks too, or leave them to a later call.")
    ] = True,
    speeds: Annotated[
        bool, typer.Option("--speeds/--no-speeds", help="Time the shapes too, or leave that to a later call.")
    ] = True,
    device: options.Device = "auto",
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> Answer:
    """Do the cells (arm × seed) that are missing; then table, picture and verdict.

    Processes and machines that share the results folder share the work. The same command goes on.
    """
    options.be_quiet(quiet)
    from lilliput.lab.study import run_study, show_study

    data = run_study(
        name, results=results, max_cells=max_cells, hours=hours, tasks=tasks, speeds=speeds, device=device
    )
    shown = show_study(name, results=results)
    return Answer({**data, "folder": shown["folder"]}, _report(shown))


def study_status(
    name: Name, results: Results = _HERE, as_json: options.Json = False, quiet: options.Quiet = False
) -> Answer:
    """Cells done and left, and about how many hours those take."""
    options.be_quiet(quiet)
    from lilliput.lab.study import study_status as status

    data = status(name, results=results)
    left = data["total"] - data["done"]
    if not left:
        time_left = "all is done"
    elif data["time_left"] is None:
        time_left = "how long they take is known once one is done"
    else:
        time_left = f"about {data['time_left']} for one process"
    lines = [f"{data['done']} of {data['total']} cells done, {data['running']} running, {left} left: {time_left}"]
    lines += [f"  {row['arm']}, seed {row['seed']}: {row['state']}" for row in data["cells"]]
    return Answer(data, "\n".join(lines))


def study_show(
    name: Name, results: Results = _HERE, as_json: options.Json = False, quiet: options.Quiet = False
) -> Answer:
    """The table and the verdict of what is done so far."""
    options.be_quiet(quiet)
    from lilliput.lab.study import show_study

    data = show_study(name, results=results)
    return Answer(data, _report(data))


def study_compare(
    runs: Annotated[
        list[Path],
        typer.Argument(metavar="RUN", help="Run folders, their models, or files of cells.", show_default=False),
    ],
    task: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="Ask the models a task too; may be repeated.")
    ] = None,
    data: Annotated[
        Path | None, typer.Option(metavar="DIR", help="The folder that holds the tasks' rows.", show_default=False)
    ] = None,
    device: options.Device = "auto",
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> Answer:
    """Compare finished runs on the text and the tasks that all were measured on: better, worse, no difference shown.

    The first is what the others are held against. Runs that differ in their seed alone are one arm.
    """
    options.be_quiet(quiet)
    from lilliput.lab.compare_runs import compare_runs, in_words

    found = compare_runs(runs, tasks=task or [], data=data, device=device)
    return Answer(found, in_words(found))


def _report(data: dict[str, Any]) -> str:
    verdicts = "".join(f"\n{line}" for line in data["verdicts"])
    tasks = f"\n{data['task_tables']}\n" if data["task_tables"] else ""
    return f"{data['question']}\n\n{data['table']}{tasks}{verdicts}\n\nresults: {data['folder']}"

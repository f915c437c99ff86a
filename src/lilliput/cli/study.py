"""`lilliput study list / run / show / status`: many runs, compared."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lilliput.cli import options
from lilliput.cli.outcome import Answer

Name = Annotated[str, typer.Argument(help="A study that ships, or a YAML file.", metavar="NAME|FILE")]
Results = Annotated[Path, typer.Option(help="The folder that holds every study's results.")]


def study_list(
    results: Results = Path("results"), as_json: options.Json = False, quiet: options.Quiet = False
) -> Answer:
    """The studies that ship, and how far each is."""
    options.be_quiet(quiet)
    raise NotImplementedError


def study_run(
    name: Name,
    results: Results = Path("results"),
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> Answer:
    """Run the cells (arm × seed) that are not done yet, then write the table, the picture and the verdict."""
    options.be_quiet(quiet)
    raise NotImplementedError


def study_show(
    name: Name,
    results: Results = Path("results"),
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> Answer:
    """The table and the verdict of what is done."""
    options.be_quiet(quiet)
    raise NotImplementedError


def study_status(
    name: Name,
    results: Results = Path("results"),
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> Answer:
    """Cells done and left, and about how many hours those take."""
    options.be_quiet(quiet)
    raise NotImplementedError

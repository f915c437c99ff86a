"""Options that the verbs share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout, all else on stderr.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Show no progress, only warnings and the result.")]
Model = Annotated[Path, typer.Argument(help="A model directory, or a run's folder.", show_default=False)]
Temperature = Annotated[float, typer.Option(help="0 is greedy; higher is more varied.", min=0.0, max=100.0)]
TopP = Annotated[float | None, typer.Option(help="Keep the likeliest tokens up to this share.", min=0.0, max=1.0)]
TopK = Annotated[int | None, typer.Option(help="Keep the K likeliest tokens.", min=1)]
Seed = Annotated[int, typer.Option(help="The same seed gives the same text.", min=0)]
MaxNew = Annotated[int, typer.Option(help="Tokens to write at most.", min=1, max=1_000_000)]
Stop = Annotated[list[str] | None, typer.Option(help="End before this text; may be repeated.", show_default=False)]
Device = Annotated[str, typer.Option(help="`auto`, `cpu` or `cuda`.")]


def model_folder(path: Path) -> Path:
    """The model directory that a person means: `path`, or the one inside if `path` is a run's folder."""
    path = path.expanduser()
    inside = path / "model"
    return inside if not (path / "config.json").exists() and (inside / "config.json").exists() else path


def be_quiet(quiet: bool) -> None:
    """Silence progress where asked."""
    from lilliput import progress

    progress.configure(quiet=quiet)

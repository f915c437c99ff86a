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
Exit = Annotated[
    float | None,
    typer.Option("--exit", metavar="P", help="Leave after the first layer that is so sure: 0.9.", show_default=False),
]
ExitLayers = Annotated[
    str | None, typer.Option(metavar="L,L", help="Layers after which to leave; none: each.", show_default=False)
]
Speculate = Annotated[
    str | None,
    typer.Option(metavar="LAYER,LENGTH", help="Let the first layers draft, greedily: 2,4.", show_default=False),
]
TokenizerSource = Annotated[
    Path,
    typer.Argument(
        metavar="SOURCE",
        help="A tokenizer.json, SentencePiece .model, tiktoken file or vocab.txt; a folder that holds one; a model.",
        show_default=False,
    ),
]
Pattern = Annotated[
    str | None, typer.Option(help="tiktoken files: the pattern that cuts text into words.", show_default=False)
]
Special = Annotated[
    list[str] | None,
    typer.Option(metavar="NAME", help="tiktoken files: a special token; may be repeated.", show_default=False),
]
Width = Annotated[int | None, typer.Option(help="Hidden size of the model it is for.", min=1, show_default=False)]
BodySize = Annotated[
    str | None,
    typer.Option("--body", metavar="P", help="That model's other parameters, such as 1M.", show_default=False),
]
Untied = Annotated[bool, typer.Option("--untied", help="Embedding and head of that model are two tables.")]
Device = Annotated[str, typer.Option(help="`auto`, `cpu` or `cuda`.")]


def model_folder(path: Path) -> Path:
    """The model directory that a person means: `path`, or the one inside if `path` is a run's folder."""
    path = path.expanduser()
    inside = path / "model"
    return inside if not (path / "config.json").exists() and (inside / "config.json").exists() else path


def body_of(width: int | None, body: str | None, untied: bool, where: str) -> tuple[int, int] | None:
    """(parameters that each piece takes, all other parameters) of the model described; None if none is.

    Raises ConfigError for half a description.
    """
    from lilliput.errors import ConfigError
    from lilliput.recipe import parse_size

    if (width is None) != (body is None):
        raise ConfigError("a body takes both its width and its parameters", where=where, mend="--width 256 --body 1M")
    if width is None:
        return None
    size = parse_size(body)
    if not isinstance(size, int) or size < 1:
        raise ConfigError(f"no size: {body!r}", where="--body", mend="a number of parameters such as 800k or 1M")
    return width * (2 if untied else 1), size


def be_quiet(quiet: bool) -> None:
    """Silence progress where asked."""
    from lilliput import progress

    progress.configure(quiet=quiet)

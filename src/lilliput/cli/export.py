"""`lilliput export`: a model in another format, checked against the one it came from."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lilliput.cli import options
from lilliput.cli.outcome import Answer

_FORMATS = ("onnx",)


def export(
    model: Annotated[
        Path, typer.Argument(metavar="MODEL", help="A model directory or a run's folder.", show_default=False)
    ],
    to: Annotated[str, typer.Option(help="The format: onnx, for encoders, classifiers and committees.")] = "onnx",
    out: Annotated[
        Path | None, typer.Option(help="The folder; by default one in the model's.", show_default=False)
    ] = None,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> Answer:
    """Write a model in another format, its outputs checked against PyTorch's."""
    options.be_quiet(quiet)
    from lilliput.errors import ConfigError

    if to not in _FORMATS:
        raise ConfigError(f"no format called {to!r}", where="--to", mend=f"one of {', '.join(_FORMATS)}")
    from lilliput.export.onnx import export_onnx

    source = options.model_folder(model)
    done = export_onnx(source, (out or source / to).expanduser())
    lines = [
        f"written   {done['file']}, {done['bytes']:,} bytes",
        f"checked   outputs within {done['parity']['largest_difference']:.1e} of PyTorch's",
    ]
    return Answer(done, "\n".join(lines))

"""`lilliput evaluate`: how well a model predicts given text."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from lilliput.cli import options
from lilliput.cli.outcome import Answer


def evaluate(
    model: options.Model,
    more: Annotated[list[str] | None, typer.Argument(metavar="FILE…", help="Further files of text.")] = None,
    text: Annotated[
        list[str] | None, typer.Option(metavar="FILE", help="Text, JSONL or Parquet; may be repeated.")
    ] = None,
    field: Annotated[str, typer.Option(help="The JSONL or Parquet field that holds the text.")] = "text",
    device: options.Device = "auto",
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> Answer:
    """Measure bits per byte on files of text, with a 95 % interval over documents."""
    options.be_quiet(quiet)
    from lilliput.errors import UserError

    sources = [*(text or []), *(more or [])]
    if not sources:
        raise UserError("nothing to evaluate on", where="lilliput evaluate", mend="name a file: --text FILE")
    from lilliput.corpus.report import ReadReport
    from lilliput.corpus.sources import read_source
    from lilliput.device import pick_device
    from lilliput.evaluate.bits import bits_per_byte
    from lilliput.export.hf import load_model_dir
    from lilliput.recipe import SourceSpec

    path, place = options.model_folder(model), pick_device(device)
    decoder, tokenizer = load_model_dir(path, place)
    report = ReadReport()
    documents = (
        document
        for source in sources
        for document in read_source(SourceSpec(source=source, field=field), report, whole=True)
    )
    bits = bits_per_byte(decoder, tokenizer, documents, device=place)
    report.warn()
    score = bits.to_dict()
    data = {
        "model": str(path.absolute()),
        "bits_per_byte": {name: score.pop(name) for name in ("value", "low", "high")},
        "tasks": {},
        **score,
        "text": [_named(source) for source in sources],
    }
    return Answer(data, _lines(data))


def _named(source: str) -> str:
    """A file or folder by its absolute path; a pattern, `hf:` or `builtin:` source as given."""
    path = Path(source).expanduser()
    return str(path.absolute()) if path.exists() else source


def _lines(data: dict[str, Any]) -> str:
    bits = data["bits_per_byte"]
    if bits["low"] is None:
        interval = "no interval: it takes two documents or more"
    else:
        interval = f"95 % interval {bits['low']:.4f} to {bits['high']:.4f}"
    return (
        f"bits per byte  {bits['value']:.4f}  ({interval})\n"
        f"measured on    {data['documents']:,} documents, {data['bytes']:,} bytes"
    )

"""The `--corpus` option of the tokenizer verbs: `[LABEL=]SOURCE`, as often as there are sources."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from lilliput.recipe import SourceSpec

Corpus = Annotated[
    list[str] | None,
    typer.Option(
        metavar="[LABEL=]SOURCE",
        help="Text to count on: a file, glob, folder, hf:NAME or builtin:python; may be repeated. LABEL names its "
        "language in tables; without it the script tells.",
        show_default=False,
    ),
]
FieldName = Annotated[str, typer.Option("--field", help="The JSONL or Parquet field that holds the text.")]
# A label is one word of any script, with nothing in it that makes a path or a pattern.
_LABELLED = re.compile(r"([^\s=/\\.:~*?\[\]]+)=(.+)", re.DOTALL)


def parse_corpora(values: list[str] | None, field: str) -> tuple[list[SourceSpec], list[str | None]]:
    """(the sources, the label of each or None). `WORD=SOURCE` is a label only where no file has the whole name.

    Raises UserError where none is given.
    """
    from lilliput.errors import UserError
    from lilliput.recipe import SourceSpec

    if not values:
        raise UserError("no corpus is named", where="--corpus", mend="name text: --corpus FILE")
    specs: list[SourceSpec] = []
    labels: list[str | None] = []
    for value in values:
        found = _LABELLED.fullmatch(value)
        if found is None or Path(value).expanduser().exists():
            label, source = None, value
        else:
            label, source = found.groups()
        specs.append(SourceSpec(source=source, field=field))
        labels.append(label)
    return specs, labels

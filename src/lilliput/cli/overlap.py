"""`lilliput overlap`: how much of a task's vocabulary a body of text covers."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lilliput.cli import classify as options_of
from lilliput.cli import options
from lilliput.cli.outcome import Answer


def overlap(
    corpus: Annotated[
        list[str], typer.Argument(metavar="SOURCE…", help="Text as in a recipe's corpus.", show_default=False)
    ],
    data: options_of.Data = None,
    train: options_of.Train = None,
    text_field: options_of.TextField = None,
    label_field: options_of.LabelField = None,
    tokenizer: Annotated[
        Path | None, typer.Option(help="Count its pieces; by default lower-cased words.", show_default=False)
    ] = None,
    parts: Annotated[
        int | None, typer.Option(help="Also write so many subsets, from little overlap to much.", min=2, max=100)
    ] = None,
    size: Annotated[
        str | None, typer.Option(help="Text of each subset, such as 2MB; as much as can be if not given.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="The folder of the subsets.", show_default=False)] = None,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> Answer:
    """Measure the overlap of text with a task's training rows, of types and weighted by how often the task uses them.

    With --parts, write subsets of equal size at the quantiles of overlap: each a corpus for `lilliput make`.
    """
    options.be_quiet(quiet)
    from lilliput.corpus.overlap import overlap as measure
    from lilliput.corpus.overlap import subsets, task_counts, words
    from lilliput.corpus.report import ReadReport
    from lilliput.corpus.sources import read_source
    from lilliput.errors import ConfigError
    from lilliput.recipe import SourceSpec
    from lilliput.sizes import parse_bytes
    from lilliput.tokenizer.load import Tokenizer

    if (parts is None) != (out is None):
        raise ConfigError("subsets need both a number and a folder", where="--parts", mend="--parts 4 --out DIR")
    wanted = None if size is None else parse_bytes(size)
    if wanted is not None and (not isinstance(wanted, int) or wanted < 1 or parts is None):
        raise ConfigError(f"no size of a subset: {size!r}", where="--size", mend="--parts 4 --size 2MB --out DIR")
    rows = options_of.read_training(data, train, options_of.fields_of(text_field, label_field))
    types = Tokenizer.load(tokenizer.expanduser()).encode if tokenizer else words
    task = task_counts(rows.texts, types)
    specs = [SourceSpec(source=source) for source in corpus]
    report = ReadReport()
    whole = measure((text for spec in specs for text in read_source(spec, report)), task, types)
    report.warn()
    answer = {"task_types": len(task), **whole.to_dict(), "parts": []}
    lines = [
        f"overlap of types  {whole.types:.2%} of {len(task):,}",
        f"weighted          {whole.weighted:.2%}",
        f"measured on       {whole.documents:,} documents, {whole.bytes:,} bytes",
    ]
    if parts is not None and out is not None:
        from lilliput.report.text import aligned

        found = subsets(specs, task, out.expanduser(), parts, wanted, types)
        answer["parts"] = found
        table = [["subset", "types", "weighted", "documents", "bytes"]]
        for one in found:
            figures = (f"{one['types']:.2%}", f"{one['weighted']:.2%}", f"{one['documents']:,}", f"{one['bytes']:,}")
            table.append([Path(one["file"]).name, *figures])
        lines += ["", *aligned(table)]
    return Answer(answer, "\n".join(lines))

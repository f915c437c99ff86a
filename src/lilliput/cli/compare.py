"""`lilliput tokenizer compare`: tokenizers side by side on the same text."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lilliput.cli import options
from lilliput.cli.corpora import Corpus, FieldName, parse_corpora
from lilliput.cli.outcome import Answer

if TYPE_CHECKING:
    from lilliput.tokenizer.source import Source

_WHERE = "lilliput tokenizer compare"


def tokenizer_compare(
    tokenizers: Annotated[
        list[str],
        typer.Argument(metavar="TOKENIZER…", help="Files, folders or model directories.", show_default=False),
    ],
    corpus: Corpus = None,
    field: FieldName = "text",
    width: Annotated[
        int | None, typer.Option(help="Hidden size of the model they would serve.", min=1, show_default=False)
    ] = None,
    body: Annotated[
        str | None,
        typer.Option(metavar="P", help="Its other parameters, such as 1M: without embedding and head."),
    ] = None,
    untied: Annotated[bool, typer.Option("--untied", help="Embedding and head are two tables.")] = False,
    pattern: Annotated[
        str | None, typer.Option(help="The pattern that cuts text into words, for tiktoken files.", show_default=False)
    ] = None,
    special: Annotated[
        list[str] | None, typer.Option(help="A special token of tiktoken files; may be repeated.", show_default=False)
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Write compare.json and compare.html into this folder.", show_default=False)
    ] = None,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> Answer:
    """Compare tokenizers: bytes per token, coverage, Rényi efficiency, characters spelled in bytes; by language."""
    options.be_quiet(quiet)
    specs, labels = parse_corpora(corpus, field)
    parameters = _body(width, body)
    from lilliput.tokenizer.compare import compare

    sources = _sources([options.model_folder(Path(named)) for named in tokenizers], pattern, special or [])
    shares = [_share(source, width, parameters, tied=not untied) for source in sources]
    data = compare(sources, specs, labels, shares=shares)
    for row in data["tokenizers"]:
        row["where"] = str(Path(row["where"]).expanduser().absolute())
    data["report"] = _write(data, out) if out else None
    return Answer(data, _text(data))


def _sources(named: list[Path], pattern: str | None, special: list[str]) -> list[Source]:
    """The tokenizers named; --pattern and --special serve the tiktoken files among them, and one there must be."""
    from lilliput.errors import ConfigError
    from lilliput.tokenizer.formats import find_file, format_of, read_bytes
    from lilliput.tokenizer.source import read_source

    if pattern is None and not special:
        return [read_source(where) for where in named]
    files = [find_file(where) for where in named]
    bare = [format_of(read_bytes(file), str(file)) == "tiktoken" for file in files]
    if not any(bare):
        mend = "leave them out: they are for tiktoken files"
        raise ConfigError("no tokenizer named takes --pattern or --special", where=_WHERE, mend=mend)
    return [
        read_source(where, pattern=pattern, special=special) if lacks else read_source(where)
        for where, lacks in zip(named, bare, strict=True)
    ]


def _body(width: int | None, body: str | None) -> int | None:
    """The parameters of the body that was described; None if none was. Raises ConfigError for half a description."""
    from lilliput.errors import ConfigError
    from lilliput.recipe import parse_size

    if (width is None) != (body is None):
        raise ConfigError("a body takes both its width and its parameters", where=_WHERE, mend="--width 256 --body 1M")
    size = parse_size(body)
    if size is not None and (not isinstance(size, int) or size < 1):
        raise ConfigError(f"no size: {body!r}", where="--body", mend="a number of parameters such as 800k or 1M")
    return size


def _share(source: Source, width: int | None, body: int | None, *, tied: bool) -> dict[str, Any] | None:
    """Embedding and head in the body described, else in the tokenizer's own model if it lies in a model directory."""
    from lilliput.errors import ModelError
    from lilliput.plan.rules import share
    from lilliput.progress import warn

    rows = source.vocab_size
    config = Path(source.where).expanduser() / "config.json"
    if width is None or body is None:
        if not config.is_file():
            return None
        from lilliput.export.hf import read_config

        try:
            shape = read_config(config)
        except ModelError as error:
            warn(f"the share of embedding and head is left out: {error}")
            return None
        rows, width, tied = shape.vocab_size, shape.width, shape.tied
        body = shape.parameters() - rows * width * (1 if tied else 2)
    return {"value": share(rows, width * (1 if tied else 2), body), "width": width, "body": body, "tied": tied}


def _write(data: dict[str, Any], out: Path) -> str:
    """Write the data and the page; returns the page's path."""
    from lilliput.report.tokenizer_page import compare_page
    from lilliput.store import write_atomic, write_json

    out = out.expanduser().absolute()
    out.mkdir(parents=True, exist_ok=True)
    write_json(out / "compare.json", data)
    write_atomic(out / "compare.html", compare_page(data))
    return str(out / "compare.html")


def _text(data: dict[str, Any]) -> str:
    """One table for all text and, where there are several, one for each language."""
    from lilliput.report.tokenizer_page import comparison

    rows = data["tokenizers"]
    languages = sorted({name for row in rows for name in row["languages"]})
    titles = [("all text", None), *((name, name) for name in languages if len(languages) > 1)]
    tables = []
    for title, language in titles:
        head, lines = comparison(rows, language)
        tables.append([[title, *head[1:]], *lines])
    parts = _aligned(tables)
    if data["report"]:
        parts.append(f"report  {data['report']}")
    return "\n\n".join(parts)


def _aligned(tables: list[list[list[str]]]) -> list[str]:
    """The tables as text: names to the left, figures to the right, columns alike in all of them."""
    lines = [line for table in tables for line in table]
    widths = [max(len(line[at]) for line in lines if at < len(line)) for at in range(max(map(len, lines)))]
    return [
        "\n".join("  ".join([line[0].ljust(widths[0]), *map(str.rjust, line[1:], widths[1:])]) for line in table)
        for table in tables
    ]

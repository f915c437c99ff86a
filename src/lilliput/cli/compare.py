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
        typer.Argument(metavar="TOKENIZER", help="Files, folders or model directories.", show_default=False),
    ],
    corpus: Corpus = None,
    field: FieldName = "text",
    width: options.Width = None,
    body: options.BodySize = None,
    untied: options.Untied = False,
    pattern: options.Pattern = None,
    special: options.Special = None,
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Write compare.json and compare.html there.", show_default=False)
    ] = None,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> Answer:
    """Compare tokenizers: bytes per token, coverage, Rényi efficiency, characters spelled in bytes; by language."""
    options.be_quiet(quiet)
    specs, labels = parse_corpora(corpus, field)
    described = options.body_of(width, body, untied, _WHERE)
    from lilliput.tokenizer.compare import compare

    sources = _sources([options.model_folder(Path(named)) for named in tokenizers], pattern, special or [])
    shares = [_share(source, described) for source in sources]
    data = compare(sources, specs, labels, shares=shares)
    data["corpus"] = [_absolute(name) for name in data["corpus"]]
    for row in data["tokenizers"]:
        row["where"] = _absolute(row["where"])
    data["report"] = _write(data, out) if out else None
    return Answer(data, _text(data))


def _absolute(name: str) -> str:
    """A file or folder by its absolute path; a pattern, `hf:` or `builtin:` source as given."""
    path = Path(name).expanduser()
    return str(path.absolute()) if path.exists() else name


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


def _share(source: Source, described: tuple[int, int] | None) -> dict[str, Any] | None:
    """Embedding and head in the body described, else in the tokenizer's own model if it lies in a model directory."""
    rows, folder = source.vocab_size, Path(source.where)
    if described is not None:
        row, body = described
    elif (folder / "config.json").is_file():
        from lilliput.errors import ModelError
        from lilliput.export.compacted import measure_tables
        from lilliput.progress import warn

        try:
            tables = measure_tables(folder)
        except ModelError as error:
            warn(f"the share of embedding and head is left out: {error}")
            return None
        rows, row, body = tables.rows, tables.row, tables.body
    else:
        return None
    from lilliput.plan.rules import share

    return {"value": share(rows, row, body), "rows": rows, "row": row, "body": body}


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
    from lilliput.report.text import aligned
    from lilliput.report.tokenizer_page import comparison

    rows = data["tokenizers"]
    languages = sorted({name for row in rows for name in row["languages"]})
    titles = [("all text", None), *((name, name) for name in languages if len(languages) > 1)]
    tables = []
    for title, language in titles:
        head, lines = comparison(rows, language)
        tables.append([[title, *head[1:]], *lines])
    parts = aligned(*tables)
    if notes := [f"{row['name']}: {note}" for row in rows for note in row["notes"]]:
        parts.append("\n".join(notes))
    if data["report"]:
        parts.append(f"report  {data['report']}")
    return "\n\n".join(parts)

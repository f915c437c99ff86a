"""`lilliput tokenizer compact`: a tokenizer cut down to what a corpus uses, and its model with it."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated, Any

import typer

from lilliput.cli import options
from lilliput.cli.corpora import Corpus, FieldName, parse_corpora
from lilliput.cli.outcome import Answer

_WHERE = "lilliput tokenizer compact"


def tokenizer_compact(
    source: options.TokenizerSource,
    corpus: Corpus = None,
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Where the new tokenizer goes.", show_default=False)
    ] = None,
    vocab_size: Annotated[
        str | None, typer.Option(metavar="N", help="Exactly so many pieces, special ones included.", show_default=False)
    ] = None,
    coverage: Annotated[
        str | None,
        typer.Option(metavar="P", help="The fewest pieces that cover this share, 0.97 or 97%.", show_default=False),
    ] = None,
    rule: Annotated[
        bool, typer.Option("--rule", help="The most pieces, a multiple of 64, that take below 20 % of the model.")
    ] = False,
    width: options.Width = None,
    body: options.BodySize = None,
    untied: options.Untied = False,
    counts: Annotated[
        Path | None,
        typer.Option(help="Counts of this tokenizer, instead of counting --corpus again.", show_default=False),
    ] = None,
    field: FieldName = "text",
    pattern: options.Pattern = None,
    special: options.Special = None,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> Answer:
    """Cut a tokenizer down to the pieces a corpus uses; a model directory's embedding and head follow."""
    options.be_quiet(quiet)
    from lilliput.errors import ConfigError

    if out is None:
        raise ConfigError("where shall the new tokenizer go?", where=_WHERE, mend="name a folder: --out DIR")
    size = _size(vocab_size, coverage, rule)
    specs, labels = ([], []) if counts and not corpus else parse_corpora(corpus, field)
    described = options.body_of(width, body, untied, _WHERE)
    from lilliput.compaction import Body, compact_folder
    from lilliput.tokenizer.source import read_source

    place = options.model_folder(source)
    data = compact_folder(
        read_source(place, pattern=pattern, special=special or ()),
        place,
        out.expanduser().absolute(),
        size,
        specs=specs,
        labels=labels,
        counts=counts.expanduser() if counts else None,
        body=Body(*described) if described else None,
    )
    return Answer(data, _text(data))


def _size(vocab_size: str | None, coverage: str | None, rule: bool) -> int | float | str:
    """What the three options ask for. Raises ConfigError unless exactly one is given, and understood."""
    from lilliput.errors import ConfigError
    from lilliput.recipe import parse_compact

    given = [name for name, one in (("--vocab-size", vocab_size), ("--coverage", coverage), ("--rule", rule)) if one]
    if len(given) != 1:
        reason = f"{' and '.join(given)} exclude each other" if given else "how many pieces shall stay?"
        raise ConfigError(reason, where=_WHERE, mend="give one of --vocab-size N, --coverage P and --rule")
    if rule:
        return "rule"
    parsed = parse_compact(vocab_size or coverage)
    if vocab_size is not None:
        if isinstance(parsed, int) and parsed > 0:
            return parsed
        raise ConfigError(f"no size: {vocab_size!r}", where="--vocab-size", mend="a number such as 4096")
    if isinstance(parsed, int | float) and 0 < parsed <= 1:
        return float(parsed)
    raise ConfigError(f"no share: {coverage!r}", where="--coverage", mend="a share such as 0.97 or 97%")


def _text(data: dict[str, Any]) -> str:
    """What came of it, for people."""
    size, ratio, share = data["vocab_size_before"], data["bytes_per_token"], data["share"]
    kept = ", ".join(f"{number:,} {name}" for name, number in data["kept"].items() if number)
    rows = [
        ("tokenizer", data["out"]),
        ("pieces", f"{data['vocab_size']:,} of {size:,}: {kept}"),
        ("coverage", f"{data['coverage']:.2%} of the tokens counted keep their piece"),
    ]
    if ratio["after"] is not None:
        rows.append(("bytes per token", f"{ratio['before']:.3f} before, {ratio['after']:.3f} after"))
        for name, found in data["languages"].items() if len(data["languages"]) > 1 else ():
            before, after = (found["bytes"] / max(1, found["tokens"][when]) for when in ("before", "after"))
            rows.append((f"  {name}", f"{before:.3f} before, {after:.3f} after"))
    if share is not None:
        told = f"{share['before']:.1%} of the model before, {share['after']:.1%} after"
        rows.append(("embedding, head", told))
    if data["parameters"] is not None:
        rows.append(("parameters", f"{data['parameters']['before']:,} before, {data['parameters']['after']:,} after"))
    dropped, never = data["dropped"], data["unreachable"]
    rows.append(("dropped", f"{dropped['pieces']:,} pieces, {dropped['never_met']:,} of them never met"))
    if never["pieces"]:
        rows.append(("unreachable", f"{never['pieces']:,} pieces that no text gives; {never['kept']:,} stay"))
    rows.append(("proved", f"{data['proved']:,} kept pieces come out of the new tokenizer, each shown by a text"))
    rows.append(("report", data["report"]))
    lines = [f"{name:<16}{value}" for name, value in rows]
    role = "tokenizer.from" if data["parameters"] is None else "from"
    lines += ["", "Next:", f"  lilliput make {role}={shlex.quote(data['out'])} corpus=FILE"]
    return "\n".join(lines)

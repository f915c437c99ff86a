"""`lilliput tokenizer train / count / merge`: learn a tokenizer, and count how a corpus uses one."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lilliput.cli import options
from lilliput.cli.corpora import Corpus, FieldName, parse_corpora
from lilliput.cli.outcome import Answer

if TYPE_CHECKING:
    from lilliput.tokenizer.counts import Counts
    from lilliput.tokenizer.source import Source
    from lilliput.tokenizer.usage import Usage

_TRAIN, _COUNT, _MERGE = (f"lilliput tokenizer {verb}" for verb in ("train", "count", "merge"))
_SHARD = re.compile(r"\s*(\d+)\s*/\s*(\d+)\s*")
_SHOWN = 10


def tokenizer_train(
    corpus: Corpus = None,
    vocab_size: Annotated[
        str | None, typer.Option(metavar="N", help="Pieces, special ones included, e.g. 8k.", show_default=False)
    ] = None,
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Where the tokenizer goes.", show_default=False)
    ] = None,
    field: FieldName = "text",
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> Answer:
    """Learn a byte-level BPE from text: lossless, with GPT-2's pattern and one special token."""
    options.be_quiet(quiet)
    from lilliput.errors import ConfigError
    from lilliput.recipe import parse_size

    if out is None:
        raise ConfigError("where shall the tokenizer go?", where=_TRAIN, mend="name a folder: --out DIR")
    size = parse_size(vocab_size)
    if not isinstance(size, int):
        reason = f"no size: {vocab_size!r}" if vocab_size else "how many pieces shall it have?"
        raise ConfigError(reason, where=_TRAIN, mend="--vocab-size 8k")
    specs, _ = parse_corpora(corpus, field)
    out = out.expanduser().absolute()
    if out.is_dir() and any(out.iterdir()):
        raise ConfigError("the folder is not empty", where=str(out), mend="give another --out")
    _check_writable(out)
    from lilliput.corpus.report import ReadReport
    from lilliput.corpus.sources import read_source
    from lilliput.tokenizer.train import train_tokenizer

    report = ReadReport()
    found = train_tokenizer((text for spec in specs for text in read_source(spec, report)), size)
    report.warn()
    found.save(out)
    data = {"out": str(out), "vocab_size": found.vocab_size, "documents": report.documents, "bytes": report.bytes}
    lines = [
        f"tokenizer  {out}",
        f"pieces     {found.vocab_size:,}, learnt from {report.documents:,} documents",
        "",
        "Next:",
        f"  lilliput tokenizer count {out} --corpus FILE",
    ]
    return Answer(data, "\n".join(lines))


def tokenizer_count(
    source: options.TokenizerSource,
    corpus: Corpus = None,
    shard: Annotated[
        str | None,
        typer.Option(metavar="I/N", help="Count only every N-th document, from the I-th on.", show_default=False),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Keep the counts as JSON; a page is written beside.", show_default=False),
    ] = None,
    field: FieldName = "text",
    pattern: options.Pattern = None,
    special: options.Special = None,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> Answer:
    """Count how often a corpus uses each piece of a tokenizer: its coverage curve, and what it does not need."""
    options.be_quiet(quiet)
    part = _parse_shard(shard)
    specs, labels = parse_corpora(corpus, field)
    out = _out_file(out)
    from lilliput.tokenizer.count import count_corpus
    from lilliput.tokenizer.source import read_source
    from lilliput.tokenizer.usage import find_usage

    tokenizer = read_source(options.model_folder(source), pattern=pattern, special=special or ())
    counts = count_corpus(tokenizer, specs, labels, shard=part)
    # A search for texts is worth its time once all shards are together.
    usage = find_usage(tokenizer, counts, examine=part[1] == 1)
    return _answer(counts, usage, tokenizer, out, [spec.source for spec in specs])


def tokenizer_merge(
    files: Annotated[
        list[Path], typer.Argument(metavar="FILE…", help="Counts that `count --out` wrote.", show_default=False)
    ],
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Where the counts of all go.", show_default=False)
    ] = None,
    tokenizer: Annotated[
        Path | None,
        typer.Option(metavar="SOURCE", help="The tokenizer counted, to name its unused pieces.", show_default=False),
    ] = None,
    pattern: options.Pattern = None,
    special: options.Special = None,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> Answer:
    """Add up the counts of several shards or corpora."""
    options.be_quiet(quiet)
    from lilliput.errors import ConfigError
    from lilliput.progress import warn

    if out is None:
        raise ConfigError("where shall the counts go?", where=_MERGE, mend="name a file: --out FILE")
    target = _out_file(out)
    from lilliput.tokenizer.counts import Counts, merge, missing
    from lilliput.tokenizer.source import read_source
    from lilliput.tokenizer.usage import find_usage

    counts = merge([Counts.load(file.expanduser()) for file in files])
    source = read_source(options.model_folder(tokenizer), pattern=pattern, special=special or ()) if tokenizer else None
    usage = find_usage(source, counts) if source else None
    lacking = missing(counts)
    if lacking:
        names = ", ".join(f"{i}/{n}" for i, n in lacking[:_SHOWN]) + (", …" if len(lacking) > _SHOWN else "")
        warn(f"the corpus is not complete: missing {'shard' if len(lacking) == 1 else 'shards'} {names}")
    answer = _answer(counts, usage, source, target, counts.names)
    return Answer({**(answer.data or {}), "missing": lacking}, answer.text)


def _parse_shard(text: str | None) -> tuple[int, int]:
    """`2/3` → (2, 3); none is (1, 1). Raises ConfigError for what is no shard."""
    from lilliput.errors import ConfigError

    if text is None:
        return 1, 1
    found = _SHARD.fullmatch(text)
    i, n = (int(found[1]), int(found[2])) if found else (0, 0)
    if not 1 <= i <= n:
        mend = f"--shard 1/{n} to --shard {n}/{n}" if n else "--shard I/N, for example 1/8 to 8/8"
        raise ConfigError(f"no such shard: {text}", where="--shard", mend=mend)
    return i, n


def _out_file(out: Path | None) -> Path | None:
    """The file to write, absolute. Raises UserError at once if it cannot be written, not after the work."""
    from lilliput.errors import ConfigError

    if out is None:
        return None
    out = out.expanduser().absolute()
    if out.is_dir() or out.suffix == ".html":
        reason = "a folder, not a file" if out.is_dir() else "the page takes this name"
        raise ConfigError(f"the counts cannot go there: {reason}", where=str(out), mend="--out counts.json")
    _check_writable(out)
    return out


def _check_writable(path: Path) -> None:
    """Raise ConfigError unless `path` can be made or replaced."""
    from lilliput.errors import ConfigError

    nearest = next(folder for folder in path.parents if folder.exists())
    if not nearest.is_dir() or not os.access(nearest, os.W_OK) or (path.exists() and not os.access(path, os.W_OK)):
        raise ConfigError("nothing can be written there", where=str(path), mend="give another --out")


def _answer(
    counts: Counts, usage: Usage | None, source: Source | None, out: Path | None, corpus: list[str]
) -> Answer:
    """The answer of `count` and `merge`, and the files it tells of."""
    from lilliput.tokenizer.usage import describe

    data = {**describe(counts, usage, source), "corpus": corpus, "out": str(out) if out else None, "report": None}
    if data["source"]:
        data["source"] = str(Path(data["source"]).expanduser().absolute())
    if out:
        data["report"] = str(_save(counts, usage, data, out))
    return Answer(data, _text(data))


def _save(counts: Counts, usage: Usage | None, data: dict[str, Any], out: Path) -> Path:
    """Write the counts, with all unused pieces, and the page beside them; returns the page's path."""
    from lilliput.report.tokenizer_page import count_page
    from lilliput.store import write_atomic
    from lilliput.tokenizer.counts import curve

    unused = {"unused": usage.unused, "unreachable": usage.unreachable} if usage else {}
    counts.save(out, {"source": data["source"], "coverage": data["coverage"], **unused})
    sizes, shares = curve(counts.ids)
    page = out.with_suffix(".html")
    # Beyond the pieces that were met the curve is flat.
    met = max(1, data["met"])
    curve_data = {"sizes": sizes[:met].tolist(), "coverage": shares[:met].tolist()}
    write_atomic(page, count_page({**data, "curve": curve_data}))
    return page


def _text(data: dict[str, Any]) -> str:
    """Tables for people."""
    lines = [f"{'':14}{'documents':>12}{'bytes':>16}{'tokens':>15}{'bytes per token':>18}"]
    groups = data["languages"] if len(data["languages"]) > 1 else {}
    for name, row in {**groups, "all": data}.items():
        ratio = f"{row['bytes_per_token']:.3f}" if row["bytes_per_token"] else "–"
        lines.append(f"{name:14}{row['documents']:12,}{row['bytes']:16,}{row['tokens']:15,}{ratio:>18}")
    lines += ["", f"{'most frequent':>14}{'of all tokens':>16}"]
    lines += [f"{row['pieces']:14,}{row['coverage']:16.2%}" for row in data["coverage"]]
    lines.append("")
    examined = data["unreachable"] is not None
    rows = [("met", f"{data['met']:,} of {data['vocab_size']:,} pieces")]
    if data["unused"]:
        what = "pieces could be produced and never were" if examined else "pieces were never met"
        rows.append(("unused", _pieces(data["unused"], what, data["kind"])))
    if examined:
        what = "pieces that no text was found to give"
        rows.append(("unreachable", _pieces(data["unreachable"], what, data["kind"])))
    rows += [(name, data[key]) for name, key in (("counts", "out"), ("page", "report")) if data[key]]
    return "\n".join([*lines, *(f"{name:13}{value}" for name, value in rows)])


def _pieces(found: dict[str, Any], what: str, kind: str) -> str:
    """How many pieces, and some of them readably."""
    from lilliput.tokenizer.spelling import piece_text

    shown = [piece_text(piece, byte_level=kind == "byte-level BPE") for piece in found["examples"][:_SHOWN]]
    return f"{found['pieces']:,} {what}{': ' if shown else ''}{'  '.join(shown)}"

"""Compaction of a tokenizer, alone or with its model: which size, written where, and what came of it."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lilliput.corpus.documents import Documents
from lilliput.corpus.report import ReadReport
from lilliput.corpus.sources import read_source as read_text
from lilliput.errors import ConfigError, TokenizerError
from lilliput.export.compacted import has_model, measure_tables, write_compacted
from lilliput.export.hf import save_model_dir
from lilliput.lineage import child_vocabulary, teacher_of, teacher_place
from lilliput.plan.rules import MAX_SHARE, rule_size, share
from lilliput.plan.search import rule_vocabulary
from lilliput.progress import Progress, say, warn
from lilliput.recipe import Recipe, SourceSpec
from lilliput.report.tokenizer_page import compact_page
from lilliput.store import atomic_dir, check_replaceable, write_atomic, write_json
from lilliput.tokenizer.changes import LOOKED_AT, changes
from lilliput.tokenizer.compact import Compaction, Compactor, check_size
from lilliput.tokenizer.count import count_corpus, count_texts
from lilliput.tokenizer.counts import Counts, curve, missing
from lilliput.tokenizer.source import Source, read_once
from lilliput.tokenizer.witness import witnesses

# The rule's other half: the vocabulary should cover more than this share of the corpus (PanGu-π Pro §2.1).
MIN_COVERAGE = 0.90
_STEP = 64
_EXAMPLES = 50
_CHANGES = 20
# What a compaction writes.
_OURS = (
    "tokenizer.json", "tokenizer_config.json", "ids.json", "report.json", "report.html", "witnesses.json",
    "config.json", "generation_config.json", "*.safetensors", "*.safetensors.index.json", "LICENSE*", "*.py",
)  # fmt: skip
# Points of the coverage curve that are kept, evenly in the logarithm of the size.
_POINTS = 200


@dataclass(frozen=True)
class Body:
    """The model a tokenizer is for. row: parameters that each piece takes (d, untied 2·d). size: all others."""

    row: int
    size: int


def choose_size(compactor: Compactor, asked: int | float | str, rule: Callable[[], int]) -> tuple[int, list[str]]:
    """The size that `asked` means (a number of pieces, a coverage up to 1.0, or `rule`), and what to tell of it.

    rule: the largest size whose share stays below 20 %. Raises TokenizerError for a size that cannot be had.
    """
    if isinstance(asked, int):
        compactor.check(asked)
        return asked, []
    if isinstance(asked, float):
        return compactor.size_for(asked), []
    limit = rule()
    size = min(limit, compactor.most // _STEP * _STEP)
    compactor.check(size)
    covered = compactor.coverage(size)
    told = f"rule: {limit:,} pieces are the most, in steps of {_STEP}, whose share stays below {MAX_SHARE:.0%}"
    if size < limit:
        told += f"; the tokenizer has {compactor.full:,}, so {size:,} stay"
    told += f"; they cover {covered:.1%}"
    if covered > MIN_COVERAGE:
        return size, [told]
    wanted = compactor.size_for(MIN_COVERAGE)
    return size, [f"{told}; {MIN_COVERAGE:.0%} would take {wanted:,}, so both cannot hold: the share was kept"]


def compact_for_run(recipe: Recipe, documents: Documents, out: Path) -> dict[str, Any]:
    """The stage of `make`: cut the recipe's tokenizer, or its model with it, by the counts of the training text."""
    source = read_recipe_source(recipe)
    with Progress("counting tokens", documents.total_bytes, "B") as progress:
        counts = count_texts(source, _counted(documents, progress))
    asked = recipe.tokenizer.compact
    if asked is None:
        raise ConfigError("no size is asked for", where="tokenizer.compact", mend="for example tokenizer.compact=4096")
    compactor = Compactor(source, counts.ids)

    def rule() -> int:
        if recipe.inherit.teacher is not None:
            return child_vocabulary(recipe, teacher_of(recipe).config)
        return _rule_of(_body_of(Path(recipe.source).expanduser())) if recipe.source else rule_vocabulary(recipe)

    size, notes = choose_size(compactor, asked, rule)
    compaction = compactor.at(size)
    _normaliser(source, documents)
    with _model_of(recipe, out) as place:
        write_compacted(out, compaction, place)
    return {"vocab_size": size, "before": compactor.full, "coverage": compaction.coverage, "notes": notes}


@contextmanager
def _model_of(recipe: Recipe, out: Path) -> Iterator[Path]:
    """The folder of what goes along with the tokenizer: a checkpoint of llama2.c as a model directory, within `out`
    for as long as it is needed."""
    if recipe.inherit.teacher is None:
        yield tokenizer_place(recipe)
        return
    teacher = teacher_of(recipe)
    if teacher.kind != "llama2.c":
        yield teacher.place
        return
    folder = save_model_dir(out / "teacher", teacher.model(), teacher.tokenizer, {})
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


def tokenizer_place(recipe: Recipe) -> Path:
    """Where the tokenizer lies that a recipe names."""
    asked = recipe.inherit
    taught = None if asked.teacher is None else asked.tokenizer or str(teacher_place(asked.teacher))
    named = recipe.tokenizer.source or recipe.source or taught
    if named is None:
        mend = "name the tokenizer to cut down: tokenizer.from=FILE, or go on from a model: from=DIR"
        raise ConfigError("there is no tokenizer to cut down", where="tokenizer.compact", mend=mend)
    return Path(named).expanduser()


def read_recipe_source(recipe: Recipe) -> Source:
    """The tokenizer that a recipe names, as its file defines it; read once for all that ask before `forget`."""
    asked = recipe.tokenizer
    return read_once(tokenizer_place(recipe), pattern=asked.pattern, special=asked.special)


def _counted(documents: Documents, progress: Progress) -> Iterator[tuple[str, str]]:
    done = 0
    for raw in documents.iterate_raw():
        yield "", raw.decode()
        done += len(raw)
        progress.update(done)


def _body_of(folder: Path) -> Body | None:
    """The body of the model that lies in `folder`, if one does."""
    if not has_model(folder):
        return None
    tables = measure_tables(folder)
    return Body(tables.row, tables.body)


def _rule_of(body: Body | None) -> int:
    if body is None:
        mend = "give the body it is for: --width D --body P, or a model directory"
        raise ConfigError("the rule needs a model to be a share of", where="--rule", mend=mend)
    return rule_size(body.row, body.size)


def compact_folder(
    source: Source,
    place: Path,
    out: Path,
    asked: int | float | str,
    *,
    specs: Sequence[SourceSpec],
    labels: Sequence[str | None],
    counts: Path | None = None,
    body: Body | None = None,
) -> dict[str, Any]:
    """Cut `source`, which lies at `place`, down by a corpus and write the folder `out`: tokenizer, id map, report,
    and the model with them where `place` is a model directory.

    asked: see `choose_size`. counts: a file with counts of this tokenizer, in place of counting the corpus; with
    no corpus beside it, what only the corpus can tell stays open. body: the model it is for, if not the one there.
    Returns the report with the places of what was written. Raises UserError before anything is written.
    """
    check_replaceable(out, _OURS, {"ids.json", "report.json"}, never=(place, place.parent))
    if isinstance(asked, int):
        check_size(source, asked)
    own = _body_of(place)
    body = body or own
    counted = _counts(source, counts, specs, labels)
    compactor = Compactor(source, counted.ids)
    size, notes = choose_size(compactor, asked, lambda: _rule_of(body))
    for note in notes:
        say(note)
    compaction = compactor.at(size)
    # Of the very text that is measured after, which need not be the one counted.
    before = count_corpus(source, specs, labels) if counts and specs else counted
    after = count_corpus(compaction.source, specs, labels) if specs else None
    say("proving that every kept piece still comes out")
    proofs = witnesses(compaction.source, texts=_texts(specs))
    report = {
        "source": source.where,
        "kind": source.kind,
        "vocab_size": {"before": compactor.full, "after": size},
        "coverage": compaction.coverage,
        "curve": _curve(counted),
        **_lengths(before, after),
        "share": _share(body, own, place, compactor.full, len(compaction.ids)),
        "kept": compaction.kept,
        "dropped": _dropped(source, compaction, counted),
        "unreachable": _unreachable(source, compaction),
        "unproved": _unproved(compaction, proofs),
        "normaliser": _normaliser(source, _texts(specs)),
        "notes": [*source.notes, *notes],
    }
    with atomic_dir(out) as folder:
        write_compacted(folder, compaction, place)
        write_json(folder / "witnesses.json", {str(number): text for number, text in proofs.items()})
        write_json(folder / "report.json", report)
        write_atomic(folder / "report.html", compact_page(report))
    return _answer(report, out, body, len(proofs))


def _counts(
    source: Source, file: Path | None, specs: Sequence[SourceSpec], labels: Sequence[str | None]
) -> Counts:
    if file is None:
        return count_corpus(source, specs, labels)
    if not file.is_file():
        raise TokenizerError("there is no such file", where=str(file), mend="name what `tokenizer count --out` wrote")
    found = Counts.load(file)
    if found.tokenizer != source.hash:
        raise TokenizerError("these are counts of another tokenizer", where=str(file), mend="count with this one")
    if lacking := missing(found):
        warn(f"{file} counts only a part of its corpus: {len(lacking)} shards are missing")
    return found


def _texts(specs: Sequence[SourceSpec]) -> Iterator[str]:
    """The start of the corpus, spread over its sources."""
    for spec in specs:
        seen = 0
        for text in read_text(spec, ReadReport()):
            yield text
            seen += len(text)
            if seen * len(specs) >= LOOKED_AT:
                break


def _curve(counts: Counts) -> dict[str, list[float]]:
    sizes, shares = curve(counts.ids)
    places = np.unique(np.geomspace(1, len(sizes), _POINTS).astype(int)) - 1
    return {"sizes": sizes[places].tolist(), "coverage": [round(share, 6) for share in shares[places].tolist()]}


def _lengths(before: Counts, after: Counts | None) -> dict[str, Any]:
    """Bytes per token before and after, in all and by language."""

    def ratio(counts: Counts | None) -> float | None:
        return counts.bytes / counts.tokens if counts and counts.tokens else None

    languages = {
        name: {
            "documents": group.documents,
            "bytes": group.bytes,
            "tokens": {"before": group.tokens, "after": after.groups[name].tokens},
        }
        for name, group in before.groups.items()
        if after is not None and name in after.groups
    }
    return {"bytes_per_token": {"before": ratio(before), "after": ratio(after)}, "languages": languages}


def _share(body: Body | None, own: Body | None, place: Path, before: int, after: int) -> dict[str, Any] | None:
    """Embedding and head as a share of the model, by the rows it really has. own: the body of the model there."""
    if body is None:
        return None
    rows = measure_tables(place).rows if body == own else before
    return {
        "before": share(rows, body.row, body.size),
        "after": share(after, body.row, body.size),
        "row": body.row,
        "body": body.size,
        "rows": rows,
    }


def _dropped(source: Source, compaction: Compaction, counts: Counts) -> dict[str, Any]:
    names = {number: piece for piece, number in source.pieces.items()}
    met = counts.ids[compaction.dropped]
    order = np.lexsort((compaction.dropped, -met))[:_EXAMPLES]
    frequent = [(int(compaction.dropped[at]), int(met[at])) for at in order if met[at]]
    return {
        "pieces": len(compaction.dropped),
        "never_met": int((met == 0).sum()),
        "most_frequent": [[names[number], count] for number, count in frequent],
        "all": [names[int(number)] for number in compaction.dropped],
    }


def _unreachable(source: Source, compaction: Compaction) -> dict[str, Any]:
    names = {number: piece for piece, number in source.pieces.items()}
    kept = np.intersect1d(compaction.unreachable, compaction.ids)
    pieces = [names[int(number)] for number in compaction.unreachable]
    return {"pieces": len(pieces), "kept": len(kept), "examples": pieces[:_EXAMPLES], "all": pieces}


def _unproved(compaction: Compaction, proofs: dict[int, str]) -> list[str]:
    """Kept pieces that the source can produce and of which no text shows that the new tokenizer does."""
    names = {number: piece for piece, number in compaction.source.pieces.items()}
    never = set(compaction.unreachable.tolist())
    old = dict(enumerate(compaction.ids.tolist()))
    return [piece for at, piece in sorted(names.items()) if at not in proofs and old[at] not in never]


def _normaliser(source: Source, texts: Iterable[str]) -> dict[str, Any] | None:
    """What comes back from the tokenizer otherwise than it went in; a warning if the text holds such."""
    found = changes(source, texts)
    if not found:
        return None
    stage = source.definition.get("normalizer")
    if found[0].times:
        first = found[0]
        warn(
            f"{source.where} does not give back every text, and its compaction does the same: for example "
            f"{first.before!r} comes back as {first.after!r}, {first.times:,} times in the text looked at"
        )
    shown = [[change.before, change.after] for change in found[:_CHANGES]]
    return {"name": stage["type"] if stage else "none", "changes": shown, "different": len(found)}


def _answer(report: dict[str, Any], out: Path, body: Body | None, proved: int) -> dict[str, Any]:
    """What the command says: the report's figures, and where things lie."""
    size = report["vocab_size"]
    parameters = None
    if report["share"] is not None and body is not None:
        rows = {"before": report["share"]["rows"], "after": size["after"]}
        parameters = {when: number * body.row + body.size for when, number in rows.items()}
    short = {name: {k: v for k, v in report[name].items() if k != "all"} for name in ("dropped", "unreachable")}
    told = ("source", "kind", "coverage", "bytes_per_token", "languages", "share", "kept", "normaliser", "notes")
    return {
        "out": str(out),
        "vocab_size": size["after"],
        "vocab_size_before": size["before"],
        **{name: report[name] for name in told},
        **short,
        "parameters": parameters,
        "proved": proved,
        "unproved": report["unproved"],
        "report": str(out / "report.html"),
    }

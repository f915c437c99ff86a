"""Compaction of a tokenizer, alone or with its model: which size, written where, and what came of it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from lilliput.corpus.documents import Documents
from lilliput.errors import ConfigError
from lilliput.export.compacted import write_compacted
from lilliput.export.hf import read_config
from lilliput.plan.rules import MAX_SHARE, rule_size, rule_vocabulary
from lilliput.progress import Progress
from lilliput.recipe import Recipe
from lilliput.tokenizer.compact import Compactor
from lilliput.tokenizer.count import count_texts
from lilliput.tokenizer.source import Source, read_source

# The rule's other half: the vocabulary should cover more than this share of the corpus (PanGu-π Pro §2.1).
MIN_COVERAGE = 0.90


def choose_size(compactor: Compactor, asked: int | float | str, rule: Callable[[], int]) -> tuple[int, list[str]]:
    """The size that `asked` means (a number of pieces, a coverage below 1, or `rule`), and what to tell of it.

    rule: the largest size whose share stays below 20 %. Raises TokenizerError for a size that cannot be had.
    """
    if isinstance(asked, int):
        return asked, []
    if isinstance(asked, float):
        return compactor.size_for(asked), []
    size = min(rule(), compactor.full)
    if compactor.most < size < compactor.full:
        size = compactor.most
    compactor.check(size)
    covered = compactor.coverage(size)
    told = f"rule: {size:,} pieces are the most whose share stays below {MAX_SHARE:.0%}; they cover {covered:.1%}"
    if covered > MIN_COVERAGE:
        return size, [told]
    wanted = compactor.size_for(MIN_COVERAGE)
    return size, [f"{told}; {MIN_COVERAGE:.0%} would take {wanted:,}, so both cannot hold: the share was kept"]


def compact_for_run(recipe: Recipe, documents: Documents, out: Path) -> dict[str, Any]:
    """The stage of `make`: cut the recipe's tokenizer, or its model with it, by the counts of the training text."""
    place = tokenizer_place(recipe)
    source = read_recipe_source(recipe)
    with Progress("counting tokens", documents.total_bytes, "B") as progress:
        counts = count_texts(source, _counted(documents, progress))
    asked = recipe.tokenizer.compact
    if asked is None:
        raise ConfigError("no size is asked for", where="tokenizer.compact", mend="for example tokenizer.compact=4096")
    compactor = Compactor(source, counts.ids)
    size, notes = choose_size(compactor, asked, lambda: _rule(recipe, place))
    compaction = compactor.at(size)
    write_compacted(out, compaction, place)
    return {"vocab_size": size, "before": compactor.full, "coverage": compaction.coverage, "notes": notes}


def tokenizer_place(recipe: Recipe) -> Path:
    """Where the tokenizer lies that a recipe names."""
    named = recipe.tokenizer.source or recipe.source
    if named is None:
        mend = "name the tokenizer to cut down: tokenizer.from=FILE, or go on from a model: from=DIR"
        raise ConfigError("there is no tokenizer to cut down", where="tokenizer.compact", mend=mend)
    return Path(named).expanduser()


def read_recipe_source(recipe: Recipe) -> Source:
    """The tokenizer that a recipe names, as its file defines it."""
    asked = recipe.tokenizer
    return read_source(tokenizer_place(recipe), pattern=asked.pattern, special=asked.special)


def _rule(recipe: Recipe, place: Path) -> int:
    return rule_of_model(place) if recipe.source is not None else rule_vocabulary(recipe)


def rule_of_model(folder: Path) -> int:
    """The rule's size for the body of the model in `folder`."""
    shape = read_config(folder / "config.json")
    tables = shape.vocab_size * shape.width * (1 if shape.tied else 2)
    return rule_size(shape.width, shape.parameters() - tables, tied=shape.tied)


def _counted(documents: Documents, progress: Progress) -> Any:
    done = 0
    for raw in documents.iterate_raw():
        yield "", raw.decode()
        done += len(raw)
        progress.update(done)

"""From a study to its cells: each arm with each of its seeds, the whole recipe, and the hash that identifies it.

A study's paths may hold environment variables, which are filled in only when a cell runs, so that a cell's hash
is the same on every machine. `$TEACHER` is the model that the study's `teacher` settings describe: one more cell, run
before the first that names it.

Where cells end in a classification, an arm may also say `from=scratch` (shape and tokenizer, no pre-training) and
`members=5` (a committee: so many encoders, each with a pre-training and a fine-tuning of its own).
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lilliput.errors import ConfigError
from lilliput.lab.metrics import MASKED
from lilliput.lab.spec import Study, file_name, setting
from lilliput.recipe import Recipe, load_recipe, shipped
from lilliput.store import canonical_hash

# Raised when what a cell measures changes for the same settings.
CELL_FORMAT = 1
# Keys that change what is written and when, never what is measured.
_FREE = {"train": ("save_every", "eval_every", "tensorboard"), "evaluate": ("prompts", "during")}
TEACHER = "TEACHER"
# Seeds of a committee's members lie so far apart: the first member is the arm's single model with that seed.
_MEMBER_SEEDS = 1000
_VARIABLE = re.compile(r"\$(?:\{(\w+)\}|(\w+))")


@dataclass(frozen=True)
class Cell:
    """One arm with one seed. settings: what the arm sets. recipe: the whole, its variables not filled in. teacher: the
    cell whose model the recipe names, if it names one. scratch: nothing is pre-trained. members: how many encoders
    vote; the recipe is the first one's."""

    arm: str
    seed: int
    settings: tuple[str, ...]
    recipe: Recipe
    hash: str
    teacher: Cell | None = None
    scratch: bool = False
    members: int = 1

    def each(self, loss: str) -> list[Cell]:
        """The cell of each member, as it would be alone: pre-trainings are shared by their hashes."""
        seeds = [self.seed + _MEMBER_SEEDS * number for number in range(self.members)]
        recipes = [self.recipe.model_copy(update={"seed": seed}) for seed in seeds]
        taught = self.teacher.hash if self.teacher else None
        known = [cell_hash(recipe.to_dict(), loss, taught, scratch=self.scratch) for recipe in recipes]
        return [
            replace(self, recipe=recipe, hash=own, members=1, seed=seed)
            for recipe, own, seed in zip(recipes, known, seeds, strict=True)
        ]

    @property
    def stem(self) -> str:
        """Names the cell's file."""
        return f"{file_name(self.arm)}-seed{self.seed}"


def cells_of(study: Study, folder: Path | None = None) -> list[Cell]:
    """Every cell, all arms of a seed before the next seed, so that an unfinished study is already paired.

    folder: where the study's file lies; a recipe file is looked for there too. Raises ConfigError for a setting
    that the recipe refuses.
    """
    recipe = study.recipe
    if recipe not in shipped() and folder is not None and (folder / recipe).is_file():
        recipe = str(folder / recipe)
    common = [*study.settings]
    if study.evaluate:
        common.append(setting("evaluate.text", study.evaluate))

    def cell(arm: str, seed: int, own: list[str], teacher: Cell | None) -> Cell:
        asked, scratch, members = _apart(study, own)
        filled = load_recipe(recipe, [*common, *asked, f"seed={seed}"])
        _check_objective(study, filled)
        named = teacher if TEACHER in {name for path in _paths(filled.to_dict()) for name in _named(path)} else None
        teaches = named.hash if named else None
        known = cell_hash(filled.to_dict(), study.loss, teaches, scratch=scratch, members=members)
        return Cell(arm, seed, tuple(own), filled, known, named, scratch, members)

    teacher = None if study.teacher is None else cell(TEACHER.lower(), 0, study.teacher, None)
    return [
        cell(arm, seed, own, teacher)
        for seed in study.all_seeds()
        for arm, own in study.arm_settings().items()
        if seed in study.seeds_of(arm)
    ]


def _apart(study: Study, own: list[str]) -> tuple[list[str], bool, int]:
    """An arm's settings of the recipe, whether it starts from scratch, and how many members it has."""
    if study.classify is None:
        return own, False, 1
    said = [one.partition("=")[2] for one in own if one.startswith("members=")]
    if not all(one.isdecimal() and int(one) > 0 for one in said):
        raise ConfigError(f"no number of members: {said[0]}", where=f"study {study.name}", mend="members=5")
    asked = [one for one in own if one != "from=scratch" and not one.startswith("members=")]
    return asked, "from=scratch" in own, int(said[-1]) if said else 1


def _check_objective(study: Study, recipe: Recipe) -> None:
    """Refuse models that do not have the loss which the study measures."""
    masked = study.loss == MASKED
    if masked != (recipe.objective == "masked"):
        why = "cells that classify are encoders" if study.classify else f"the study measures {study.loss}"
        mend = "add objective=masked to its settings" if masked else "add `metric: masked_loss`"
        raise ConfigError(f"{why}, and a recipe says objective={recipe.objective}", where=study.name, mend=mend)


def cell_hash(
    recipe: dict[str, Any], metric: str, teacher: str | None = None, *, scratch: bool = False, members: int = 1
) -> str:
    """What identifies a cell: everything its recipe (`Recipe.to_dict()`) asks that changes what is measured, the hash
    of the cell that made its teacher, and whether it is a committee or not pre-trained.

    What is not asked (null, or an empty list or mapping) is left out, so that a key which a later version of
    Lilliput adds to the recipe changes no cell that does not use it.
    """
    asked = {key: value for key, value in recipe.items() if key != "name"}
    for part, names in _FREE.items():
        asked[part] = {key: value for key, value in asked.get(part, {}).items() if key not in names}
    made: dict[str, Any] = {"teacher": teacher} if teacher else {}
    made |= {"scratch": True} if scratch else {}
    made |= {"members": members} if members > 1 else {}
    return canonical_hash({"format": CELL_FORMAT, "recipe": _asked(asked), "metric": metric, **made})


def _asked(value: Any) -> Any:
    """`value` without the keys, at any depth, that hold nothing."""
    if isinstance(value, dict):
        kept = {key: _asked(inner) for key, inner in value.items()}
        return {key: inner for key, inner in kept.items() if inner is not None and inner != [] and inner != {}}
    return [_asked(item) for item in value] if isinstance(value, list) else value


def _holders(values: dict[str, Any]) -> list[tuple[dict[str, Any], str]]:
    """Where a recipe's dict holds the path of a model, a tokenizer or tasks: (mapping, key)."""
    found = [(values, "from"), (values["tokenizer"], "from")]
    if "inherit" in values:
        found += [(values["inherit"], key) for key in ("teacher", "tokenizer", "data")]
    return [(holder, key) for holder, key in found if holder.get(key) is not None]


def _paths(values: dict[str, Any]) -> list[str]:
    return [holder[key] for holder, key in _holders(values)]


def _named(path: str) -> list[str]:
    """The variables in a path."""
    return [match[1] or match[2] for match in _VARIABLE.finditer(path)]


def fill_path(path: str, where: str, given: Mapping[str, str] | None = None) -> str:
    """The path with its variables filled in, from `given` or the environment; ConfigError names one that is not set."""
    known = {**os.environ, **(given or {})}
    for name in _named(path):
        if name not in known:
            mend = "say what it is: `teacher: {KEY: VALUE}`" if name == TEACHER else f"export {name}=FOLDER"
            raise ConfigError(f"{path} needs the variable {name}", where=where, mend=mend)
    return _VARIABLE.sub(lambda match: known[match[1] or match[2]], path)


def fill_in(recipe: Recipe, where: str, given: Mapping[str, str] | None = None) -> Recipe:
    """The recipe with the variables in all its paths filled in, as by `fill_path`."""
    values = recipe.to_dict()
    for spec in values["corpus"]:
        spec["source"] = fill_path(spec["source"], where, given)
    values["evaluate"]["text"] = [fill_path(path, where, given) for path in values["evaluate"]["text"]]
    for holder, key in _holders(values):
        holder[key] = fill_path(holder[key], where, given)
    return Recipe.model_validate(values)

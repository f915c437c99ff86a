"""From a study to its cells: each arm with each of its seeds, the whole recipe, and the hash that identifies it.

A study's paths may hold environment variables, which are filled in only when a cell runs, so that a cell's hash
is the same on every machine.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lilliput.errors import ConfigError
from lilliput.lab.spec import Study, file_name, setting
from lilliput.recipe import Recipe, load_recipe, shipped
from lilliput.store import canonical_hash

# Raised when what a cell measures changes for the same settings.
CELL_FORMAT = 1
# Keys that change what is written and when, never what is measured.
_FREE = {"train": ("save_every", "eval_every", "tensorboard"), "evaluate": ("prompts", "during")}
_VARIABLE = re.compile(r"\$(?:\{(\w+)\}|(\w+))")


@dataclass(frozen=True)
class Cell:
    """One arm with one seed. settings: what the arm sets. recipe: the whole, its variables not filled in."""

    arm: str
    seed: int
    settings: tuple[str, ...]
    recipe: Recipe
    hash: str

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
    cells = []
    for seed in study.all_seeds():
        for arm, own in study.arm_settings().items():
            if seed not in study.seeds_of(arm):
                continue
            filled = load_recipe(recipe, [*common, *own, f"seed={seed}"])
            cells.append(Cell(arm, seed, tuple(own), filled, cell_hash(filled.to_dict(), study.metric)))
    return cells


def cell_hash(recipe: dict[str, Any], metric: str) -> str:
    """What identifies a cell: everything its recipe (`Recipe.to_dict()`) asks that changes what is measured.

    What is not asked (null, or an empty list or mapping) is left out, so that a key which a later version of
    Lilliput adds to the recipe changes no cell that does not use it.
    """
    asked = {key: value for key, value in recipe.items() if key != "name"}
    for part, names in _FREE.items():
        asked[part] = {key: value for key, value in asked.get(part, {}).items() if key not in names}
    return canonical_hash({"format": CELL_FORMAT, "recipe": _asked(asked), "metric": metric})


def _asked(value: Any) -> Any:
    """`value` without the keys, at any depth, that hold nothing."""
    if isinstance(value, dict):
        kept = {key: _asked(inner) for key, inner in value.items()}
        return {key: inner for key, inner in kept.items() if inner is not None and inner != [] and inner != {}}
    return [_asked(item) for item in value] if isinstance(value, list) else value


def fill_in(recipe: Recipe, where: str) -> Recipe:
    """The recipe with environment variables in its paths filled in; ConfigError names one that is not set."""

    def fill(path: str) -> str:
        def value(match: re.Match[str]) -> str:
            name = match[1] or match[2]
            if name not in os.environ:
                raise ConfigError(
                    f"{path} needs the environment variable {name}", where=where, mend=f"export {name}=FOLDER"
                )
            return os.environ[name]

        return _VARIABLE.sub(value, path)

    values = recipe.to_dict()
    for spec in values["corpus"]:
        spec["source"] = fill(spec["source"])
    values["evaluate"]["text"] = [fill(path) for path in values["evaluate"]["text"]]
    for holder in (values, values["tokenizer"]):
        if holder["from"] is not None:
            holder["from"] = fill(holder["from"])
    return Recipe.model_validate(values)

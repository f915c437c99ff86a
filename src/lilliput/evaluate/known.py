"""What is known of each benchmark, from tasks/NAME.yaml.

`kind`. `files`: the names its rows may have in a person's folder; the first that is there is taken. `items`: how many
the whole has. `source`: where to get it. And, where it has them:
`split`, `examples`: the words by which files' names say that they hold the items, or examples for shots. `shots`: how
many are customary. `names`, `each`: see `items.Shape`. `only`: an expression that is true of the rows that count.
`layouts`: how a row becomes an item (see layout.py), the first that fits its fields.
`delimiter`: what stands between query and choice, a space if not said. `description`: a template for what stands
before all else, of `part` and `title`, the part's name in `titles` or with spaces.
`parts`: `names` of parts and of categories; the `field` that names a row's part (else its file does); `mean`, whether
the accuracy is that of `items` or the mean of `parts`; `category`, the field that names the part's category.
`categories`: the parts of each. `lm_eval`: its name, or names, there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

import yaml

from lilliput.evaluate.items import Shape
from lilliput.evaluate.kinds import KINDS, Kind
from lilliput.evaluate.layout import Layout, template, truth
from lilliput.evaluate.row import Row


@cache
def known_tasks() -> dict[str, dict[str, Any]]:
    """What each file in tasks/ says, by its name."""
    folder = resources.files("lilliput.evaluate") / "tasks"
    files = sorted((file for file in folder.iterdir() if file.name.endswith(".yaml")), key=lambda file: file.name)
    return {file.name.removesuffix(".yaml"): yaml.safe_load(file.read_text(encoding="utf-8")) for file in files}


@dataclass(frozen=True)
class Known:
    """What a task's file says, ready to use; of a person's own task, nothing but its kind. counts: whether a row is an
    item at all. description: of a part's name."""

    kind: Kind
    layouts: list[Layout]
    counts: Callable[[Row], bool]
    parts: Mapping[str, Any]
    description: Callable[[str], str]
    delimiter: str

    def items(self, row: Row) -> Iterable[Row]:
        """The rows of items that a row of the data holds: as a rule itself, or nothing where it does not count."""
        if not self.counts(row):
            return ()
        return (row,) if self.kind.rows is None else self.kind.rows(row)

    @classmethod
    def of(cls, kind: str, said: Mapping[str, Any]) -> Known:
        """said: the file's content, or {}."""
        found = KINDS[kind]
        describe, titles = template(said.get("description", "")), said.get("titles", {})

        def description(part: str) -> str:
            return describe(part=part, title=titles.get(part, part.replace("_", " ")))

        return cls(
            kind=found,
            layouts=[Layout(made, found.texts) for made in said.get("layouts", ())],
            counts=truth(said.get("only", "true")),
            parts=said.get("parts", found.parts),
            description=description,
            delimiter=said.get("delimiter", " "),
        )


def shape_of(said: Mapping[str, Any], split: str) -> Shape:
    """How a task's rows lie, those of `split` ("split" or "examples")."""
    return Shape(tuple(said.get(split, ())), tuple(said.get("names", ())), said.get("each"))

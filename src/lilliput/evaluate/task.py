"""Tasks by their names: where the rows lie, what kind of task they make, and its result.

What is known of a benchmark stands in tasks/NAME.yaml: `kind`; `files`, the names its rows may have in a folder of the
person's, the first that is there being taken; `items`, how many the whole benchmark has; `source`, where it is to be
had. A name without such a file is a task too if the folder holds its rows: their fields then say what kind it is.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from lilliput.corpus.files import printable
from lilliput.device import versions
from lilliput.errors import UserError, nearest
from lilliput.evaluate import choice, last_word, pairs
from lilliput.evaluate.items import Row, find_rows, names_in, read_rows

if TYPE_CHECKING:
    from lilliput.model.decoder import Decoder
    from lilliput.tokenizer.load import Tokenizer


@dataclass(frozen=True)
class Kind:
    """item: makes an item of a row. score: (model, tokenizer, items, batch=, title=) → a score with `to_dict`.
    layouts: the fields that make a row one of this kind."""

    item: Callable[[Row], Any]
    score: Callable[..., Any]
    layouts: tuple[tuple[str, ...], ...]


KINDS = {
    "choice": Kind(choice.choice_item, choice.score_choices, choice.FIELDS),
    "pairs": Kind(pairs.pair, pairs.score_pairs, (pairs.FIELDS,)),
    "last-word": Kind(last_word.passage, last_word.score_last_words, (last_word.FIELDS,)),
}


@dataclass(frozen=True)
class Task:
    """A task with its items. place: the file or folder they come from. known: what its file in tasks/ says, nothing
    for a task of the person's own."""

    name: str
    kind: str
    items: list[Any]
    place: Path
    known: dict[str, Any]

    @property
    def hash(self) -> str:
        """SHA-256 of the items: the same whatever file, packing or further fields the rows came with."""
        digest = hashlib.sha256()
        for item in self.items:
            digest.update(json.dumps(asdict(item), ensure_ascii=False).encode() + b"\n")
        return digest.hexdigest()


@cache
def known_tasks() -> dict[str, dict[str, Any]]:
    """What each file in tasks/ says, by its name."""
    folder = resources.files("lilliput.evaluate") / "tasks"
    files = sorted((file for file in folder.iterdir() if file.name.endswith(".yaml")), key=lambda file: file.name)
    return {file.name.removesuffix(".yaml"): yaml.safe_load(file.read_text(encoding="utf-8")) for file in files}


def open_task(name: str, folder: Path | None) -> Task:
    """The task, its rows read and checked.

    folder: where the person's data lies; None: nowhere. Raises UserError for a name that is no known task and not in
    the folder, naming the nearest; where the data is missing, saying how to get it; and for a row that makes no item.
    """
    known = known_tasks().get(name)
    if folder is not None and not folder.is_dir():
        raise UserError(f"no such folder: {folder}", where="--data", mend="name the folder that holds the tasks' rows")
    place = find_rows(folder, _files(name, known)) if folder is not None and Path(name).name == name else None
    if place is None:
        raise _unknown(name, folder) if known is None else _missing(name, known, folder)
    kind, items = (known or {}).get("kind"), []
    for row in read_rows(place):
        kind = kind or _kind(row)
        items.append(KINDS[kind].item(row))
    return Task(name, str(kind), items, place, known or {})


def _files(name: str, known: dict[str, Any] | None) -> Sequence[str]:
    return tuple((known or {}).get("files", (name,)))


def _wanted(known: dict[str, Any]) -> str:
    return " or ".join(", ".join(fields) for fields in KINDS[known["kind"]].layouts)


def _unknown(name: str, folder: Path | None) -> UserError:
    names = sorted({*known_tasks(), *(names_in(folder) if folder else ())})
    close = nearest(name, names)
    mend = f"did you mean {close}? " if close else ""
    mend += f"Known are {', '.join(known_tasks())}; any other needs its rows: --data DIR with DIR/{name}.jsonl"
    return UserError(f"no such task: {name}", where="--task", mend=mend)


def _missing(name: str, known: dict[str, Any], folder: Path | None) -> UserError:
    file = (folder or Path("DIR")) / f"{_files(name, known)[0]}.jsonl"
    fields = " or ".join(", ".join(layout) for layout in KINDS[known["kind"]].layouts)
    mend = f"put its rows ({fields}) in {printable(file)}{'' if folder else ' and add --data DIR'}; {known['source']}"
    where = printable(folder) if folder else "--task"
    return UserError(f"the data of {name} is not here", where=where, mend=mend)


def _kind(row: Row) -> str:
    """The kind of task that has such rows."""
    for name, kind in KINDS.items():
        if any(set(fields) <= row.fields.keys() for fields in kind.layouts):
            return name
    layouts = " | ".join(", ".join(fields) for kind in KINDS.values() for fields in kind.layouts)
    mend = f"a task's rows have one of these sets of fields: {layouts}"
    raise UserError(f"the row's fields make no task: {', '.join(row.fields)}", where=row.where, mend=mend)


def run_task(
    model: Decoder, tokenizer: Tokenizer, task: Task, *, batch: int | None = None, title: str | None = None
) -> dict[str, Any]:
    """Score a task: its row for `--json`, with all that a person needs to compare it.

    batch: tokens at once. title: of the progress shown, by default the task's name.
    """
    score = KINDS[task.kind].score(model, tokenizer, task.items, batch=batch, title=title or task.name)
    bos = tokenizer.bos_id
    return {
        **score.to_dict(),
        "kind": task.kind,
        "whole": task.known.get("items") in (None, len(task.items)),
        "shots": 0,
        "bos": {"policy": "one before each text", "id": bos, "token": tokenizer.token(bos)},
        "data": str(task.place.absolute()),
        "data_hash": task.hash,
        "versions": versions(),
    }

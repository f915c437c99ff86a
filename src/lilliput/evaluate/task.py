"""Tasks by their names: their rows found and read, scored by a model, and what is to be said of the result.

A name that is no known benchmark (known.py) is a task too if the person's folder holds its rows: their fields then say
what kind it is.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lilliput.corpus.files import printable
from lilliput.device import versions
from lilliput.errors import UserError, nearest
from lilliput.evaluate.formats import ENDINGS
from lilliput.evaluate.hub import HubTask, hub_task, installed
from lilliput.evaluate.items import find_rows, holds_files, names_in, read_rows
from lilliput.evaluate.kinds import KINDS, kind_of
from lilliput.evaluate.known import Known, known_tasks, shape_of
from lilliput.evaluate.layout import laid_out
from lilliput.evaluate.noise import Noise
from lilliput.evaluate.reader import CausalReader, Reader
from lilliput.evaluate.row import Row
from lilliput.evaluate.score import Parts, Score, parts_of
from lilliput.evaluate.shots import Example, befores
from lilliput.progress import Progress

if TYPE_CHECKING:
    from lilliput.model.decoder import Decoder
    from lilliput.tokenizer.load import Tokenizer

# Rows between two looks at the clock.
_SHOW = 500


@dataclass(frozen=True)
class Task:
    """A task with its items. kind: a name in `KINDS`. before: of each item, what stands before it: description and
    examples. parts: how the items are divided, if they are. place: the file or folder they come from. total: how many
    items there are, of which `items` are all or, under a limit, some. expected: how many the known benchmark has."""

    name: str
    kind: str
    items: list[Any]
    place: Path
    before: list[str]
    parts: Parts | None = None
    delimiter: str = " "
    shots: int = 0
    total: int = 0
    expected: int | None = None

    @property
    def hash(self) -> str:
        """SHA-256 of the items: the same whatever file, packing or further fields the rows came with."""
        digest = hashlib.sha256()
        for item in self.items:
            digest.update(json.dumps(asdict(item), ensure_ascii=False).encode() + b"\n")
        return digest.hexdigest()

    def noisy(self, noise: Noise) -> Task:
        """The same task with noise in what its items give to read, never in what sets their answers apart."""
        return replace(self, items=[item.noisy(noise) for item in self.items])

    def score(self, reader: Reader, title: str | None) -> Score:
        """Score every item. title: of the progress shown, None for none."""
        kind = KINDS[self.kind]
        more = {"before": self.before, "delimiter": self.delimiter} if kind.prompted else {}
        return replace(kind.score(reader, self.items, title=title, **more), parts=self.parts)

    def row(self, score: Score, tokenizer: Tokenizer) -> dict[str, Any]:
        """The row for `--json`: see `task_row`."""
        return {
            **score.to_dict(),
            "kind": self.kind,
            "of": self.total,
            "whole": len(self.items) == self.total and self.expected in (None, self.total),
            **protocol(self.shots, tokenizer),
            "data": str(self.place.absolute()),
            "data_hash": self.hash,
            "versions": versions(),
        }


def find_task(
    name: str, folder: Path | None, *, shots: int = 0, limit: int | None = None
) -> Task | HubTask:
    """`open_task` where the person names a folder; without one, the task through `lm-eval` and the hub.

    Raises UserError as both do, and where the extra for it is not installed.
    """
    said = known_tasks().get(name)
    if folder is not None or said is None or "lm_eval" not in said:
        return open_task(name, folder, shots=shots, limit=limit)
    if not installed():
        raise missing(name, said, folder, ", or let lm-eval fetch them: pip install 'lilliput[eval]'")
    return hub_task(name, said, shots=shots, limit=limit)


def open_task(name: str, folder: Path | None, *, shots: int = 0, limit: int | None = None) -> Task:
    """The task, its rows read and checked.

    folder: where the person's data lies; None: nowhere. shots: examples before each item, from the split that the
    benchmark has them in. limit: take so many items, evenly from all. Raises UserError for a name that is no known task
    and not in the folder, naming the nearest; where the data is missing, saying how to get it; for a row that makes no
    item; and for shots that the data does not have.
    """
    said = known_tasks().get(name)
    if folder is not None and not folder.exists():
        mend = "name the folder that holds the tasks' rows, or a file of rows"
        raise UserError(f"no such folder: {folder}", where="--data", mend=mend)
    place = _place(name, folder, said)
    if place is None:
        raise _unknown(name, folder) if said is None else missing(name, said, folder)
    said = said or {}
    rows = list(read_rows(place, shape_of(said, "split")))
    kind = said.get("kind") or kind_of(rows[0])
    known = Known.of(kind, said)
    examples = _items(_examples(name, place, said, known), known) if shots else []
    held = _items(rows, known)
    if not held:
        mend = f"get it again: {said.get('source')}"
        raise UserError(f"none of the rows is an item of {name}", where=printable(place), mend=mend)
    total = len(held)
    if limit is not None and limit < total:
        held = [held[at * total // limit] for at in range(limit)]
    groups, own = [one.part for one in held], [one.category for one in held]
    parts = parts_of(groups, own, known.parts, said.get("categories", {})) if known.parts else None
    if not known.parts:
        examples, held = ([replace(one, part="") for one in own] for own in (examples, held))
    before = befores([one.part for one in held], examples, shots, known.description, known.delimiter)
    items = [one.item for one in held]
    return Task(name, kind, items, place, before, parts, known.delimiter, shots, total, said.get("items"))


def _place(name: str, folder: Path | None, said: Mapping[str, Any] | None) -> Path | None:
    """Where a task's rows are: the file that the person names, or the one of the task's name in the folder."""
    if folder is not None and folder.is_file():
        return folder
    return find_rows(folder, _files(name, said)) if folder is not None and Path(name).name == name else None


def _items(rows: Sequence[Row], known: Known) -> list[Example]:
    """The items of the rows that count."""
    found = []
    with Progress("reading", len(rows), "rows") as bar:
        for done, row in enumerate(rows, 1):
            for one in known.items(row):
                part, category = (_named(one, known.parts.get(name)) for name in ("field", "category"))
                item = known.kind.item(laid_out(one, known.layouts, known.kind.own))
                found.append(Example(item, one.part if part is None else part, category))
            if done % _SHOW == 0:
                bar.update(done)
    return found


def _named(row: Row, field: str | None) -> str | None:
    return row.text(field) if field and field in row.fields else None


def _examples(name: str, place: Path, said: Mapping[str, Any], known: Known) -> list[Row]:
    """The rows of the split that examples come from; never those of the items' own."""
    if not known.kind.prompted or "examples" not in said or not holds_files(place):
        words = " or ".join(said.get("examples", ()))
        mend = f"give files whose names say {words}, beside those of the items" if words else "leave --shots out"
        raise UserError(f"{name} has no examples for shots here", where="--shots", mend=mend)
    return list(read_rows(place, replace(shape_of(said, "examples"), strict=True)))


def _files(name: str, said: Mapping[str, Any] | None) -> Sequence[str]:
    return tuple((said or {}).get("files", (name,)))


def _unknown(name: str, folder: Path | None) -> UserError:
    names = sorted({*known_tasks(), *(names_in(folder) if folder else ())})
    close = nearest(name, names)
    mend = f"did you mean {close}? " if close else ""
    mend += f"Known are {', '.join(known_tasks())}; any other needs its rows: --data DIR with DIR/{name}.jsonl"
    return UserError(f"no such task: {name}", where="--task", mend=mend)


def missing(name: str, said: Mapping[str, Any], folder: Path | None, also: str = "") -> UserError:
    """The error for a known task whose data is not here. also: another way to get it."""
    file = (folder or Path("DIR")) / f"{_files(name, said)[0]}.jsonl"
    ways = ", ".join(ending for ending in ENDINGS if ending != file.suffix)
    kind = KINDS[said["kind"]]
    layouts = [*kind.own, *(layout.fields for layout in Known.of(said["kind"], said).layouts)]
    fields = " or ".join(", ".join(layout) for layout in layouts)
    mend = f"put its rows ({fields}) in {printable(file)} ({ways}){'' if folder else ' and add --data DIR'}{also}"
    where = printable(folder) if folder else "--task"
    return UserError(f"the data of {name} is not here", where=where, mend=f"{mend}; {said['source']}")


def score_task(
    model: Decoder, tokenizer: Tokenizer, task: Task | HubTask, *, batch: int | None = None, title: str | None = None
) -> Score:
    """Score a task, item by item. batch: tokens at once. title: of the progress shown, by default the task's name."""
    return task.score(CausalReader(model, tokenizer, batch), title or task.name)


def task_row(task: Task | HubTask, score: Score, tokenizer: Tokenizer) -> dict[str, Any]:
    """The task's row for `--json`: its figures, and all that a person needs to compare them."""
    return task.row(score, tokenizer)


def protocol(shots: int, tokenizer: Tokenizer) -> dict[str, Any]:
    """What stands before each text."""
    bos = tokenizer.bos_id
    return {"shots": shots, "bos": {"policy": "one before each text", "id": bos, "token": tokenizer.token(bos)}}


def run_task(
    model: Decoder, tokenizer: Tokenizer, task: Task | HubTask, *, batch: int | None = None, title: str | None = None
) -> dict[str, Any]:
    """Score a task and give its row for `--json`; arguments as for `score_task`."""
    return task_row(task, score_task(model, tokenizer, task, batch=batch, title=title), tokenizer)

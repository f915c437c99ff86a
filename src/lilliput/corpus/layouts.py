"""The data sets of the TLM paper in the layouts that they are published in: AG News, DBPedia-14, FewRel.

A folder, or a folder and the beginning of a name in it (`classify/ag_news`), says which. One file alone is divided:
of each label the tenth with the lowest hashes of their texts is the test split, so it is the same everywhere.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lilliput.corpus.files import endings
from lilliput.corpus.labelled import Rows, read_labelled, read_whole
from lilliput.errors import CorpusError, nearest

AG_NEWS = ("World", "Sports", "Business", "Sci/Tech")
DBPEDIA = (
    "Company", "EducationalInstitution", "Artist", "Athlete", "OfficeHolder", "MeanOfTransportation", "Building",
    "NaturalPlace", "Village", "Animal", "Plant", "Album", "Film", "WrittenWork",
)  # fmt: skip
TEST_SHARE = 0.1
# Beginnings of names that say what part of a set a file is, not which set.
_PARTS = ("train", "test", "val", "dev", "classes", "readme", "pid2name", "license", "wiki")
# R-BERT's marks of the two entities (1905.08284 §3.2): every tokenizer has them.
HEAD, TAIL = "$", "#"


@dataclass(frozen=True)
class Labelled:
    """A data set. names: for people, by label, where the set has them. notes: what had to be decided."""

    name: str
    train: Rows
    test: Rows
    names: dict[str, str]
    notes: list[str]


def set_place(name: str) -> Path:
    """Where a data set lies: a path, or a name in the folder `classify` of $LILLIPUT_DATA."""
    path = Path(name).expanduser()
    root = os.environ.get("LILLIPUT_DATA")
    plain = path.parent == Path(".") and not path.exists() and not any(Path.cwd().glob(f"{name}*"))
    return Path(root, "classify", name) if plain and root else path


def read_set(where: Path) -> Labelled:
    """The data set in the folder `where`, or of the files that begin with its last part. Raises CorpusError that says
    what is looked for."""
    folder, prefix = (where, "") if where.is_dir() else (where.parent, where.name)
    if not folder.is_dir():
        raise CorpusError("no such folder", where=str(where), mend="--data FOLDER or --data FOLDER/NAME")
    files = {file.name: file for file in sorted(folder.iterdir()) if file.is_file() and file.name.startswith(prefix)}
    if not files:
        known = sorted({file.name.split(".")[0] for file in folder.iterdir() if file.is_file()})
        close = nearest(prefix, known)
        mend = f"did you mean {folder / close}?" if close else f"{folder} holds: {', '.join(known[:8])}"
        raise CorpusError(f"no file there begins with {prefix}", where=str(where), mend=mend)
    if not prefix and len(sets := {stem for name in files if (stem := _stem(name))}) > 1:
        mend = f"name one of them, such as --data {folder / min(sets)}"
        raise CorpusError(f"several sets lie there: {', '.join(sorted(sets)[:8])}", where=str(where), mend=mend)
    for kind in (_few_rel, _few_rel_numbered, _pair, _single):
        if found := kind(files, prefix or folder.name):
            return found
    reason = f"no layout that is known: {', '.join(list(files)[:6])}"
    raise CorpusError(reason, where=str(where), mend="name the files: --train FILE --test FILE")


def _bare(name: str) -> str:
    """A file's name without the ending of its compression."""
    return name.removesuffix(endings(Path(name))[1])


def _stem(name: str) -> str:
    """The part of a file's name that says which set it is of; none for those that every set's folder may hold."""
    first = name.split(".")[0].lower()
    return "" if first.startswith(_PARTS) else first


def _find(files: dict[str, Path], *ends: str) -> Path | None:
    return next((file for name, file in files.items() if _bare(name).endswith(ends)), None)


def _pair(files: dict[str, Path], name: str) -> Labelled | None:
    """A train and a test file, each CSV or JSONL: AG News' and DBPedia's own layout, and anyone's."""
    ends = (".csv", ".tsv", ".jsonl", ".json")
    train, test = (_find(files, *(f"{part}{end}" for end in ends)) for part in ("train", "test"))
    if train is None or test is None:
        return None
    one, other = read_labelled(train), read_labelled(test)
    notes = align(one, other)
    classes = _find(files, "classes.txt")
    names = read_whole(classes).split("\n") if classes else None
    listed = [line.strip() for line in names if line.strip()] if names else None
    return Labelled(name, one, other, _named({*one.labels, *other.labels}, name, listed), notes)


def _single(files: dict[str, Path], name: str) -> Labelled | None:
    """One file of labelled rows, as DBPedia's sample is: divided here."""
    if len(files) != 1:
        return None
    rows = read_labelled(next(iter(files.values())))
    train, test, note = divided(rows)
    return Labelled(name, train, test, _named(set(rows.labels), name, None), [note])


def _few_rel(files: dict[str, Path], name: str) -> Labelled | None:
    """FewRel's own: {relation: [{tokens, h, t}, …]}, the entities at their places; of several files, each relation
    with what it has."""
    found = [file for at, file in files.items() if _bare(at).endswith("_wiki.json")]
    if not found:
        return None
    rows, titles = Rows(), _pids(files, found[0].parent)
    for file in found:
        for relation, items in _json(file).items():
            for item in items:
                rows.add(_marked(item, file), relation)
    train, test, note = divided(rows)
    names = {pid: titles[pid] for pid in set(rows.labels) if pid in titles}
    marks = f"the entities are marked: {HEAD} head {HEAD}, {TAIL} tail {TAIL}"
    return Labelled(name, train, test, names, [note, marks])


def _pids(files: dict[str, Path], folder: Path) -> dict[str, str]:
    file = _find(files, "pid2name.json") or next(iter(folder.glob("*pid2name.json*")), None)
    return {pid: said[0] for pid, said in _json(file).items()} if file else {}


def _marked(item: dict[str, Any], file: Path) -> str:
    """A sentence of FewRel with marks around its two entities."""
    try:
        tokens = [str(token) for token in item["tokens"]]
        places = [(min(item[end][2][0]), max(item[end][2][0]), mark) for end, mark in (("h", HEAD), ("t", TAIL))]
    except (KeyError, IndexError, TypeError, ValueError) as error:
        mend = "rows have tokens, h and t"
        raise CorpusError(f"a row is not of FewRel's layout: {error}", where=str(file), mend=mend) from None
    for first, last, mark in sorted(places, reverse=True):
        tokens[first : last + 1] = [mark, *tokens[first : last + 1], mark]
    return " ".join(token for token in tokens if token.strip())


def _few_rel_numbered(files: dict[str, Path], name: str) -> Labelled | None:
    """Rows of gold relation, candidates and sentence, with tabs between; names are numbered from 1."""
    file, titles = _find(files, "relations.txt"), _find(files, "names.txt")
    if file is None:
        return None
    rows = Rows()
    for line in read_whole(file).split("\n"):
        parts = line.split("\t")
        if len(parts) >= 3 and parts[0].strip().isdecimal():
            rows.add(parts[2].strip(), parts[0].strip())
    train, test, note = divided(rows)
    said = [line.rsplit("/", 1)[-1].strip() for line in read_whole(titles).split("\n")] if titles else []
    names = {str(at): title for at, title in enumerate(said, 1) if title}
    return Labelled(name, train, test, names, [note])


def _json(file: Path) -> dict[str, Any]:
    try:
        found = json.loads(read_whole(file))
    except ValueError as error:
        raise CorpusError(f"damaged JSON: {error}", where=str(file), mend="fetch the file again") from None
    if not isinstance(found, dict):
        raise CorpusError("no JSON object", where=str(file), mend="FewRel maps relations to lists of sentences")
    return found


def _named(labels: set[str], name: str, classes: list[str] | None) -> dict[str, str]:
    """Names of numbered labels: the set's own list, or the known one of a set that is recognised by its name."""
    plain = name.lower().replace("-", "").replace("_", "")
    for sign, known in (("agnews", AG_NEWS), ("dbpedia", DBPEDIA)):
        classes = classes or (list(known) if sign in plain else None)
    if not classes or not all(label.isdecimal() for label in labels):
        return {}
    low = min(map(int, labels))
    numbers = {label: int(label) - low for label in labels}
    return {label: classes[at] for label, at in sorted(numbers.items())} if max(numbers.values()) < len(classes) else {}


def align(train: Rows, test: Rows) -> list[str]:
    """Bring the test labels to those of the training rows where one file counts classes from 0 and the other from 1, as
    copies of AG News do; what was done, as notes. In place."""
    ours, theirs = set(train.labels), set(test.labels)
    if not all(label.isdecimal() for label in ours | theirs) or ours == theirs:
        return []
    for step in (1, -1):
        if {str(int(label) + step) for label in theirs} == ours:
            test.labels = [str(int(label) + step) for label in test.labels]
            low, other = min(map(int, ours)), min(map(int, theirs))
            return [f"the test file counts its labels from {other}, the training file from {low}: taken for the same"]
    return []


def divided(rows: Rows) -> tuple[Rows, Rows, str]:
    """(training rows, test rows, a note): of each label the tenth with the lowest hashes of texts is for the test."""
    by_label: dict[str, list[int]] = defaultdict(list)
    for at, label in enumerate(rows.labels):
        by_label[label].append(at)

    def mark(at: int) -> bytes:
        return hashlib.sha256(rows.texts[at].encode()).digest()

    held: set[int] = set()
    for places in by_label.values():
        held.update(sorted(places, key=mark)[: round(TEST_SHARE * len(places))])
    train, test = [at for at in range(len(rows)) if at not in held], sorted(held)
    if not test:
        raise CorpusError("too few rows of each label to hold a tenth out", where="data", mend="give a test file")
    note = "one file: a tenth of each label, by the hash of its text, is the test split"
    return rows.take(train), rows.take(test), note

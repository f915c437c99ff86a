"""A study's labelled sets: each finished cell's encoder is fine-tuned for them and tested once; what statistics need of
it goes to the cell's file, as the answers to a task do.

Every arm of one seed learns from the same rows, a committee's members too.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from lilliput.corpus.layouts import read_set, set_place
from lilliput.lab.cells import run_folder
from lilliput.lab.fields import OVERLAPS
from lilliput.lab.grid import Cell, fill_in, fill_path
from lilliput.lab.spec import Study
from lilliput.lab.tasks import pack
from lilliput.progress import say
from lilliput.store import Store, canonical_hash

if TYPE_CHECKING:
    from lilliput.classify import Prepared
    from lilliput.tuning import Tuning

_VOTE = "softmax"  # the paper's soft committee


@dataclass(frozen=True)
class LabelSet:
    """A set with its rows, and how encoders are fine-tuned for it. overlap: whether each cell also holds how much of
    the set's vocabulary its text has."""

    name: str
    prepared: Prepared
    tuning: Tuning
    overlap: bool

    @cached_property
    def hash(self) -> str:
        """Identifies rows and settings."""
        return canonical_hash([self.prepared.task.identity(), asdict(self.tuning)])

    def answer(self, study: Study, cell: Cell, store: Store, device: str) -> dict[str, Any]:
        """Fine-tune a cell's encoder, or those of its members, and test the last epoch: figures, and of each test row
        whether it is right. The classifiers' weights stay in the store."""
        from lilliput.classify import baseline, scores
        from lilliput.device import pick_device
        from lilliput.evaluate.labels import f1
        from lilliput.evaluate.tfidf import NAME
        from lilliput.evaluate.votes import shares
        from lilliput.tuning import LOGITS, Start, fine_tune

        task, logits, seconds, lr = self.prepared.task, [], 0.0, 0.0
        for number, one in enumerate(cell.each(study.loss), 1):
            part = f", member {number} of {cell.members}" if cell.members > 1 else ""
            say(f"{self.name}, {cell.arm}, seed {cell.seed}{part}: fine-tuning")
            # From scratch no weights are taken, so all members share the first one's folder.
            holder = cell.each(study.loss)[0] if cell.scratch else one
            start = Start.read(run_folder(store, holder) / "model", scratch=cell.scratch)
            work = run_folder(store, one) / "tuning"
            stage = fine_tune(
                start, task, self.tuning, one.seed, work, store, pick_device(device), draw=cell.seed
            )
            logits.append(np.load(stage.path / LOGITS))
            seconds, lr = seconds + stage.manifest["seconds"], stage.manifest["lr"]
        guessed = shares(np.stack(logits), _VOTE).argmax(1)
        right, truth = guessed == task.truth, np.where(task.truth < 0, len(task.labels), task.truth)
        other = baseline(task, self.tuning, cell.seed, store)
        share = float(right.mean())
        return {
            "acc": share,
            "stderr": math.sqrt(share * (1 - share) / max(1, len(right) - 1)),
            "items": len(right),
            "kind": "labels",
            "shots": None,
            "data_hash": self.hash,
            "macro_f1": f1(truth, guessed, len(task.labels) + 1),
            "baseline": {"name": NAME, "acc": scores(task, [other])["accuracy"]["value"]},
            "labels": len(task.labels),
            "tuning": {**asdict(self.tuning), "lr": lr},
            "seconds": round(seconds, 1),
            **({"members": [float((one.argmax(1) == task.truth).mean()) for one in logits]} if len(logits) > 1 else {}),
            **({"overlap": self._overlap(study, cell)} if self.overlap else {}),
            "right": pack(right),
        }

    def _overlap(self, study: Study, cell: Cell) -> dict[str, float]:
        from lilliput.corpus.overlap import overlap, task_counts
        from lilliput.corpus.report import ReadReport
        from lilliput.corpus.sources import read_source

        specs = fill_in(cell.recipe, f"study {study.name}").corpus
        texts: Iterable[str] = (text for spec in specs for text in read_source(spec, ReadReport()))
        found = overlap(texts, task_counts(self.prepared.task.train.texts)).to_dict()
        return {name: found[name] for name in OVERLAPS.values()}


def open_sets(study: Study) -> list[LabelSet]:
    """The sets that a study's cells are tested on. Raises UserError where one is missing or damaged, and without
    scikit-learn, which the baseline needs."""
    if study.classify is None:
        return []
    from lilliput.classify import prepare
    from lilliput.evaluate.tfidf import check_baseline
    from lilliput.tuning import Tuning

    check_baseline()
    asked = study.classify
    tuning = Tuning(epochs=asked.epochs, batch=asked.batch, lr=asked.lr, length=asked.length, per_label=asked.per_label)
    overlap = any(trend.x in OVERLAPS for trend in study.correlations)
    return [
        LabelSet(name, prepare(read_set(set_place(fill_path(place, f"study {study.name}")))), tuning, overlap)
        for name, place in zip(asked.names(), asked.data, strict=True)
    ]

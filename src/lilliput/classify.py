"""`classify`: an encoder fine-tuned with several seeds and tested once, TF-IDF beside it; the classifier saved."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lilliput import device as machine
from lilliput.corpus.layouts import Labelled
from lilliput.errors import ConfigError, CorpusError
from lilliput.evaluate.labels import Labels, accuracy, accuracy_gain, by_label, confusion, macro_f1
from lilliput.evaluate.tfidf import NAME, check_baseline, tfidf_guesses
from lilliput.export.encoder_dir import save_encoder
from lilliput.progress import say, warn
from lilliput.report.classifier_card import classifier_card
from lilliput.report.classify_page import classify_page
from lilliput.store import Store, canonical_hash, check_replaceable, locked, read_json, write_atomic, write_json
from lilliput.train.metrics import read_metrics
from lilliput.tuning import LOGITS, Start, Task, Tuning, fine_tune, load_tuned, sample

_BASELINE_FORMAT = 1
# From this ratio of the commonest to the rarest label on it is told.
_UNEVEN = 3
# Of the results what a model directory does not hold: places here, and what only the page shows.
_NOT_SHIPPED = ("model", "run", "report", "key", "encoder", "confusion")


@dataclass(frozen=True)
class Job:
    """One call of `classify`: what is fine-tuned, on what and how, and where it goes."""

    start: Start
    data: Labelled
    tuning: Tuning
    seeds: Sequence[int]
    out: Path
    store: Store
    device: torch.device

    def key(self, task: Task) -> str:
        """Tells this call's results from another's."""
        start = [self.start.identity(), self.start.scratch]
        return canonical_hash([start, task.identity(), asdict(self.tuning), list(self.seeds)])


@dataclass(frozen=True)
class Prepared:
    """A task, the names of its labels for people, and all that had to be told of its data."""

    task: Task
    names: list[str]
    told: list[str]


def prepare(data: Labelled) -> Prepared:
    """Rows made fit, and everything odd in them told. Raises CorpusError where there is nothing to learn.

    Training rows without text, and those whose text is a test row's, are left out; test rows all stay and count, also
    those without text and those whose label training knows not, which no answer can get right.
    """
    told = list(data.notes)
    for part, rows in (("training", data.train), ("test", data.test)):
        told += [f"{part}: {count} {reason} left out" for reason, count in rows.dropped.items()]
    tests = set(data.test.texts)
    empty = sum(not text.strip() for text in data.train.texts)
    both = sum(text in tests for text in data.train.texts if text.strip())
    keep = [at for at, text in enumerate(data.train.texts) if text.strip() and text not in tests]
    train = data.train.take(keep)
    told += _told(empty, "training rows without text are left out")
    told += _told(both, "training rows whose text is also a test row's are left out")
    told += _told(sum(not text.strip() for text in data.test.texts), "test rows have no text; they count all the same")
    labels = _ordered(set(train.labels))
    if not labels:
        mend = "give training rows with text that are not the test rows"
        raise CorpusError("no training row is left: all are empty or test rows, too", where="data", mend=mend)
    if len(labels) < 2:
        raise CorpusError(f"all training rows have one label ({labels[0]})", where="data", mend="give two or more")
    numbers = {label: at for at, label in enumerate(labels)}
    truth = np.array([numbers.get(label, -1) for label in data.test.labels], np.int64)
    strange = sorted({label for label in data.test.labels if label not in numbers})
    if strange:
        shown = ", ".join(strange[:5])
        count = int((truth < 0).sum())
        told.append(f"{count} test rows have labels that training does not ({shown}): counted as wrong")
    counts = Counter(train.labels)
    if max(counts.values()) >= _UNEVEN * min(counts.values()):
        (most, many), (least, few) = counts.most_common(1)[0], min(counts.items(), key=lambda item: item[1])
        told.append(f"labels are uneven: {most} has {many} training rows, {least} {few}; look at macro-F1")
    known = np.array([numbers[label] for label in train.labels], np.int64)
    return Prepared(Task(train, data.test, labels, known, truth), _readable(labels, data.names), told)


def _told(count: int, what: str) -> list[str]:
    return [f"{count} {what}"] if count else []


def _ordered(labels: set[str]) -> list[str]:
    """Numbers by their size, else by the alphabet."""
    plain = all(label.removeprefix("-").isdecimal() for label in labels)
    return sorted(labels, key=int) if plain else sorted(labels)


def _readable(labels: list[str], names: dict[str, str]) -> list[str]:
    """A name for each label; two labels of one name keep their own."""
    found = [names.get(label, label) for label in labels]
    return found if len(set(found)) == len(found) else labels


def classify(job: Job) -> dict[str, Any]:
    """Fine-tune with each seed, test the last epoch's weights, and save the first seed's classifier in `out/model`.

    The same call goes on where a killed one stopped. Returns what `results.json` holds. Raises UserError before any
    work where the request cannot be met.
    """
    check_baseline()
    prepared, start, out = prepare(job.data), job.start, job.out
    key = job.key(prepared.task)
    check_replaceable(out, ("model", "results.json", "report.html", "seeds", ".*"), set(), (start.folder,))
    with locked(out / ".lock", str(out)):
        if (out / "results.json").is_file():
            found = read_json(out / "results.json")
            if found.get("key") != key:
                raise ConfigError("this folder holds another classifier", where=str(out), mend="give another --out")
            say(f"finished before: {out}")
            return {**found, **_places(out)}
        told = prepared.told + odd_sizes(prepared, start, job.tuning)
        speak(told, job.data.notes)
        results = _measure(job, prepared, told, key)
        # Last, since the work counts as finished once it is there.
        write_json(out / "results.json", results)
        return results


def speak(told: Sequence[str], plain: Sequence[str]) -> None:
    """Say what was decided (`plain`), warn of what is odd."""
    for note in told:
        (say if note in plain else warn)(note)


def odd_sizes(prepared: Prepared, start: Start, tuning: Tuning) -> list[str]:
    """What is odd about how many rows there are, and how long they are."""
    task, told = prepared.task, []
    counts = Counter(task.train.labels)
    wanted = tuning.per_label or 0
    if few := {label: count for label, count in counts.items() if count < wanted}:
        label, least = min(few.items(), key=lambda item: item[1])
        told.append(f"{len(few)} labels have fewer than {wanted} training rows ({label}: {least}); all are used")
    room = min(tuning.length, start.config.context) - 2
    for part, texts in (("training", task.train.texts), ("test", task.test.texts)):
        long = sum(len(ids) > room for ids in start.tokenizer.encode_arrays(texts))
        if long:
            told.append(f"{long / len(texts):.1%} of the {part} texts are cut after {room} tokens")
    return told


def _measure(job: Job, prepared: Prepared, told: list[str], key: str) -> dict[str, Any]:
    """Fine-tune with each seed, save the first seed's classifier; the results."""
    task, start, data, tuning, seeds, out = prepared.task, job.start, job.data, job.tuning, job.seeds, job.out
    kind = "from scratch" if start.scratch else "pre-trained"
    say(f"{data.name}: {len(task.labels)} labels, {len(task.train):,} training and {len(task.test):,} test rows")
    stages, guesses, others = [], [], []
    for seed in seeds:
        say(f"seed {seed}: fine-tuning, {kind}")
        stages.append(fine_tune(start, task, tuning, seed, out / "seeds" / str(seed), job.store, job.device))
        guesses.append(np.load(stages[-1].path / LOGITS).argmax(1).astype(np.int64))
        others.append(baseline(task, tuning, seed, job.store))
        ours, theirs = ((one[-1] == task.truth).mean() for one in (guesses, others))
        say(f"seed {seed}: accuracy {ours:.2%}, {NAME} {theirs:.2%}")
    model = load_tuned(start, stages[0], len(task.labels))
    results = {
        **_places(out),
        "data": data.name,
        "encoder": str(start.folder),
        "scratch": start.scratch,
        **scores(task, guesses),
        "baseline": {"name": NAME, **scores(task, others)},
        "gain": accuracy_gain(_right(task, guesses), _right(task, others)).to_dict(),
        "labels": by_label(*_shown(task, guesses[0]), [*prepared.names, "unknown label"]),
        "confusion": confusion(*_shown(task, guesses[0]), [*prepared.names, "unknown label"]),
        "seeds": list(seeds),
        "per_seed": [
            {"seed": seed, "accuracy": float((one == task.truth).mean()), "rows": stage.manifest["rows"]}
            for seed, one, stage in zip(seeds, guesses, stages, strict=True)
        ],
        "rows": {"train": len(task.train), "test": len(task.test), "labels": len(task.labels)},
        "tuning": {**asdict(tuning), "lr": stages[0].manifest["lr"]},
        "told": told,
        "shape": {"family": start.config.family, **asdict(start.config)},
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "cost": {"seconds": sum(stage.manifest["seconds"] for stage in stages)},
        "machine": machine.machine(),
        "versions": machine.versions(),
        "key": key,
    }
    info = {name: value for name, value in results.items() if name not in _NOT_SHIPPED}
    save_encoder(out / "model", model, start.tokenizer, info, classifier_card(results), labels=prepared.names)
    curves = {seed: read_metrics(stage.path / "metrics.jsonl") for seed, stage in zip(seeds, stages, strict=True)}
    write_atomic(out / "report.html", classify_page(results, curves))
    return results


def _places(out: Path) -> dict[str, str]:
    """Where the parts of a classifier's folder lie."""
    return {"model": str(out / "model"), "run": str(out), "report": str(out / "report.html")}


def baseline(task: Task, tuning: Tuning, seed: int, store: Store) -> Labels:
    """What TF-IDF and logistic regression make of the test rows after the same training rows, kept in the store."""
    chosen = sample(task, tuning.per_label, seed)

    def build(folder: Path) -> dict[str, Any]:
        texts = [task.train.texts[at] for at in chosen]
        found = tfidf_guesses(texts, task.known[chosen].tolist(), task.test.texts, balanced=tuning.balanced)
        np.save(folder / "guesses.npy", found)
        return {"rows": len(chosen)}

    rows = None if tuning.per_label is None else chosen.tolist()
    key = {"format": _BASELINE_FORMAT, "task": task.identity(), "rows": rows, "balanced": tuning.balanced}
    found: Labels = np.load(store.stage("tfidf", key, build).path / "guesses.npy").astype(np.int64)
    return found


def scores(task: Task, guesses: Sequence[Labels]) -> dict[str, Any]:
    """{accuracy, macro_f1}, each {value, low, high}, over the seeds' guesses."""
    shown = [_shown(task, one) for one in guesses]
    f1 = macro_f1(shown[0][0], [guessed for _, guessed in shown], len(task.labels) + 1)
    return {"accuracy": accuracy(_right(task, guesses)).to_dict(), "macro_f1": f1.to_dict()}


def _right(task: Task, guesses: Sequence[Labels]) -> np.ndarray:
    return np.stack([one == task.truth for one in guesses]).astype(np.float64)


def _shown(task: Task, guessed: Labels) -> tuple[Labels, Labels]:
    """Truth and guesses with one label more, for those that training does not know."""
    return np.where(task.truth < 0, len(task.labels), task.truth), guessed

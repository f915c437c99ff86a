"""What arms may be compared by: bits per byte, or a measure of a task, by the name that a claim gives it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from lilliput.errors import ConfigError, nearest

BITS = "bits_per_byte"
# The measures of a task, by their names in its result, and in words.
MEASURES = {
    "acc": "accuracy",
    "acc_norm": "accuracy by bytes",
    "perplexity": "perplexity",
    "rouge1": "ROUGE-1",
    "rouge2": "ROUGE-2",
    "rougeL": "ROUGE-L",
}


@dataclass(frozen=True)
class Metric:
    """A measure of a task; task None: bits per byte."""

    task: str | None
    measure: str

    @property
    def name(self) -> str:
        """As claims and `--json` name it; a task's own name stands for its accuracy."""
        if self.task is None:
            return BITS
        return self.task if self.measure == "acc" else f"{self.task}.{self.measure}"

    @property
    def words(self) -> str:
        """For a sentence or the head of a column."""
        return MEASURES.get(self.measure, "bits per byte")

    @property
    def unit(self) -> tuple[float, str]:
        """What a difference is shown in: how many to one of ours, and their name."""
        if self.task is None:
            return 1.0, "bits per byte"
        return (1.0, "nats a word") if self.measure == "perplexity" else (100.0, "points")

    def difference(self, value: float, *, sign: bool = True) -> str:
        """A difference as text, without its unit."""
        shown = self.unit[0] * value
        digits = 2 if self.unit[0] == 100 else 4
        return f"{shown:+.{digits}f}" if sign else f"{shown:g}"


def metric_of(name: str, tasks: Sequence[str]) -> Metric | None:
    """The metric that `name` stands for; None where it is none of a study with these tasks."""
    if name == BITS:
        return Metric(None, BITS)
    if name in tasks:
        return Metric(name, "acc")
    task, _, measure = name.rpartition(".")
    return Metric(task, measure) if task in tasks and measure in MEASURES else None


def check_metric(name: str, tasks: Sequence[str], where: str) -> None:
    """ConfigError that names the nearest unless `name` is a metric of a study with these tasks."""
    if metric_of(name, tasks) is not None:
        return
    known = [BITS, *tasks, *(f"{task}.{measure}" for task in tasks for measure in MEASURES if measure != "acc")]
    close = nearest(name, known)
    mend = f"did you mean {close}?" if close else f"name bits_per_byte or a task under `tasks:`, {', '.join(known)}"
    raise ConfigError(f"no metric called {name!r}", where=where, mend=mend)

"""What arms may be compared by: bits per byte, or a measure of a task, by the name that a claim gives it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from lilliput.errors import ConfigError, nearest

BITS = "bits_per_byte"
# The measures of a task, by their names in its result.
MEASURES = ("acc", "acc_norm", "perplexity", "score")


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
    known = [BITS, *tasks, *(f"{task}.{measure}" for task in tasks for measure in MEASURES[1:])]
    close = nearest(name, known)
    mend = f"did you mean {close}?" if close else f"name bits_per_byte or a task under `tasks:`, {', '.join(known)}"
    raise ConfigError(f"no metric called {name!r}", where=where, mend=mend)

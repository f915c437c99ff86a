"""What arms may be compared by, by the name that a claim gives it: the loss on held-out text (bits per byte; of
encoders nats a masked token), or a measure of a task."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from lilliput.errors import ConfigError, nearest

BITS, MASKED = "bits_per_byte", "masked_loss"
# The losses, in words and by their unit.
_LOSSES = {BITS: ("bits per byte", "bits per byte"), MASKED: ("masked loss", "nats a masked token")}
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
    """A measure of a task; task None: a loss."""

    task: str | None
    measure: str

    @property
    def name(self) -> str:
        """As claims and `--json` name it; a task's own name stands for its accuracy."""
        if self.task is None:
            return self.measure
        return self.task if self.measure == "acc" else f"{self.task}.{self.measure}"

    @property
    def words(self) -> str:
        """For a sentence or the head of a column."""
        return _LOSSES[self.measure][0] if self.task is None else MEASURES[self.measure]

    @property
    def lower(self) -> bool:
        """Whether less is better."""
        return self.task is None or self.measure == "perplexity"

    @property
    def unit(self) -> tuple[float, str]:
        """What a difference is shown in: how many to one of ours, and their name."""
        if self.task is None:
            return 1.0, _LOSSES[self.measure][1]
        return (1.0, "nats a word") if self.measure == "perplexity" else (100.0, "points")

    def difference(self, value: float, *, sign: bool = True) -> str:
        """A difference as text, without its unit."""
        shown = self.unit[0] * value
        digits = 2 if self.unit[0] == 100 else 4
        return f"{shown:+.{digits}f}" if sign else f"{shown:g}"


def metric_of(name: str, tasks: Sequence[str]) -> Metric | None:
    """The metric that `name` stands for; None where it is none of a study with these tasks."""
    if name in _LOSSES:
        return Metric(None, name)
    if name in tasks:
        return Metric(name, "acc")
    task, _, measure = name.rpartition(".")
    return Metric(task, measure) if task in tasks and measure in MEASURES else None


def check_metric(name: str, tasks: Sequence[str], loss: str, where: str) -> None:
    """ConfigError that names the nearest unless `name` is a metric of a study with this loss and these tasks."""
    found = metric_of(name, tasks)
    if found is not None and (found.task is not None or name == loss):
        return
    known = [loss, *tasks, *(f"{task}.{measure}" for task in tasks for measure in MEASURES if measure != "acc")]
    close = nearest(name, known)
    mend = f"did you mean {close}?" if close else f"name {loss} or a task of the study, {', '.join(known)}"
    raise ConfigError(f"no metric called {name!r}", where=where, mend=mend)

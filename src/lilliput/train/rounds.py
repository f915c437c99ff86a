"""Several rounds of training (PanGu-π Pro, 2402.02791 §4.2): which steps are whose, and what each may read again.

The first round reads on in the corpus, as any run does. What it read is cut into parts, in the order read. A later
round draws units of each part (whole batches as they were read, or single windows) and reads those again, shuffled. All
of it is arithmetic on the settings and the step: nothing here is stored.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from lilliput.errors import ConfigError

if TYPE_CHECKING:
    from lilliput.train.config import TrainConfig

# Windows whose loss is followed from the first round's end to the run's: those of a tenth of the horizon, and of this
# many tokens at least.
_FOLLOWED_SHARE, _FOLLOWED_TOKENS = 0.1, 1 << 18


@dataclass(frozen=True)
class Rounds:
    """How a run is divided into rounds (see `RoundSettings` of the recipe)."""

    count: int
    rate: float
    parts: int
    weighting: str
    temperature: float
    unit: str

    @property
    def replays(self) -> bool:
        """Whether later rounds read again what the first one read."""
        return self.weighting != "fresh"

    @property
    def by_loss(self) -> bool:
        """Whether the draw asks for losses; at a rate of 1 all is drawn anyhow."""
        return self.weighting in ("loss", "top") and self.rate < 1

    def ends(self, steps: int) -> tuple[int, ...]:
        """The step after which each round ends; the last is `steps`.

        The first has steps / (1 + (count − 1) · rate), rounded up; the others share the rest evenly, so that none is
        longer than the first.
        """
        first = math.ceil(steps / (1 + (self.count - 1) * self.rate) - 1e-9)
        rest, later = steps - first, self.count - 1
        return tuple(first + rest * number // later for number in range(self.count))

    def of(self, step: int, steps: int) -> int:
        """The round (0 is the first) that update `step` (0 is the first) belongs to."""
        return sum(step >= end for end in self.ends(steps)[:-1])

    def check(self, steps: int, batch_sequences: int, windows: int) -> None:
        """ConfigError where there are no such rounds: steps of the run, windows in a batch and of the corpus."""
        ends = self.ends(steps)
        lengths = np.diff([0, *ends])
        if lengths.min() < 1:
            raise ConfigError(
                f"a run of {steps} steps is too short for {self.count} rounds at a rate of {self.rate:g}",
                where="rounds.count",
                mend="give a longer run, fewer rounds or a smaller train.batch_tokens",
            )
        named, unit = ("batches", batch_sequences) if self.unit == "batch" else ("windows", 1)
        drawn = int(lengths[1:].min()) * batch_sequences // unit
        if self.parts > drawn:
            raise ConfigError(
                f"a later round reads {drawn} {named}, not one of each of {self.parts} parts",
                where="rounds.parts",
                mend=f"give at most {max(1, drawn // 2)}, or a longer run",
            )
        read = ends[0] * batch_sequences
        if self.replays and math.ceil(read / self.parts) > windows:
            least = math.ceil(read / windows)
            raise ConfigError(
                f"a part of the first round holds more than the whole corpus ({read} windows in {self.parts} parts, "
                f"the corpus has {windows}): the same text would stand in it twice",
                where="rounds.parts",
                mend=f"give at least {least}, more text or a shorter run",
            )


@dataclass(frozen=True)
class Plan:
    """The rounds of one run, in numbers. batch: windows a step."""

    rounds: Rounds
    steps: int
    batch: int
    context: int
    seed: int

    @classmethod
    def of(cls, config: TrainConfig) -> Plan | None:
        """None for a run without rounds."""
        if config.rounds is None:
            return None
        return cls(config.rounds, config.steps, config.batch_sequences, config.context, config.seed)

    @property
    def ends(self) -> tuple[int, ...]:
        """As `Rounds.ends`."""
        return self.rounds.ends(self.steps)

    @property
    def unit(self) -> int:
        """Windows in a unit."""
        return self.batch if self.rounds.unit == "batch" else 1

    @property
    def units(self) -> int:
        """Units in the first round."""
        return self.ends[0] * self.batch // self.unit

    @property
    def parts(self) -> NDArray[np.int64]:
        """Where each part begins, in units, and where the last one ends: int64 (parts + 1,)."""
        return np.arange(self.rounds.parts + 1, dtype=np.int64) * self.units // self.rounds.parts

    def quotas(self, number: int) -> NDArray[np.int64]:
        """How many units round `number` (1 is the second) draws of each part, int64 (parts,): at most all."""
        ends = self.ends
        wanted = (ends[number] - ends[number - 1]) * self.batch // self.unit
        edges = self.parts
        # Rounded sums, so that they add up; in whole numbers, so that no machine rounds otherwise.
        return np.diff((2 * wanted * edges + self.units) // (2 * self.units))

    def followed(self) -> NDArray[np.int64]:
        """Places in the first round's reading of the windows whose loss is followed, evenly spread: int64, rising."""
        read = self.ends[0] * self.batch
        wanted = max(_FOLLOWED_SHARE * self.steps * self.batch, _FOLLOWED_TOKENS / self.context, self.rounds.parts)
        if wanted >= read:
            return np.arange(read, dtype=np.int64)
        return np.floor((np.arange(int(wanted)) + 0.5) * read / int(wanted)).astype(np.int64)

    def part_of(self, places: NDArray[np.int64]) -> NDArray[np.int64]:
        """The part (0 is the first) that each place in the first round's reading belongs to."""
        return np.searchsorted(self.parts, places // self.unit, side="right") - 1

    def reads(self, number: int) -> str:
        """What round `number` (0 is the first) reads, for people."""
        rounds = self.rounds
        if number == 0 or not rounds.replays:
            return "tokens of the corpus" + (", read on" if number else "")
        units = int(self.quotas(number).sum())
        named = "batches" if rounds.unit == "batch" else "windows"
        how = {
            "loss": f"drawn by loss (softmax at temperature {rounds.temperature:g})",
            "uniform": "drawn evenly",
            "top": "those with the highest loss",
        }[rounds.weighting if rounds.rate < 1 else "uniform"]
        return f"tokens read again: {units} of {self.units} {named}, {how} within {rounds.parts} parts"

    def scored(self, number: int, windows: int) -> int:
        """Windows that are scored before round `number` (1 is the second), each once, of a corpus of so many."""
        if self.rounds.by_loss:
            return min(windows, self.ends[0] * self.batch)
        return min(windows, len(self.followed())) if number == 1 else 0



def first_reading(config: TrainConfig) -> TrainConfig:
    """A run over all the windows that `config` reads, each once: later rounds read those of the first again."""
    plan = Plan.of(config)
    if plan is None or not plan.rounds.replays:
        return config
    return replace(config, steps=plan.ends[0], rounds=None)

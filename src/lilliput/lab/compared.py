"""All arms by one metric: the level of each, its gain over another, the verdict on what was claimed."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Any

from lilliput.errors import ConfigError
from lilliput.evaluate.measured import Measured
from lilliput.evaluate.statistics import (
    ArmSummary,
    Effect,
    SeedVariance,
    compare,
    judge,
    pooled_seed_variance,
    summarise,
)
from lilliput.lab.spec import Claim


def way(part: float, versus: str, to: str) -> str:
    """What an arm is held against that shall make up a part of a difference."""
    return f"{100 * part:g} % of the way from {versus} to {to}"


class Compared:
    """cells: what each (arm, seed) reached by the metric."""

    def __init__(self, cells: Mapping[tuple[str, int], Measured]) -> None:
        self.cells = cells

    @cached_property
    def variance(self) -> SeedVariance:
        """s²_seed, pooled over the arms."""
        return pooled_seed_variance({key: cell.value for key, cell in self.cells.items()})

    @cached_property
    def levels(self) -> dict[str, ArmSummary]:
        return summarise(self.cells) if self.cells else {}

    @property
    def seed_sd(self) -> float | None:
        """Spread of one run beside its arm's and its seed's own effect; None where no arm was repeated."""
        return None if self.variance.dof == 0 else (self.variance.value / 2) ** 0.5

    def effect(self, arm: str, baseline: str) -> Effect:
        """As `compare`, the noise of all arms known."""
        return compare(self.cells, arm, baseline, variance=self.variance)

    def _effect(self, arm: str, versus: str, to: str, part: float) -> Effect:
        """The gain over what lies `part` of the way from one arm to another, item by item, seed by seed. Its noise is
        taken for that of an arm, though it is less: the interval is too wide rather than too narrow."""
        name = way(part, versus, to)
        between = {
            (name, seed): cell.blended(self.cells[to, seed], part)
            for (own, seed), cell in self.cells.items()
            if own == versus and (to, seed) in self.cells
        }
        return compare({**self.cells, **between}, arm, name, variance=self.variance)

    def row(self, arm: str, baseline: str) -> dict[str, Any]:
        """An arm's level and its gain; no gain for the baseline itself, nor where the two cannot be compared."""
        gain = None
        if arm != baseline:
            try:
                gain = self.effect(arm, baseline).to_dict()
            except ConfigError:
                gain = None  # no shared seed yet, or other items: there is no gain to show
        return self.levels[arm].to_dict() | {"gain": gain}

    def judge(self, claim: Claim, arm: str, versus: str, to: str | None = None) -> dict[str, Any]:
        """The verdict on a claim, the effect it follows from, and where there is none, why. to: the arm that the claim
        names so."""
        try:
            effect = self.effect(arm, versus) if to is None else self._effect(arm, versus, to, claim.part or 0.0)
        except ConfigError as error:
            return {"verdict": "not measured", "why": error.message, "effect": None}
        return {"verdict": judge(claim.kind, effect, claim.delta), "why": "", "effect": effect.to_dict()}

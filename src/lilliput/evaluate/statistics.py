"""Intervals and verdicts: everything Lilliput says about chance is computed here.

Conventions, used everywhere:

* A **gain** is positive where the arm is better: `baseline − arm` where less is better, as with bits per byte,
  `arm − baseline` where more is, as with an accuracy.
* What is resampled are documents, or the items of a task (resampling.py).
* An arm is measured with several seeds on the same items; the same seed shares its initialisation and its data
  order between arms, so comparisons are paired twice: by seed and by item.

`t_quantile`, hence `compare`, needs SciPy (the extra `lab`); the rest NumPy only.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np

from lilliput.errors import ConfigError, MissingExtra
from lilliput.evaluate.measured import Measured
from lilliput.evaluate.resampling import CONFIDENCE, Array

Kind = Literal["superiority", "non-inferiority", "equivalence"]
Verdict = Literal["supported", "not supported", "inconclusive"]
Outcome = Literal["better", "worse", "no difference shown"]
KINDS: tuple[Kind, ...] = ("superiority", "non-inferiority", "equivalence")

Cells = Mapping[tuple[str, int], Measured]  # (arm, seed) → what it reached, all by one metric


def t_quantile(probability: float, dof: float) -> float:
    """Quantile of Student's t; raises MissingExtra without SciPy."""
    try:
        from scipy import special
    except ImportError:
        raise MissingExtra("scipy", "lab") from None
    return float(special.stdtrit(dof, probability))


@dataclass(frozen=True)
class SeedVariance:
    """Variance over seeds of one paired difference between two arms, and its degrees of freedom."""

    value: float
    dof: int


def pooled_seed_variance(values: Mapping[tuple[str, int], float]) -> SeedVariance:
    """s²_seed: how much a paired difference between two arms varies from seed to seed, pooled over all arms.

    values: the figure by (arm, seed). The additive model `value = arm + seed + noise` is fitted by least
    squares; a paired difference has twice the variance of the noise. With two arms this is exactly the
    variance of their differences with n − 1 degrees of freedom; with A arms over the same n seeds it has
    (A − 1)(n − 1), and cells may be missing. Source: randomised complete blocks (Montgomery, Design and
    Analysis of Experiments, §4.1), which is what "the same seed shares initialisation and data order" makes.
    """
    if not len(values):
        return SeedVariance(math.nan, 0)
    design, measured, _ = _additive(values)
    dof = len(values) - int(np.linalg.matrix_rank(design))
    if dof < 1:
        return SeedVariance(math.nan, 0)
    fitted = design @ np.linalg.lstsq(design, measured, rcond=None)[0]
    return SeedVariance(2 * float(((measured - fitted) ** 2).sum()) / dof, dof)


def _additive(values: Mapping[tuple[str, int], float]) -> tuple[Array, Array, list[str]]:
    """Design, measurements and arms of `value = arm + seed + noise`: a column an arm, then a column a seed."""
    arms = sorted({arm for arm, _ in values})
    seeds = sorted({seed for _, seed in values})
    design = np.zeros((len(values), len(arms) + len(seeds)))
    for row, (arm, seed) in enumerate(values):
        design[row, arms.index(arm)] = 1
        design[row, len(arms) + seeds.index(seed)] = 1
    return design, np.array(list(values.values()), np.float64), arms


def arm_levels(values: Mapping[tuple[str, int], float]) -> dict[str, float]:
    """What each arm would have at the average seed, where some arms have more seeds than others.

    values: by (arm, seed). The arm's effect in the additive model of `pooled_seed_variance`; with the same seeds
    for all it is the arm's mean. Without this an arm that has only an easy seed would look better than it is.
    Where no chain of shared seeds links all arms, seeds cannot be told from arms: then it is the arm's mean.
    """
    if not len(values):
        return {}
    design, measured, arms = _additive(values)
    if np.linalg.matrix_rank(design) < design.shape[1] - 1:
        return {arm: float(measured[design[:, index] > 0].mean()) for index, arm in enumerate(arms)}
    effects = np.linalg.lstsq(design, measured, rcond=None)[0]
    average_seed = effects[len(arms) :].mean()
    return {arm: float(effects[index] + average_seed) for index, arm in enumerate(arms)}


@dataclass(frozen=True)
class Effect:
    """A paired comparison. gain: positive where the arm is better, in bits per byte or the task's measure.

    low, high: 95 % interval. seeds: how many are shared by both arms. se_seed = √(s²_seed / n), NaN when no
    arm of the study was repeated: then the interval covers the choice of documents (or items) only.
    """

    arm: str
    baseline: str
    gain: float
    low: float
    high: float
    seeds: int
    se: float
    se_seed: float
    se_documents: float
    dof: int

    @property
    def outcome(self) -> Outcome:
        """What the interval says of the arm beside the baseline."""
        return "better" if self.low > 0 else "worse" if self.high < 0 else "no difference shown"

    def to_dict(self) -> dict[str, Any]:
        return _plain(asdict(self)) | {"outcome": self.outcome}


def _plain(values: Mapping[str, Any]) -> dict[str, Any]:
    """JSON has no NaN: null stands for what could not be estimated."""
    return {
        key: None if isinstance(value, float) and not math.isfinite(value) else value for key, value in values.items()
    }


def compare(
    cells: Cells,
    arm: str,
    baseline: str,
    *,
    variance: SeedVariance | None = None,
    confidence: float = CONFIDENCE,
) -> Effect:
    """The gain of `arm` over `baseline` on the seeds both have, with its interval (docs/evaluate.md).

    gain = mean over seeds of the paired difference on the same documents or items;
    SE² = s²_seed / n + SE²_documents, with the t quantile of the pooled degrees of freedom.
    variance: s²_seed if known; by default pooled over all arms in `cells`.
    Raises ConfigError if the arms share no seed or were not measured on the same documents.
    """
    shared = sorted({s for a, s in cells if a == arm} & {s for a, s in cells if a == baseline})
    if not shared:
        raise ConfigError(f"{arm} and {baseline} share no finished seed", mend="run both arms with the same seeds")
    ours, theirs = [cells[arm, s] for s in shared], [cells[baseline, s] for s in shared]
    first = ours[0]
    if not all(first.same_items(cell) for cell in (*ours, *theirs)):
        raise ConfigError(
            f"{arm} and {baseline} were not measured on the same documents",
            mend="give the study `evaluate:` texts, so that every arm is measured on those",
        )
    pairs = [a.results - b.results for a, b in zip(ours, theirs, strict=True)]
    difference: Array = first.sign * np.mean(pairs, axis=0)
    gain = first.mean(difference)
    if variance is None:
        variance = pooled_seed_variance({key: cell.value for key, cell in cells.items()})
    se_documents = first.error(difference)
    se_seed = math.sqrt(variance.value / len(shared)) if variance.dof else math.nan
    se = math.sqrt((se_seed**2 if variance.dof else 0.0) + se_documents**2)
    half = se * t_quantile((1 + confidence) / 2, variance.dof if variance.dof else math.inf)
    return Effect(
        arm, baseline, gain, gain - half, gain + half, len(shared), se, se_seed, se_documents, variance.dof
    )


def judge(kind: Kind, effect: Effect, delta: float) -> Verdict:
    """The verdict on a claim declared before the runs (docs/evaluate.md).

    superiority: gain > δ; non-inferiority: gain > −δ; equivalence: |gain| < δ. Supported if the interval lies
    wholly inside the claim, not supported if wholly outside, else inconclusive. One seed, or a study in which
    nothing was repeated, never gives a verdict in favour.
    """
    within, outside = _RULES[kind](effect.low, effect.high, delta)
    if effect.dof == 0:
        return "inconclusive"
    if outside:
        return "not supported"
    return "supported" if within and effect.seeds > 1 else "inconclusive"


_RULES: dict[Kind, Callable[[float, float, float], tuple[bool, bool]]] = {
    "superiority": lambda low, high, delta: (low > delta, high <= delta),
    "non-inferiority": lambda low, high, delta: (low > -delta, high <= -delta),
    "equivalence": lambda low, high, delta: (-delta < low and high < delta, low >= delta or high <= -delta),
}


@dataclass(frozen=True)
class ArmSummary:
    """Mean of an arm over its seeds; where arms have different seeds, at equal ones (`arm_levels`).

    sd: spread of the arm's own seeds (NaN with one). low, high: 95 % interval of the arm's own level, from
    the spread over seeds (pooled over all arms) and the choice of documents. Two arms are compared by
    `compare`, never by whether these intervals overlap: most of each is shared.
    """

    arm: str
    mean: float
    low: float
    high: float
    seeds: int
    sd: float

    def to_dict(self) -> dict[str, Any]:
        return _plain(asdict(self))


def summarise(cells: Cells, *, confidence: float = CONFIDENCE) -> dict[str, ArmSummary]:
    """Mean, spread over seeds and interval of every arm."""
    arms: dict[str, list[Measured]] = {}
    for (arm, _), cell in sorted(cells.items()):
        arms.setdefault(arm, []).append(cell)
    values = {arm: np.array([cell.value for cell in own]) for arm, own in arms.items()}
    dof = sum(len(own) - 1 for own in values.values())
    squares = sum(float(((own - own.mean()) ** 2).sum()) for own in values.values())
    quantile = t_quantile((1 + confidence) / 2, dof if dof else math.inf)
    levels = arm_levels({key: cell.value for key, cell in cells.items()})
    summaries = {}
    for arm, own in arms.items():
        same = all(own[0].same_items(cell) for cell in own)
        results: Array = np.mean([cell.results for cell in own], axis=0) if same else own[0].results
        se_seed = math.sqrt(squares / dof / len(own)) if dof else 0.0
        half = quantile * math.hypot(se_seed, own[0].error(results))
        mean = levels[arm]
        sd = float(values[arm].std(ddof=1)) if len(own) > 1 else math.nan
        summaries[arm] = ArmSummary(arm, mean, mean - half, mean + half, len(own), sd)
    return summaries

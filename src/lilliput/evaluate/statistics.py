"""Intervals and verdicts: everything Lilliput says about chance is computed here.

Conventions, used everywhere:

* Bits per byte is better when lower. A **gain** is `baseline − arm`: positive means that the arm is better.
* Documents are the unit of resampling. A value is a ratio, Σ nats / Σ bytes (/ ln 2), so a resample draws
  whole documents and takes the ratio of the sums, never the mean of the ratios.
* An arm is measured with several seeds on the same documents; the same seed shares its initialisation and
  its data order between arms, so comparisons are paired twice: by seed and by document.

The core needs NumPy only. `t_quantile`, hence `compare`, needs SciPy (the extra `lab`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from lilliput.errors import ConfigError, MissingExtra

Array = npt.NDArray[np.float64]
Kind = Literal["superiority", "non-inferiority", "equivalence"]
Verdict = Literal["supported", "not supported", "inconclusive"]
KINDS: tuple[Kind, ...] = ("superiority", "non-inferiority", "equivalence")

LN2 = math.log(2.0)
RESAMPLES = 2000
CONFIDENCE = 0.95
# Indices drawn at once: bounds the memory of a bootstrap whatever the number of documents (8 bytes each).
_DRAWN_AT_ONCE = 2_000_000


def resample_ratios(
    numerators: npt.ArrayLike, denominators: npt.ArrayLike, *, resamples: int = RESAMPLES, seed: int = 0
) -> Array:
    """Ratio of the sums over the documents, for each of `resamples` draws of them with replacement.

    Both arrays have shape (documents,), the result (resamples,). A draw without a byte gives NaN, which the
    callers leave out.
    Source: Efron & Tibshirani, An Introduction to the Bootstrap, §6 (the plug-in ratio estimator).
    """
    top, bottom = np.asarray(numerators, np.float64), np.asarray(denominators, np.float64)
    count = len(top)
    rng = np.random.Generator(np.random.PCG64(seed))
    at_once = max(1, _DRAWN_AT_ONCE // max(count, 1))
    ratios = np.empty(resamples)
    for begin in range(0, resamples, at_once):
        rows = min(at_once, resamples - begin)
        drawn = rng.integers(0, count, size=(rows, count))
        with np.errstate(invalid="ignore", divide="ignore"):
            ratios[begin : begin + rows] = top[drawn].sum(1) / bottom[drawn].sum(1)
    return ratios


def document_interval(
    nats: npt.ArrayLike,
    sizes: npt.ArrayLike,
    *,
    confidence: float = CONFIDENCE,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> tuple[float, float]:
    """Percentile interval of bits per byte over the documents; (NaN, NaN) for fewer than two documents.

    nats: per document, in nats. sizes: UTF-8 bytes per document.
    """
    if np.asarray(nats).size < 2 or np.asarray(sizes).sum() <= 0:
        return math.nan, math.nan
    ratios = resample_ratios(nats, sizes, resamples=resamples, seed=seed) / LN2
    tail = (1 - confidence) / 2
    low, high = np.nanquantile(ratios, [tail, 1 - tail])
    return float(low), float(high)


def document_error(nats: npt.ArrayLike, sizes: npt.ArrayLike, *, seed: int = 0) -> float:
    """Standard error of bits per byte over the documents (bootstrap); 0 for fewer than two documents.

    `nats` may be differences of nats between two arms on the same documents: then this is SE_documents of
    the paired comparison.
    """
    if np.asarray(nats).size < 2 or np.asarray(sizes).sum() <= 0:
        return 0.0
    return float(np.nanstd(resample_ratios(nats, sizes, seed=seed), ddof=1) / LN2)


def t_quantile(probability: float, dof: float) -> float:
    """Quantile of Student's t; raises MissingExtra without SciPy."""
    try:
        from scipy import special
    except ImportError:
        raise MissingExtra("scipy", "lab") from None
    return float(special.stdtrit(dof, probability))


@dataclass(frozen=True)
class Scores:
    """One finished cell (arm × seed). nats, sizes: per document, shape (documents,); sizes in UTF-8 bytes.

    text: identifies the documents; only scores of the same text are compared.
    """

    nats: Array
    sizes: Array
    text: str = ""

    def same_documents(self, other: Scores) -> bool:
        return self.text == other.text and np.array_equal(self.sizes, other.sizes)

    @property
    def bits_per_byte(self) -> float:
        return float(self.nats.sum() / self.sizes.sum() / LN2)


Cells = Mapping[tuple[str, int], Scores]  # (arm, seed) → scores


@dataclass(frozen=True)
class SeedVariance:
    """Variance over seeds of one paired difference between two arms, and its degrees of freedom."""

    value: float
    dof: int


def pooled_seed_variance(values: Mapping[tuple[str, int], float]) -> SeedVariance:
    """s²_seed: how much a paired difference between two arms varies from seed to seed, pooled over all arms.

    values: bits per byte by (arm, seed). The additive model `value = arm + seed + noise` is fitted by least
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
    """A paired comparison: gain = baseline − arm in bits per byte (positive: the arm is better).

    low, high: 95 % interval. seeds: how many are shared by both arms. se_seed = √(s²_seed / n), NaN when no
    arm of the study was repeated: then the interval covers the choice of documents only.
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

    def to_dict(self) -> dict[str, Any]:
        return {key: _number(value) for key, value in asdict(self).items()}


def _number(value: Any) -> Any:
    """JSON has no NaN: null stands for what could not be estimated."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


def compare(
    cells: Cells,
    arm: str,
    baseline: str,
    *,
    variance: SeedVariance | None = None,
    confidence: float = CONFIDENCE,
) -> Effect:
    """The gain of `arm` over `baseline` on the seeds both have, with its interval (docs/evaluate.md).

    gain = mean over seeds of the paired difference on the same documents;
    SE² = s²_seed / n + SE²_documents, with the t quantile of the pooled degrees of freedom.
    variance: s²_seed if known; by default pooled over all arms in `cells`.
    Raises ConfigError if the arms share no seed or were not measured on the same documents.
    """
    shared = sorted({s for a, s in cells if a == arm} & {s for a, s in cells if a == baseline})
    if not shared:
        raise ConfigError(
            f"{arm} and {baseline} share no finished seed", mend="run both arms with the same seeds"
        )
    ours, theirs = [cells[arm, s] for s in shared], [cells[baseline, s] for s in shared]
    sizes = ours[0].sizes
    if not all(ours[0].same_documents(cell) for cell in (*ours, *theirs)):
        raise ConfigError(
            f"{arm} and {baseline} were not measured on the same documents",
            mend="give the study `evaluate:` texts, so that every arm is measured on those",
        )
    difference = np.mean([b.nats - a.nats for a, b in zip(ours, theirs, strict=True)], axis=0)
    gain = float(difference.sum() / sizes.sum() / LN2)
    if variance is None:
        variance = pooled_seed_variance({key: cell.bits_per_byte for key, cell in cells.items()})
    se_documents = document_error(difference, sizes)
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
    """Mean bits per byte of an arm over its seeds; where arms have different seeds, at equal ones (`arm_levels`).

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
        return {key: _number(value) for key, value in asdict(self).items()}


def summarise(cells: Cells, *, confidence: float = CONFIDENCE) -> dict[str, ArmSummary]:
    """Mean, spread over seeds and interval of every arm."""
    arms: dict[str, list[Scores]] = {}
    for (arm, _), cell in sorted(cells.items()):
        arms.setdefault(arm, []).append(cell)
    values = {arm: np.array([cell.bits_per_byte for cell in own]) for arm, own in arms.items()}
    dof = sum(len(own) - 1 for own in values.values())
    squares = sum(float(((own - own.mean()) ** 2).sum()) for own in values.values())
    quantile = t_quantile((1 + confidence) / 2, dof if dof else math.inf)
    levels = arm_levels({key: cell.bits_per_byte for key, cell in cells.items()})
    summaries = {}
    for arm, own in arms.items():
        same = all(own[0].same_documents(cell) for cell in own)
        nats = np.mean([cell.nats for cell in own], axis=0) if same else own[0].nats
        se_seed = math.sqrt(squares / dof / len(own)) if dof else 0.0
        half = quantile * math.hypot(se_seed, document_error(nats, own[0].sizes))
        mean = levels[arm]
        sd = float(values[arm].std(ddof=1)) if len(own) > 1 else math.nan
        summaries[arm] = ArmSummary(arm, mean, mean - half, mean + half, len(own), sd)
    return summaries

"""How well does the planner's prior predict shapes that it has not seen?

    python bench/plan_prior.py [--study depth] [--left-out 3x136 6x104 12x72 20x56] [--out results/plan_prior.json]

The runs of the named arms are left out, the prior is fitted from all others under results/, and the bits per byte of
each arm are predicted from the level of the rest of its study. Beside it stands what knowing no shape would say: the
mean of the rest. The four arms were named before any of them was measured.
"""

from __future__ import annotations

import argparse
import math
import sys
from pathlib import Path
from typing import Any

import numpy as np

from lilliput.device import machine, versions
from lilliput.plan.evidence import Run, collect
from lilliput.plan.prior import Prior, fit
from lilliput.store import write_json

ROOT = Path(__file__).resolve().parents[1]
LEFT_OUT = ("3x136", "6x104", "12x72", "20x56")


def level(prior: Prior, kept: list[Run]) -> float:
    """What the runs kept reach beside what their shapes explain: the mean of the gaps, in ln bits per byte."""
    return float(np.mean([math.log(run.bits_per_byte) - prior.loss(run.shape) for run in kept]))


def predict(runs: list[Run], study: str, arms: list[str]) -> dict[str, Any]:
    """Measured and predicted bits per byte of the arms left out, and the errors in per cent."""
    left = [run for run in runs if run.study == study and run.arm in arms]
    groups = {run.group for run in left}
    shapes = {run.shape for run in left}
    # The same shape may have been measured in other studies, too: all of that is unseen.
    kept = [run for run in runs if run.shape not in shapes]
    beside = [run for run in kept if run.group in groups]
    prior = fit(kept)
    base, mean = level(prior, beside), float(np.mean([math.log(run.bits_per_byte) for run in beside]))
    anchor = min(beside, key=lambda run: run.bits_per_byte).shape
    rows = []
    for arm in arms:
        mine = [run for run in left if run.arm == arm]
        measured = float(np.mean([math.log(run.bits_per_byte) for run in mine]))
        expected = base + prior.loss(mine[0].shape)
        deviation = math.hypot(prior.compare(mine[0].shape, anchor)[1], prior.noise)
        rows.append({
            "arm": arm,
            "seeds": len(mine),
            "measured": math.exp(measured),
            "predicted": math.exp(expected),
            "low": math.exp(expected - 1.96 * deviation),
            "high": math.exp(expected + 1.96 * deviation),
            "error_percent": 100 * math.expm1(expected - measured),
            "error_of_the_mean_percent": 100 * math.expm1(mean - measured),
        })  # fmt: skip
    return {
        "left_out": rows,
        "rms_error_percent": _rms([row["error_percent"] for row in rows]),
        "rms_error_of_the_mean_percent": _rms([row["error_of_the_mean_percent"] for row in rows]),
        "inside_the_interval": sum(row["low"] <= row["measured"] <= row["high"] for row in rows),
        "fitted_from": len(kept),
    }


def _rms(values: list[float]) -> float:
    return math.sqrt(sum(value**2 for value in values) / len(values))


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=ROOT / "results")
    parser.add_argument("--study", default="depth")
    parser.add_argument("--left-out", nargs="+", default=list(LEFT_OUT), metavar="ARM")
    parser.add_argument("--out", type=Path, default=ROOT / "results" / "plan_prior.json")
    asked = parser.parse_args()
    runs = collect(asked.results)
    absent = sorted(set(asked.left_out) - {run.arm for run in runs if run.study == asked.study})
    if absent:
        sys.exit(f"{', '.join(absent)} of the study {asked.study} are not measured yet under {asked.results}")
    found = predict(runs, asked.study, asked.left_out)
    for row in found["left_out"]:
        said = f"measured {row['measured']:.4f}  predicted {row['predicted']:.4f}  {row['error_percent']:+.2f} %"
        print(f"{row['arm']:>8}  {said}")
    print(f"rms {found['rms_error_percent']:.2f} %, of the mean {found['rms_error_of_the_mean_percent']:.2f} %")
    command = f"python bench/plan_prior.py --study {asked.study} --left-out {' '.join(asked.left_out)}"
    write_json(asked.out, {"command": command, **found, "machine": machine(), "versions": versions()})


if __name__ == "__main__":
    main()

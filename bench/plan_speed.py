"""Decoding speed as predicted from a calibration, against the speed measured.

    python bench/plan_speed.py [--quick] [--fresh] [--out results/plan_speed.json]

Twenty shapes of 100k to 55M parameters: depth 2–24, width 32–1024, vocabulary 512–32,768, with and without shared
key-value heads, none of them a probe of the calibration; batch 1 for all, batch 20 for some. First the machine is
calibrated anew (plan/latency.py), then each shape is measured in a process of its own: random weights, 2 prefix tokens,
greedy, a warm-up, the median of three. Larger shapes write fewer new tokens, in prediction and measurement alike; small
ones, whose context is 256, outgrow it. Wants a machine that does nothing else; takes about five minutes.

A busy moment shows in runs that differ: such a row is measured again, up to twice while there is time, and the try
whose runs agree best stands; a calibration whose probes scatter is repeated once. Neither looks at the prediction.

Beside them: the seconds of training that the same calibration predicts for the project's finished runs on a machine
like this one (results/*/cells), and what they took.

Every row is written as soon as it is measured: called again with the same --out, the bench goes on with the calibration
it began with. --fresh begins anew. --quick: five small shapes, few tokens, one run, for trying the bench itself.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import statistics
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from lilliput.device import machine, threads, versions
from lilliput.evaluate.speed import Speed, speed_of_shape
from lilliput.model import ModelConfig
from lilliput.plan import calibration as timing
from lilliput.plan.calibration import calibrate
from lilliput.plan.latency import PRICES, Calibration
from lilliput.store import Store, write_json

# Depth, width, heads, key-value heads, FFN, vocabulary; whether batch 20 is measured too.
SHAPES = (
    (3, 32, 2, 2, 96, 2048, False),
    (24, 32, 2, 1, 64, 512, True),
    (2, 32, 2, 2, 88, 32_768, False),
    (8, 64, 4, 4, 176, 1024, True),
    (12, 64, 2, 1, 192, 4096, False),
    (5, 96, 3, 3, 256, 2048, False),
    (3, 128, 4, 4, 352, 8192, True),
    (10, 128, 4, 2, 384, 2048, True),
    (20, 128, 8, 8, 320, 1024, False),
    (6, 192, 6, 6, 512, 4096, False),
    (4, 256, 8, 2, 704, 16_384, True),
    (8, 256, 4, 4, 704, 4096, True),
    (16, 256, 8, 8, 640, 2048, False),
    (24, 256, 4, 2, 704, 8192, False),
    (7, 320, 10, 5, 768, 6144, True),
    (12, 384, 6, 6, 1024, 8192, False),
    (6, 512, 8, 8, 1408, 16_384, False),
    (16, 512, 8, 2, 1408, 8192, False),
    (4, 768, 12, 4, 2048, 32_000, False),
    (4, 1024, 16, 8, 2752, 8192, False),
)
QUICK = 5
PREFIX = 2
RESULTS = Path(__file__).resolve().parents[1] / "results"
NAMES = ("vocab_size", "depth", "width", "heads", "kv_heads", "head_dim", "ffn", "bos_id", "eos_id", "tied", "context")
# A row whose slowest run takes so much of its fastest is measured again, so many times in all, within so many seconds.
SCATTER, TRIES, PATIENCE = 1.15, 3, 300
# New tokens by parameters, so that a run takes about a second.
NEW = ((3_000_000, 510), (15_000_000, 200), (10**12, 80))


def shape_of(row: tuple[int, ...]) -> ModelConfig:
    """The shape, with the context usual at its size."""
    depth, width, heads, kv_heads, ffn, vocab = row[:6]
    sizes: dict[str, Any] = {"depth": depth, "width": width, "heads": heads, "kv_heads": kv_heads, "ffn": ffn}
    sizes["vocab_size"] = vocab
    small = ModelConfig(**sizes, head_dim=width // heads, bos_id=0, eos_id=0, context=256)
    if small.parameters() < 3_000_000:
        return small
    return ModelConfig(**sizes, head_dim=width // heads, bos_id=0, eos_id=0, context=512)


def jobs(quick: bool) -> list[dict[str, Any]]:
    """What is measured: shape, batch, new tokens."""
    found = []
    for row in SHAPES[:QUICK] if quick else SHAPES:
        shape = shape_of(row)
        new = 40 if quick else next(new for limit, new in NEW if shape.parameters() < limit)
        for batch in (1, 20) if row[6] else (1,):
            found.append({"shape": asdict(shape), "batch": batch, "new": new})
    return found


def measure(job: dict[str, Any], calibration: Calibration, quick: bool, until: float) -> dict[str, Any]:
    """Predicted and measured speed of one job. until: when to stop measuring again (time.monotonic)."""
    shape, batch, new = ModelConfig(**job["shape"]), job["batch"], job["new"]
    runs = {"warmups": 0 if quick else 1, "repeats": 1 if quick else 3}
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    tries: list[Speed] = []
    while not tries or (scatter(tries[-1]) > SCATTER and len(tries) < TRIES and time.monotonic() < until):
        how: dict[str, Any] = {"batch": batch, "prefix": PREFIX, "new": new, "threads": threads(), **runs}
        tries.append(speed_of_shape(shape, device="cpu", **how))
    found = min(tries, key=scatter)
    predicted = calibration.tokens_per_second(shape, batch=batch, prefix=PREFIX, new=new)
    return {
        **job,
        "parameters": shape.parameters(),
        "rewinds": found.rewinds,
        "predicted": round(predicted, 2),
        "measured": round(found.per_sequence, 2),
        "error": round(predicted / found.per_sequence - 1, 4),
        "runs": [round(seconds, 5) for seconds in found.runs],
        "tries": len(tries),
        "peak_mb": found.peak_mb,
        "load_before": load,
    }


def scatter(speed: Speed) -> float:
    """The slowest run over the fastest."""
    return max(speed.runs) / min(speed.runs)


def summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Errors of all rows and of each batch."""
    groups = {"all": rows, **{f"batch {size}": [row for row in rows if row["batch"] == size] for size in (1, 20)}}
    found = {}
    for name, members in groups.items():
        errors = sorted(abs(row["error"]) for row in members)
        if errors:
            found[name] = {
                "rows": len(errors),
                "median_error": round(statistics.median(errors), 4),
                "largest_error": errors[-1],
                "within_20_percent": sum(error <= 0.2 for error in errors),
                "median_signed_error": round(statistics.median(row["error"] for row in members), 4),
            }
    return found


def training(calibration: Calibration, here: dict[str, Any]) -> list[dict[str, Any]]:
    """Seconds of training as predicted, beside those of the project's runs on such a machine with all of its cores.

    Some were compiled, which the prediction knows nothing of; all of them also scored and saved on the way.
    """
    rows = []
    for file in sorted(RESULTS.glob("*/cells/*.json")):
        cell = json.loads(file.read_text(encoding="utf-8"))
        cost = cell.get("cost", {})
        if cell.get("machine") != here or cost.get("config", {}).get("threads") != threads():
            continue
        shape = ModelConfig(**{name: cell["shape"][name] for name in NAMES})
        predicted = calibration.train_seconds(shape, cost["tokens"], cost["config"]["micro_sequences"])
        rows.append({
            "run": f"{cell['study']} {file.stem}",
            "tokens": cost["tokens"],
            "compiled": cost["config"]["compile"],
            "predicted": round(predicted, 1),
            "measured": round(cost["seconds"], 1),
            "ratio": round(predicted / cost["seconds"], 3),
        })  # fmt: skip
    return rows


def begin(out: Path | None, fresh: bool, header: dict[str, Any]) -> dict[str, Any]:
    """The report to go on with: the one in `out` if it was made here in the same way, else a new one."""
    if out and out.is_file() and not fresh:
        report: dict[str, Any] = json.loads(out.read_text(encoding="utf-8"))
        same = all(report.get(name) == header[name] for name in ("machine", "versions", "protocol"))
        if same and set(report["calibration"]["prices"]) == set(PRICES):
            return report
    began = time.perf_counter()
    calibration = calibrate(Store(), torch.device("cpu"), threads(), renew=True)
    took = time.perf_counter() - began
    if calibration.fit_error > timing.SCATTER:
        began = time.perf_counter()
        again = calibrate(Store(), torch.device("cpu"), threads(), renew=True)
        took = time.perf_counter() - began
        calibration = min(calibration, again, key=lambda found: found.fit_error)
    return {**header, "calibration_seconds": round(took, 1), "calibration": calibration.to_dict(), "rows": []}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="five small shapes, for trying the bench")
    parser.add_argument("--fresh", action="store_true", help="measure everything again")
    parser.add_argument("--out", type=Path, help="write the results to this JSON file, row by row")
    asked = parser.parse_args()
    header = {
        "command": shlex.join(["python", *sys.argv]),
        "machine": machine(),
        "versions": versions(),
        "protocol": {"prefix": PREFIX, "new": "by size", "greedy": True, "dtype": "fp32", "quick": asked.quick},
    }
    until = time.monotonic() + PATIENCE
    report = begin(asked.out, asked.fresh, header)
    calibration = Calibration.from_dict(report["calibration"])
    print(f"calibrated in {report['calibration_seconds']} s, fit to {calibration.fit_error:.1%}", flush=True)
    report["training"] = training(calibration, header["machine"])
    for row in report["training"]:
        how = "compiled" if row["compiled"] else "not compiled"
        print(f"training {row['run']}: {row['measured']:.0f} s, {how}; predicted {row['predicted']:.0f} s, "
              f"{row['ratio'] - 1:+.1%}", flush=True)  # fmt: skip
    for job in jobs(asked.quick):
        if any(all(row[name] == job[name] for name in job) for row in report["rows"]):
            continue
        row = measure(job, calibration, asked.quick, until)
        report["rows"].append(row)
        report["summary"] = summary(report["rows"])
        shape = row["shape"]
        print(
            f"{row['parameters']:>11,}  {shape['depth']:2} x {shape['width']:<4}  vocabulary {shape['vocab_size']:<6}"
            f"  batch {row['batch']:<2}  measured {row['measured']:8.1f}  predicted {row['predicted']:8.1f}"
            f"  {row['error']:+6.1%}",
            flush=True,
        )
        if asked.out:
            write_json(asked.out, report)
    for name, values in report["summary"].items():
        print(f"{name}: median error {values['median_error']:.1%}, largest {values['largest_error']:.1%}, "
              f"{values['within_20_percent']} of {values['rows']} within 20 %")  # fmt: skip


if __name__ == "__main__":
    main()

"""The calibration of this machine: timed once, kept in the store, timed again where the machine was busy.

A timing on a busy machine is better than none, but only for the moment: it is kept as provisional and taken anew by
the next command that needs a speed and finds the machine quiet, at most twice.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lilliput.device import machine, pick_device, versions
from lilliput.device import threads as usual_threads
from lilliput.errors import StorageError
from lilliput.evaluate.speed import DTYPES
from lilliput.model.config import ModelConfig
from lilliput.plan.latency import ITEMSIZE, PRICES, Calibration, features, fit_prices, fit_training
from lilliput.plan.probes import Point, Probes, Step, decode_points, train_steps, usual_probes
from lilliput.plan.quiet import quiet
from lilliput.progress import Progress, say, warn_once
from lilliput.store import Store, canonical_hash, locked, read_json, write_json

# Raised when what is timed or fitted changes.
FORMAT = 2
# Median relative error of the fit from which on something else must have kept the machine busy: 4 % is usual.
SCATTER = 0.12
# A machine whose probes scatter every time is left as it is after so many.
_TAKES = 3
# Calibrations that this process has used: another timing in its midst would give one run two shapes.
_used: set[Path] = set()


def calibrate(
    store: Store,
    device: torch.device,
    threads: int,
    *,
    dtype: str = "fp32",
    renew: bool = False,
    probes: Probes | None = None,
) -> Calibration:
    """This machine's prices: found in the store, or measured in under 30 s and kept there.

    They belong to the machine, the device, the threads, the dtype, the probes and the versions of torch and Lilliput; a
    damaged file is measured anew, and so is a provisional one where the machine is quiet now, unless this process has
    used it. renew: measure again whatever is there. probes: what is timed, if not the usual.
    """
    probes = probes or usual_probes(device)
    key = _key(device, threads, dtype, probes)
    path = store.root / "calibrations" / f"{canonical_hash(key)[:24]}.json"
    found = _read(path, key)
    if found is None or renew or _worth_another(found, path, threads):
        with locked(path.with_suffix(".lock"), "the calibration"):
            # Another process may have timed the machine while this one waited.
            now = _read(path, key, quietly=True)
            if now is None or now == found:
                now = _take(now, renew, device, threads, dtype, probes)
                write_json(path, {"key": key, **now.to_dict()})
            found = now
    _used.add(path)
    return _vouched(found)


def rate_here() -> Callable[[ModelConfig], float]:
    """Predicted tokens a second of one text on this machine, for any shape."""
    found = calibrate(Store(), pick_device(), usual_threads())
    if found.provisional:
        warn_once("so budget.speed is kept only as far as that timing holds")
    return found.tokens_per_second


def _worth_another(found: Calibration, path: Path, threads: int) -> bool:
    again = found.provisional and path not in _used and int(found.about.get("takes", 1)) < _TAKES
    return again and quiet(threads)


def _take(
    before: Calibration | None, renew: bool, device: torch.device, threads: int, dtype: str, probes: Probes
) -> Calibration:
    """Time the machine, and say whether it was busy; a provisional one that fits better is kept, one take older."""
    if before and before.provisional and not renew:
        say("this machine was busy when it was timed; it is quiet now and timed again, about 20 s")
    else:
        say("timing this machine, about 20 s, once: the result is kept")
    busy = not quiet(threads)
    found = measure_machine(device, threads, dtype, probes)
    provisional = busy or found.fit_error > SCATTER
    takes = 1 + (int(before.about.get("takes", 1)) if before and not renew else 0)
    if before and not renew and provisional and before.fit_error < found.fit_error:
        found = before
    return replace(found, about={**found.about, "provisional": provisional, "takes": takes})


def _vouched(calibration: Calibration) -> Calibration:
    """`calibration`, with a warning where it is provisional."""
    if calibration.provisional:
        error, last = calibration.fit_error, int(calibration.about.get("takes", 1)) >= _TAKES
        when = "`lilliput plan --recalibrate`" if last else "the next command that finds it quiet"
        warn_once(
            f"this machine was busy when it was timed (its probes scatter by {error:.0%}): speeds and hours are "
            f"provisional; {when} times it again"
        )
    return calibration


def _key(device: torch.device, threads: int, dtype: str, probes: Probes) -> dict[str, Any]:
    # The cores that machine() counts are the threads asked for.
    here = {name: value for name, value in machine().items() if name in ("cpu", "gpu", "system", "memory_gb")}
    known = versions()
    return {
        "format": FORMAT,
        "machine": here,
        "device": device.type,
        "threads": threads,
        "dtype": dtype,
        "probes": canonical_hash(asdict(probes))[:12],
        "versions": {name: known[name] for name in ("lilliput", "torch")},
    }


def _read(path: Path, key: dict[str, Any], quietly: bool = False) -> Calibration | None:
    """The calibration in a file; None where there is none or it is damaged, which is said unless `quietly`."""
    if not path.is_file():
        return None
    try:
        raw = read_json(path)
        found = Calibration.from_dict(raw)
        float(found.about["fit_error"])
        int(found.about.get("takes", 1))
        if raw["key"] != key:
            raise ValueError("it is of another machine")
    except (StorageError, KeyError, TypeError, ValueError, AttributeError) as error:
        if not quietly:
            say(f"the calibration in {path} is damaged ({error}); it is measured anew")
        return None
    return found


def measure_machine(device: torch.device, threads: int, dtype: str, probes: Probes) -> Calibration:
    """Time the probes here and now and fit the prices."""
    began, before = time.monotonic(), torch.get_num_threads()
    until = began + probes.limit
    torch.set_num_threads(threads)
    points: list[Point] = []
    steps: list[Step] = []
    try:
        with Progress("calibrating", len(probes), "shapes") as bar:
            for found in decode_points(probes, device, DTYPES[dtype], until):
                points += found
                bar.update(bar.done + 1)
            for step in train_steps(probes, device, threads, until):
                steps.append(step)
                bar.update(bar.done + 1)
    finally:
        torch.set_num_threads(before)
    layer, rates = fit_training(steps)
    fitted = Calibration(dtype, fit_prices(points, dtype), layer, tuple(rates), tuple(rates.values()), {})
    seconds = round(time.monotonic() - began, 1)
    return replace(fitted, about={"seconds": seconds, **_probes(fitted, points, steps)})


def _probes(found: Calibration, points: Sequence[Point], steps: Sequence[Step]) -> dict[str, Any]:
    """What was timed and how well the fit repeats it, for people who read the file."""
    decoding = []
    for point in points:
        place = np.array([point.position])
        amounts = features(point.shape, point.batch, place, np.ones(1), ITEMSIZE[found.dtype])
        fitted = float(amounts[0] @ np.array([found.prices[name] for name in PRICES]))
        decoding.append({**_named(point.shape), "batch": point.batch, "position": point.position,
                         "microseconds": round(1e6 * point.seconds, 1), "fitted": round(1e6 * fitted, 1)})  # fmt: skip
    errors = [abs(row["fitted"] / row["microseconds"] - 1) for row in decoding]
    training = [{**_named(step.shape), "windows": step.windows, "seconds": round(step.seconds, 5)} for step in steps]
    return {"fit_error": round(float(np.median(errors)), 4), "decoding": decoding, "training": training}


def _named(shape: ModelConfig) -> dict[str, Any]:
    names = ("depth", "width", "heads", "kv_heads", "ffn", "vocab_size", "context")
    return {name: getattr(shape, name) for name in names}

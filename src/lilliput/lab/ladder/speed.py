"""How fast the shapes of a ladder write: each once, after all training, by the protocol of `lilliput speed`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from lilliput import device as machine
from lilliput.evaluate.speed import speed_of_shape
from lilliput.lab.ladder.ask import Ask
from lilliput.lab.ladder.plan import TITLES, Plan
from lilliput.lab.ladder.sum import shape_key
from lilliput.progress import say
from lilliput.store import locked, read_json, write_json

_LINES = ("batch", "per_sequence", "total", "first_token_ms", "peak_mb", "device", "dtype", "threads", "rewinds")


def measure_speeds(ask: Ask, plan: Plan, out: Path, device: str) -> dict[str, list[dict[str, Any]]]:
    """By shape (`shape_key`), a row a batch; kept in `out/speeds.json`. Arms of one shape share one measurement."""
    file = out / "speeds.json"
    shapes = {shape_key(arm): name for name, arm in plan.arms.items()}
    with locked(out / ".locks" / "speed.lock", f"the speeds of {out.name}"):
        known: dict[str, Any] = read_json(file) if file.is_file() else {"speeds": {}}
        for key, name in shapes.items():
            rows = known["speeds"].get(key, [])
            lacking = [batch for batch in ask.batches if batch not in {row["batch"] for row in rows}]
            for batch in lacking:
                say(f"speed      {TITLES[name]}, batch {batch}")
                # A carved model has the special tokens of its teacher; they change no speed.
                shape = replace(plan.arms[name].shape, bos_id=0, eos_id=0)
                found = speed_of_shape(shape, batch=batch, device=device, title=f"writing, {name}").to_dict()
                rows.append({line: found[line] for line in _LINES})
            known["speeds"][key] = rows
            if lacking:
                write_json(file, {**known, "machine": machine.machine(), "versions": machine.versions()})
    return {key: list(known["speeds"][key]) for key in shapes}

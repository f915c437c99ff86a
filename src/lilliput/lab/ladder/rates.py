"""The learning rates of a ladder's arms: each is tried at the same shares of the rule's rate, by one seed, on text that
the arms are not judged by, and takes its best.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from lilliput.errors import TrainingError
from lilliput.lab.cells import failure, finished
from lilliput.lab.grid import Cell, cells_of
from lilliput.lab.ladder.ask import Ask
from lilliput.lab.ladder.plan import Plan
from lilliput.lab.ladder.studies import arm_at, write_studies
from lilliput.lab.study import run_study
from lilliput.progress import warn
from lilliput.store import Store

Told = Callable[[Cell, dict[str, Any]], None]


def tune(ask: Ask, plan: Plan, out: Path, store: Store, device: str, told: Told) -> dict[str, float]:
    """The best of `ask.rates` for each arm, by the cells of the study in `out/rates`, which are measured where they are
    not there. Raises TrainingError where an arm would not train at any."""
    if len(ask.rates) == 1:
        return dict.fromkeys(plan.arms, ask.rates[0])
    write_studies(ask, plan, None, out)
    folder = out / "rates"
    try:
        run_study(folder / "study.yaml", results=out, store=store, device=device, folder=folder, told=told)
    except TrainingError as error:
        # A rate at which an arm diverges is a finding; without any at which it trains there is no ladder.
        warn(error.message)
    rows = tried(ask, plan, out)
    picks = {arm: best for arm in plan.arms if (best := _best(rows, arm)) is not None}
    if lost := [arm for arm in plan.arms if arm not in picks]:
        mend = "look at the text, or try lower --rates"
        raise TrainingError(f"{', '.join(lost)} would not train at any learning rate", where=str(folder), mend=mend)
    return picks


def tried(ask: Ask, plan: Plan, out: Path) -> list[dict[str, Any]]:
    """What was tried: {arm, share, lr, bits_per_byte (None where it would not train), seconds, flops}; nothing where
    rates were not tuned."""
    if len(ask.rates) == 1 or not (out / "rates" / "study.yaml").is_file():
        return []
    study, folder = write_studies(ask, plan, None, out), out / "rates"
    known = {cell.arm: cell for cell in cells_of(study, folder)}
    rows = []
    for arm, own in plan.arms.items():
        for rate in ask.rates:
            cell = known[arm_at(arm, rate)]
            found = finished(folder, cell)
            if found is None and failure(folder, cell) is None:
                continue
            cost = (found or {}).get("cost", {})
            rows.append(
                {
                    "arm": arm,
                    "share": rate,
                    "lr": rate * own.lr,
                    "bits_per_byte": None if found is None else found["value"],
                    "seconds": float(cost.get("seconds", 0.0)),
                    "flops": float(cost.get("flops", 0.0)),
                }
            )
    return rows


def _best(rows: list[dict[str, Any]], arm: str) -> float | None:
    own = [row for row in rows if row["arm"] == arm and row["bits_per_byte"] is not None]
    return min(own, key=lambda row: row["bits_per_byte"])["share"] if own else None


def at_the_edge(ask: Ask, picks: dict[str, float]) -> list[str]:
    """The arms whose best rate is the lowest or highest of those tried, where some lie between."""
    if len(ask.rates) < 3:
        return []
    return [arm for arm, share in picks.items() if share in (min(ask.rates), max(ask.rates))]

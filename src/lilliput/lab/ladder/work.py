"""How much of a ladder is done and how long the rest takes: told before the first cell and after every one."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import torch

from lilliput import device as machine
from lilliput.lab.grid import Cell
from lilliput.lab.ladder.ask import Ask
from lilliput.lab.ladder.plan import INHERITANCE, ROUNDS, RUNGS, TITLES, Plan
from lilliput.lab.ladder.rates import tried
from lilliput.plan.rules import counted, describe
from lilliput.progress import count, duration, say
from lilliput.train.derive import nominal_rate

# What small models reach on a core, FLOP/s: 20,000 tokens a second at 0.8M parameters on two.
_CORE_RATE, _CORES = 4e10, 8
# Evaluation, samples, files: of every cell. Corpus, tokenizers, speeds: of the ladder.
_CELL_SECONDS, _LADDER_SECONDS = 8.0, 60.0

# (arm, seed, whether it is a trial of a learning rate)
Todo = tuple[str, int, bool]


class Work:
    """The training of a ladder in FLOPs. left: the cells still to be trained. taught: the teacher is not among them."""

    def __init__(self, ask: Ask, plan: Plan, left: list[Todo], taught: bool, device: torch.device) -> None:
        self.plan, self.device, self.cells = plan, device, len(left)
        self._tuned, self._taught = len(ask.rates) > 1, taught
        self._first = ask.recipe.seed
        self.total = sum(self._flops(*one) for one in left)
        if not taught and any(arm in (INHERITANCE, ROUNDS) for arm, *_ in left):
            self.total += plan.teacher.flops
        self.done, self.finished, self._began = 0.0, 0, time.monotonic()

    def _flops(self, arm: str, seed: int, trial: bool) -> float:
        """A trial of a learning rate has trained the arm's first seed: the store has its weights."""
        known = self._tuned and seed == self._first and not trial
        return 0.0 if known else self.plan.arms[arm].flops

    def seconds(self) -> float:
        """About how long all of it takes here, reckoned and not timed."""
        if self.device.type == "cuda":
            rate = nominal_rate(self.plan.teacher.shape, self.device)
        else:
            rate = _CORE_RATE * min(_CORES, machine.threads())
        return self.total / rate + _CELL_SECONDS * self.cells + _LADDER_SECONDS

    def told(self, cell: Cell, found: dict[str, Any]) -> None:
        """A cell is trained: say how far the ladder is."""
        arm, _, trial = cell.arm.partition(" ")
        self.finished += 1
        self.done += self._flops(arm, cell.seed, bool(trial))
        if cell.teacher is not None and not self._taught:
            self.done, self._taught = self.done + self.plan.teacher.flops, True
        spent = time.monotonic() - self._began
        share = min(1.0, self.done / self.total) if self.total else 1.0
        left = f", about {duration(spent * (1 - share) / share)} left" if 0 < share < 1 else ""
        say(f"ladder     {self.finished} of {self.cells} cells trained, {share:.0%} of the work{left}")


def announce(ask: Ask) -> None:
    """Say what is about to be done, before anything is known of shapes and time."""
    say(f"What does each part buy? {' → '.join(TITLES[arm] for arm in RUNGS)}, at equal parameters and equal text.")
    for line in ask.notes:
        say(f"{line[:1].upper()}{line[1:]}.")
    say("First the text and two tokenizers; then every arm's shape and how long all of it takes.\n")


def open_with(ask: Ask, plan: Plan, work: Work, out: str) -> None:
    """Say what the ladder will do and about how long it takes."""
    sizes = [arm.shape.parameters() for arm in plan.arms.values()]
    between = f"{min(sizes):,}" if min(sizes) == max(sizes) else f"{min(sizes):,} to {max(sizes):,}"
    say(f"\nThe ladder: arms of {between} parameters, each trained on {count(plan.bytes)}B of text")
    width = max(map(len, TITLES.values()))
    for name, arm in plan.arms.items():
        built = {INHERITANCE: "the same, carved out of the teacher", ROUNDS: "the same, trained in rounds"}
        say(f"  {TITLES[name]:<{width}}  {built.get(name, describe(arm.shape))}")
    say(f"  {'teacher':<{width}}  {describe(plan.teacher.shape)}")
    rates = ", ".join(f"{rate:g}" for rate in ask.rates)
    chosen = f"each arm's learning rate is the best of {rates} times the rule's, at one seed"
    say(f"  {chosen}; then {counted(ask.seeds, 'seed')}" if len(ask.rates) > 1 else
        f"  learning rates are not tuned ({rates} times the rule's); {counted(ask.seeds, 'seed')}")  # fmt: skip
    if work.cells:
        say(f"  {counted(work.cells, 'cell')} to train: about {duration(work.seconds())} on this machine, reckoned; "
            "Ctrl-C stops it, the same command goes on")  # fmt: skip
    say(f"  results: {out}\n")


def pending(ask: Ask, plan: Plan, out: Path, left: list[Cell] | None) -> list[Todo]:
    """Cells still to be trained. left: those of the arms' study, None while its learning rates are not chosen."""
    if left is not None:
        return [(cell.arm, cell.seed, False) for cell in left]
    first = ask.recipe.seed
    known = {(row["arm"], row["share"]) for row in tried(ask, plan, out)}
    shares = ask.rates if len(ask.rates) > 1 else ()
    trials = [(arm, first, True) for arm in plan.arms for share in shares if (arm, share) not in known]
    return trials + [(arm, seed, False) for seed in ask.all_seeds() for arm in plan.arms]

"""Kills a run at chosen moments until it has finished, and compares it with one that was left alone.

    python tests/e2e/killing.py --out results/kill_test.json

The run is the command line's own `make`; kills are SIGKILL to its whole process group. To be sure of the
moment, the process is first stopped (SIGSTOP), the moment is confirmed on what lies on disk, then it is killed.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from lilliput import device as machine
from lilliput.store import file_hash
from lilliput.train.checkpoint import found
from lilliput.train.metrics import read_metrics

SAVE_EVERY, EVAL_EVERY = 10, 30
BATCH_TOKENS = 2048
EPOCHS = 12
SECONDS = 80
"""How long the run left alone should take."""
POLL = 0.0005
PHASES = ("start", "training", "checkpoint write", "evaluation", "epoch edge", "after training")


@dataclass(frozen=True)
class Kill:
    """One kill: what was waited for, what was found, and how far the run was."""

    wanted: str
    phase: str
    seconds: float
    """Seconds since this process began."""
    step: int
    """The last step in the metrics, 0 where none."""
    checkpoint: str | None
    """The newest whole checkpoint: where the next process goes on."""
    half_written: bool
    """A half-written checkpoint lay there."""
    store: str
    """Which of the two stores it used."""


@dataclass
class Run:
    """A `make` command in its own folder and store."""

    text: Path
    folder: Path
    store: Path
    settings: tuple[str, ...]
    steps: int = 0
    """All of the run's steps, once known."""

    def command(self) -> list[str]:
        entry = "import sys; from lilliput.cli.main import run; sys.exit(run(sys.argv[1:]))"
        fixed = ["make", "tiny", f"corpus={self.text}", f"--out={self.folder}", "--json"]
        return [sys.executable, "-c", entry, *fixed, *self.settings]

    @contextmanager
    def start(self) -> Iterator[subprocess.Popen[str]]:
        """The command at work; whatever happens here, it does not outlive the block."""
        log = open(self.folder.parent / f"{self.folder.name}.log", "a")  # noqa: SIM115  (the child's)
        environment = {**os.environ, "LILLIPUT_STORE": str(self.store), "HF_HUB_OFFLINE": "1"}
        pipe = subprocess.PIPE
        process = subprocess.Popen(
            self.command(), stdout=pipe, stderr=log, env=environment, text=True, start_new_session=True
        )
        try:
            yield process
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            if process.stdout is not None:
                process.stdout.close()
            log.close()

    def rows(self) -> list[dict[str, Any]]:
        return read_metrics(self.folder / "metrics.jsonl")

    def hidden(self) -> set[str]:
        """Folders being written or removed."""
        folder = self.folder / "checkpoints"
        return {name for name in os.listdir(folder) if name.startswith(".step-")} if folder.is_dir() else set()

    def half_written(self, besides: frozenset[str] = frozenset()) -> bool:
        """Whether a checkpoint is being written (`besides`: what a process killed before has left)."""
        return any(not name.endswith(".old") for name in self.hidden() - besides)

    def ended(self) -> bool:
        """Whether the last step is saved."""
        return bool(self.steps) and step_of(self.newest()) == self.steps

    def newest(self) -> str | None:
        names = [path.name for path in found(self.folder / "checkpoints")]
        return names[-1] if names else None


class Tail:
    """The end of the metrics, read cheaply: this runs hundreds of times a second."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def last(self) -> dict[str, Any]:
        """The last whole row, or an empty one."""
        try:
            with open(self.path, "rb") as file:
                file.seek(max(0, os.path.getsize(self.path) - 2000))
                lines = file.read().splitlines(keepends=True)
            return dict(json.loads([line for line in lines if line.endswith(b"\n")][-1]))
        except (OSError, ValueError, IndexError):
            return {}


def step_of(name: str | None) -> int:
    return int(re.split(r"[-.]", name)[1]) if name else 0


def evaluating(run: Run, tail: Tail) -> bool:
    """An evaluation's step is saved whole, is the last in the metrics, and its evaluation is not written."""
    row, newest = tail.last(), run.newest()
    step = row.get("step", 0)
    saved = newest is not None and step_of(newest) == step and not run.half_written()
    return bool(step and step % EVAL_EVERY == 0 and saved and "evaluation" not in row)


def at_edge(run: Run, tail: Tail) -> bool:
    """The last step read across an epoch's edge: its batch's end lies in the next epoch."""
    row = tail.last()
    if "epoch" not in row or row.get("step", 0) < 2:
        return False
    a_step = row["epoch"] / row["step"]
    return row["epoch"] % 1 < a_step and row["epoch"] >= 1


def condition(wanted: str, run: Run, tail: Tail) -> Callable[[], bool]:
    """What to wait for; always false for a moment chosen by the clock."""
    return {
        "checkpoint write": run.half_written,
        "evaluation": lambda: evaluating(run, tail),
        "epoch edge": lambda: at_edge(run, tail),
    }.get(wanted, lambda: False)


def phase_now(run: Run, tail: Tail, began: dict[str, Any], left: frozenset[str]) -> str:
    """What the stopped process was at, as far as the disk tells."""
    if run.half_written(left):
        return "checkpoint write"
    if run.ended():
        return "after training"
    if evaluating(run, tail):
        return "evaluation"
    row = tail.last()
    if row == began:
        return "start"
    return "epoch edge" if at_edge(run, tail) else "training"


def group(process: subprocess.Popen[str], number: int) -> None:
    os.killpg(process.pid, number)


def kill_once(run: Run, wanted: str, rng: random.Random) -> Kill | None:
    """Start the command and kill it; None if it finished before the moment came."""
    tail = Tail(run.folder / "metrics.jsonl")
    before, left = tail.last(), frozenset(run.hidden())
    delay = rng.uniform(0.2, 3.0) if wanted == "start" else rng.uniform(0.0, 5.0)
    began = time.monotonic()
    with run.start() as process:
        if not stopped_at(run, wanted, process, delay):
            process.communicate()
            return None
        return Kill(
            wanted=wanted,
            phase=phase_now(run, tail, before, left),
            seconds=round(time.monotonic() - began, 2),
            step=int(tail.last().get("step", 0)),
            checkpoint=run.newest(),
            half_written=run.half_written(left),
            store=run.store.name,
        )


def stopped_at(run: Run, wanted: str, process: subprocess.Popen[str], delay: float) -> bool:
    """Wait for the moment and stop the process there (SIGSTOP); False if it finished before."""
    tail = Tail(run.folder / "metrics.jsonl")
    before, left = tail.last(), run.hidden()
    reached = condition(wanted, run, tail)
    clock_from = {"start": lambda: True, "random": lambda: True, "after training": run.ended}
    at_work, since = wanted in ("start", "after training"), None
    while process.poll() is None:
        time.sleep(POLL)
        # A process that goes on first cuts off the rows beyond its checkpoint, then adds its own.
        at_work = at_work or (not left & run.hidden() and tail.last() not in (before, {}))
        if not at_work:
            continue
        if since is None and wanted in clock_from and clock_from[wanted]():
            since = time.monotonic()
        if since is not None and time.monotonic() - since > delay:
            group(process, signal.SIGSTOP)
            return True
        if reached():
            group(process, signal.SIGSTOP)
            if reached():
                return True
            group(process, signal.SIGCONT)
    return False


def finish(run: Run) -> tuple[dict[str, Any], float]:
    """Run the command to its end: its JSON answer and the seconds it took."""
    began = time.monotonic()
    with run.start() as process:
        out, _ = process.communicate()
    if process.returncode:
        log = (run.folder.parent / f"{run.folder.name}.log").read_text()
        raise RuntimeError(f"the command failed ({process.returncode}): {log[-2000:]}")
    return dict(json.loads(out)), time.monotonic() - began


def write_text(path: Path) -> int:
    """Real text that every Python has: its own manual's topics, about 700 kB. Returns its bytes."""
    from pydoc_data.topics import topics

    text = "\n\n".join(topics[name] for name in sorted(topics))
    path.write_text(text, encoding="utf-8")
    return len(text.encode())


def settings_for(work: Path, text: Path, extra: tuple[str, ...], seconds: float) -> tuple[str, ...]:
    """Settings of a run of about `seconds` here: a short run tells this machine's speed."""
    fixed = (
        "budget.params=100k",
        f"train.batch_tokens={BATCH_TOKENS}",
        f"train.save_every={SAVE_EVERY}",
        f"train.eval_every={EVAL_EVERY}",
        "evaluate.bytes=50k",
        *extra,
    )
    trial = Run(text, work / "trial", work / "store-trial", (*fixed, "train.tokens=120k"))
    finish(trial)
    rows = [row for row in trial.rows() if "loss" in row]
    whole = (rows[-1]["seconds"] - rows[4]["seconds"]) / (rows[-1]["tokens"] - rows[4]["tokens"])
    tokens = round(seconds / whole / 10_000) * 10_000
    # As much text as makes for several epochs' edges on the way.
    per_token = 2.2
    size = round(tokens / EPOCHS * per_token)
    content = text.read_text(encoding="utf-8")
    while len(content.encode()) < size:
        content += "\n\n" + content.replace("the", f"the {len(content)}")
    text.write_text(content.encode()[:size].decode(errors="ignore"), encoding="utf-8")
    return (*fixed, f"train.tokens={tokens}")


def plan(rng: random.Random, kills: int) -> list[str]:
    """What to wait for: delicate moments and random ones in a random order.

    The first kill, and the first with an empty store, meet the stages before training; the last two those
    after it.
    """
    special = max(1, kills // 5)
    wanted = ["checkpoint write"] * special + ["evaluation"] * special + ["epoch edge"] * min(4, special)
    wanted += ["random"] * (kills - len(wanted) - 4)
    rng.shuffle(wanted)
    wanted.insert(0, "start")
    wanted.insert(kills // 2, "start")
    return [*wanted, "after training", "after training"]


def compare(work: Path, *, kills: int, seed: int, seconds: float, extra: tuple[str, ...] = ()) -> dict[str, Any]:
    """The whole test; returns what was seen. Raises nothing for a difference: the caller judges."""
    rng = random.Random(seed)
    text = work / "text.txt"
    write_text(text)
    for attempt in range(3):
        here = work / f"try{attempt}"
        here.mkdir()
        settings = settings_for(here, text, extra, seconds)
        alone = Run(text, here / "alone", here / "store-alone", settings)
        answer, took = finish(alone)
        if took >= 0.75 * seconds:
            break
        # The machine was busier during the trial than during the run: try its speed again.
    steps = max(row["step"] for row in alone.rows())
    killed = Run(text, work / "killed", work / "store-first", settings, steps)
    done: list[Kill] = []
    for number, wanted in enumerate(plan(rng, kills)):
        if number == kills // 2:  # from here on with an empty store
            killed.store = work / "store-second"
        kill = kill_once(killed, wanted, rng)
        if kill is None:
            break
        done.append(kill)
        print(f"{number + 1:3d} {kill.wanted:17s} {kill.phase:17s} step {kill.step:5d}", file=sys.stderr)
    answer_killed, _ = finish(killed)
    log = (work / "killed.log").read_text()
    weights = {run.folder.name: file_hash(run.folder / "model" / "model.safetensors") for run in (alone, killed)}
    return {
        "command": ["lilliput", *alone.command()[3:]],
        "seed": seed,
        "machine": machine.machine(),
        "versions": machine.versions(),
        "steps": steps,
        "epochs": max(row.get("epoch", 0) for row in alone.rows()),
        "seconds_alone": round(took, 1),
        "kills": [asdict(kill) for kill in done],
        "phases": {name: sum(kill.phase == name for kill in done) for name in PHASES},
        "went_on_from": [int(step) for step in re.findall(r"going on from step (\d+)", log)],
        "damaged": log.count("trying the checkpoint before"),
        "sha256": weights,
        "bit_identical": weights["alone"] == weights["killed"],
        "same_losses": losses(alone) == losses(killed),
        "bits_per_byte": {"alone": answer["bits_per_byte"], "killed": answer_killed["bits_per_byte"]},
    }


def losses(run: Run) -> list[Any]:
    return [(row["step"], row.get("loss"), row.get("evaluation")) for row in run.rows()]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("results/kill_test.json"))
    parser.add_argument("--kills", type=int, default=25)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=SECONDS)
    parser.add_argument("--work", type=Path, help="keep the runs here")
    parser.add_argument("settings", nargs="*", help="further key=value settings of the run")
    asked = parser.parse_args()
    work = asked.work or Path(tempfile.mkdtemp(prefix="lilliput-kill-"))
    work.mkdir(parents=True, exist_ok=True)
    seen = compare(
        work.absolute(), kills=asked.kills, seed=asked.seed, seconds=asked.seconds, extra=tuple(asked.settings)
    )
    seen["command"] = [part.replace(str(work.absolute()), "WORK") for part in seen["command"]]
    asked.out.parent.mkdir(parents=True, exist_ok=True)
    asked.out.write_text(json.dumps(seen, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    print(f"{len(seen['kills'])} kills, bit-identical: {seen['bit_identical']} → {asked.out}", file=sys.stderr)
    if asked.work is None:
        shutil.rmtree(work)


if __name__ == "__main__":
    main()

"""What a later round does before it trains: score what the first round read, draw from it, read the draw again.

`rounds/` in the run's folder holds, for each later round:

    round-2.scores.npz   windows int64 (n,), rising; losses float64 (≤ n,), nats a target, those scored so far;
                         weights, the hash of the weights that gave them; seconds, what it took
    round-2.draw.npz     units int64, rising; weights, as above

Both appear whole or not at all. A killed scoring goes on after the windows scored; windows are scored in batches that
begin at multiples of one size, so the losses, and with them the draw, are those of a run left alone, to the last bit.
"""

from __future__ import annotations

import io
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from lilliput.errors import CheckpointError
from lilliput.progress import Progress, count, duration, say
from lilliput.store import clear_abandoned, file_hash, write_atomic
from lilliput.train.checkpoint import weights_hash
from lilliput.train.draw import draw
from lilliput.train.order import Pool, reading
from lilliput.train.rounds import Plan

if TYPE_CHECKING:
    from lilliput.train.engine import Engine
    from lilliput.train.order import Loader

FOLDER = "rounds"
# Losses are put on disk so often.
FLUSH_SECONDS = 15.0


@dataclass(frozen=True)
class Scores:
    """Losses of windows under the weights that a round begins with.

    windows: int64 (n,), rising. losses: float64, nats a target; fewer than windows while it is being scored.
    """

    windows: NDArray[np.int64]
    losses: NDArray[np.float64]
    weights: str
    seconds: float

    def of(self, windows: NDArray[np.int64]) -> NDArray[np.float64]:
        """The losses of these windows; nan for one that was not scored."""
        at = np.minimum(np.searchsorted(self.windows, windows), len(self.windows) - 1)
        found: NDArray[np.float64] = np.where(self.windows[at] == windows, self.losses[at], np.nan)
        return found


def scores_file(folder: Path, number: int) -> Path:
    """Where the losses stand that were taken before round `number` (1 is the second)."""
    return folder / f"round-{number + 1}.scores.npz"


def draw_file(folder: Path, number: int) -> Path:
    """Where the draw of round `number` stands."""
    return folder / f"round-{number + 1}.draw.npz"


def read_scores(file: Path) -> Scores:
    """What `scores_file` holds. Raises CheckpointError where it is damaged."""
    held = _read(file)
    return Scores(held["windows"], held["losses"], str(held["weights"]), float(held["seconds"]))


def read_draw(file: Path) -> NDArray[np.int64]:
    """The units of a draw, rising. Raises CheckpointError where it is damaged or gone."""
    units: NDArray[np.int64] = _read(file)["units"]
    return units


def _read(file: Path) -> dict[str, NDArray[Any]]:
    try:
        with np.load(file) as held:
            return {name: held[name] for name in held.files}
    except (OSError, ValueError, KeyError, EOFError) as error:
        raise CheckpointError(
            f"no readable scores or draw of a round: {error}",
            where=str(file),
            mend="restore it from a copy, or begin a new run with another --out",
        ) from None


def _write(file: Path, **arrays: Any) -> None:
    memory = io.BytesIO()
    np.savez(memory, **arrays)
    write_atomic(file, memory.getvalue())


class Replay:
    """The later rounds of one run. number: of the round that is being trained, 0 for the first. begun: whether the
    loader reads what that round reads."""

    def __init__(self, plan: Plan, folder: Path, loader: Loader, engine: Engine) -> None:
        self.plan, self.folder, self.loader, self.engine = plan, folder / FOLDER, loader, engine
        self.world, self.number, self.begun = engine.world, 0, False

    def of(self, step: int) -> int:
        """The round that update `step` belongs to."""
        return self.plan.rounds.of(step, self.plan.steps)

    def at_end(self, step: int) -> bool:
        """Whether a later round begins at `step`."""
        return step in self.plan.ends[:-1]

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps: the round, and the hash of the draw that it reads."""
        file = draw_file(self.folder, self.number)
        return {"number": self.number, "draw": file_hash(file) if self.number and file.exists() else None}

    def resume(self, state: dict[str, Any]) -> None:
        """CheckpointError where the draw of the round that a checkpoint stands in is not the one it was made with."""
        if state["draw"] is None:
            return
        file = draw_file(self.folder, int(state["number"]))
        if not file.exists() or file_hash(file) != state["draw"]:
            raise CheckpointError(
                "the draw of this round is not the one the run was trained with",
                where=str(file),
                mend="restore it from a copy, or begin a new run with another --out",
            )

    def begin(self, step: int, checkpoints: Path) -> None:
        """Have the loader read what the round of `step` reads: scored and drawn now, where that is not on disk.

        checkpoints: their folder; where a round begins, the newest holds the weights of `step`. All processes call it.
        """
        self.number, self.begun, plan = self.of(step), True, self.plan
        if self.number == 0:
            self.loader.pool = None
            return
        if self.at_end(step):
            if self.world.main:
                for file in (scores_file, draw_file):
                    clear_abandoned(file(self.folder, self.number))
            weights = weights_hash(checkpoints)
            scores = self._scores(weights)
            if plan.rounds.replays and self.world.main and not self._drawn(weights):
                _write(draw_file(self.folder, self.number), units=self._draw(scores), weights=weights)
            self.world.wait()
        if plan.rounds.replays:
            units = read_draw(draw_file(self.folder, self.number))
            before = plan.ends[self.number - 1] * plan.batch
            self.loader.begin(self.number, Pool(units, plan.unit, before))

    def _drawn(self, weights: str) -> bool:
        file = draw_file(self.folder, self.number)
        return file.exists() and str(_read(file)["weights"]) == weights

    def _draw(self, scores: Scores | None) -> NDArray[np.int64]:
        plan, rounds = self.plan, self.plan.rounds
        losses = None
        if rounds.by_loss and scores is not None:
            places = np.arange(plan.units * plan.unit, dtype=np.int64)
            # A unit is a batch as it was read: its loss is the mean over its windows.
            losses = scores.of(self._windows(places)).reshape(plan.units, plan.unit).mean(1)
        return draw(
            losses,
            plan.parts,
            plan.quotas(self.number),
            weighting=rounds.weighting if losses is not None else "uniform",
            temperature=rounds.temperature,
            key=(plan.seed, self.number),
        )

    def _windows(self, places: NDArray[np.int64]) -> NDArray[np.int64]:
        """The windows at places of the first round's reading."""
        return reading(places, self.loader.corpus, self.plan.seed, self.loader.first)

    def _wanted(self) -> NDArray[np.int64]:
        """The windows to score before this round, each once, in the corpus's order."""
        plan = self.plan
        if plan.rounds.by_loss:
            places = np.arange(plan.units * plan.unit, dtype=np.int64)
        elif self.number == 1:
            places = plan.followed()
        else:
            places = np.empty(0, np.int64)
        return np.unique(self._windows(places))

    def _scores(self, weights: str) -> Scores | None:
        """The losses that this round asks for, scored as far as they are not on disk; None where it asks for none."""
        windows, file = self._wanted(), scores_file(self.folder, self.number)
        if not len(windows):
            return None
        done = Scores(windows, np.empty(0), weights, 0.0)
        if file.exists():
            found = read_scores(file)
            if found.weights == weights and np.array_equal(found.windows, windows):
                done = found
        # What is read here must not be what the first process writes a moment later.
        self.world.wait()
        return done if len(done.losses) == len(windows) else self._score(done, file)

    def _score(self, done: Scores, file: Path) -> Scores:
        """Go on scoring where `done` ends."""
        engine, context = self.engine, self.plan.context
        engine.leave_weights()
        total, size = len(done.windows), engine.config.micro_sequences * self.world.size
        losses = np.full(total, np.nan)
        start = len(done.losses) // size * size
        losses[:start] = done.losses[:start]
        if self.world.main:
            says = f"going on with {start / total:.0%} scored" if start else f"{count(total * context)} tokens"
            say(f"scoring    what the first round read, for round {self.number + 1}: {says}")
        began = flushed = time.monotonic()
        with Progress("scoring", total * context, "tokens", start=start * context) as progress:
            for begin in range(start, total, size):
                end = min(begin + size, total)
                batch = self.loader.shards.batch(done.windows[begin:end], context)
                losses[begin:end] = engine.losses(batch)
                now = time.monotonic()
                if not self.world.main:
                    continue
                progress.update(end * context)
                if now - flushed >= FLUSH_SECONDS or end == total:
                    flushed, seconds = now, done.seconds + now - began
                    held = Scores(done.windows, losses[:end], done.weights, seconds)
                    _write(file, **asdict(held))
        if self.world.main:
            say(f"scored     in {duration(time.monotonic() - began)}")
        return Scores(done.windows, losses, done.weights, done.seconds + time.monotonic() - began)

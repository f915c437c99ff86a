"""The training loop: one for every objective, the same on one CPU and on many GPUs.

A step: the next global batch, forward and backward by micro batches with the loss divided by the global
batch's tokens, the gradient judged and clipped, one AdamW update. Checkpoints come before evaluations, so a
killed evaluation loses nothing. Given the same settings, N steps equal k steps, a kill and a resume, bit for
bit on a CPU: everything a step depends on (weights, moments, cursor, guard) is in the checkpoint, and the
rest (rate, random numbers) is a function of the step.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from lilliput import device as machine
from lilliput.errors import CheckpointError, TrainingError
from lilliput.model.heap import return_freed_memory
from lilliput.progress import Progress, say, warn
from lilliput.train import checkpoint, parallel
from lilliput.train.config import TrainConfig
from lilliput.train.engine import Engine
from lilliput.train.guard import MAX_RETURNS, Guard
from lilliput.train.interrupt import Interrupt
from lilliput.train.metrics import Metrics
from lilliput.train.objectives import check_same
from lilliput.train.order import Cursor, Loader, Windows, fingerprint
from lilliput.train.replay import Replay
from lilliput.train.result import TrainResult as TrainResult
from lilliput.train.rounds import Plan
from lilliput.train.schedule import learning_rate

if TYPE_CHECKING:
    from torch import nn

    from lilliput.model.decoder import Decoder
    from lilliput.train.objectives import Objective

Evaluator = Callable[["Decoder"], dict[str, float]]


def train(
    model: nn.Module,
    shards: Windows,
    config: TrainConfig,
    run_dir: Path | str,
    *,
    device: torch.device,
    evaluator: Evaluator | None = None,
    objective: Objective | None = None,
) -> TrainResult:
    """Train `model` in place to the end of `config`, going on from `run_dir/checkpoints` where there are any.

    Writes `run_dir/metrics.jsonl`, and with rounds `run_dir/rounds` (see `replay`). evaluator: called every
    `eval_every` steps and at the end, after the save, with the model; its numbers go to the metrics. objective: what is
    learned, by default OBJECTIVES[config.objective]; `model` is what its loss takes, a `Decoder` for those.
    Raises KeyboardInterrupt after Ctrl-C (the step finished and saved), StorageError where the disk is full,
    TrainingError where the loss will not stay finite, CheckpointError where the folder holds another run or only
    damaged checkpoints.
    """
    run_dir = Path(run_dir)
    run_dir.mkdir(parents=True, exist_ok=True)
    machine.reset_peak_rss()
    try:
        # In a call of its own: what it held is free when the memory goes back.
        return _finished(_Run(model, shards, config, run_dir, device, evaluator, objective))
    except OSError as error:
        if not checkpoint.disk_full(error):
            raise
        raise checkpoint.storage_error(run_dir / "checkpoints", 0, error) from error
    finally:
        return_freed_memory()


def _finished(run: _Run) -> TrainResult:
    try:
        return run.go()
    finally:
        run.close()


class _Run:
    """The state of one call of `train`."""

    metrics: Metrics | None = None
    due = False
    """Whether a save has been put off, steps being left out."""

    def __init__(
        self,
        model: nn.Module,
        shards: Windows,
        config: TrainConfig,
        run_dir: Path,
        device: torch.device,
        evaluator: Evaluator | None,
        objective: Objective | None,
    ) -> None:
        self.world = parallel.start(device)
        self.evaluator, self.folder = evaluator, run_dir / "checkpoints"
        self.data = fingerprint(shards, config.context)
        saved = self._saved()
        if saved is not None:
            config = config.resumed_from(TrainConfig.from_dict(saved.state["config"]))
        cursor = Cursor(round=config.round)
        self.loader = Loader(shards, config.context, config.batch_sequences, config.seed, cursor)
        self.guard = Guard()
        self.step = self.attempt = self.peak = 0
        self.seconds, self.clock = 0.0, time.perf_counter()
        self.loss_sum, self.loss_steps, self.last_loss = 0.0, 0, math.nan
        self.engine = Engine(model, config, device, self.world, objective)
        plan = Plan.of(config)
        if plan is not None:
            plan.rounds.check(plan.steps, plan.batch, self.loader.corpus)
        self.replay = None if plan is None else Replay(plan, run_dir, self.loader, self.engine)
        if saved is not None:
            self._restore(saved)
        if config.compile and self.step < config.steps:
            self.engine.compile(fresh=saved is None)
        self.config = self.engine.config
        if saved is None:
            self._save()
        if self.world.main:
            self.metrics = Metrics(run_dir, self.step, tensorboard=config.tensorboard)
            if self.step:
                say(f"going on from step {self.step} of {config.steps}")

    def go(self) -> TrainResult:
        """Run to the end."""
        with Interrupt() as interrupt:
            self.row_step, self.row_clock = self.step, time.perf_counter()
            if self._evaluation_due():
                self._evaluate(interrupt)
            while self.step < self.config.steps:
                self._begin_round(interrupt)
                with self._progress() as progress:
                    self._steps(interrupt, progress)
            # Nothing, but where a killed run had come to its end: the loader then knows what the last round read.
            self._begin_round(interrupt)
        self.engine.leave_weights()
        return TrainResult(
            steps=self.step,
            tokens=self.step * self.config.batch_tokens,
            seconds=self._elapsed(),
            skipped=self.guard.skipped,
            final_loss=self.last_loss,
            epochs=self.loader.passes,
            peak_memory=self._peak_memory(),
            config=self.config,
        )

    def _steps(self, interrupt: Interrupt, progress: Progress | None) -> None:
        """Train to the end of the round that this step is in."""
        while self.step < self.config.steps and not self._round_begins():
            stopping = self._one_step(lambda: interrupt.asked)
            if progress is not None:
                progress.update(self.step * self.config.batch_tokens, loss=self.last_loss)
            self._keep_safe(stopping)
            if stopping:
                raise KeyboardInterrupt
            if self._evaluation_due():
                self._evaluate(interrupt)

    def close(self) -> None:
        """Close the files."""
        if self.metrics is not None:
            self.metrics.close()

    def _progress(self) -> AbstractContextManager[Progress | None]:
        if not self.world.main:
            return nullcontext()
        done = self.step * self.config.batch_tokens
        title = "training" if self.replay is None else f"round {self.replay.number + 1}"
        return Progress(title, self.config.tokens, "tokens", start=done)

    def _one_step(self, asked: Callable[[], bool]) -> bool:
        """Train on the next global batch. Returns whether any process was asked to stop."""
        batch = self.loader.next_batch(self.world.rank, self.world.size)
        loss, norm, stopping = self.engine.gradients(batch, self.step, asked)
        rate = learning_rate(self.config, self.step)
        if self.guard.accept(loss, norm, rises=self.engine.objective.rises):
            self.engine.update(rate, norm)
            self.loss_sum += loss
            self.loss_steps += 1
        elif self.world.main:
            warn(f"step {self.step + 1} left out: loss {loss:.4g}, gradient norm {norm:.4g}")
        self.engine.clear()
        self.step += 1
        if self.step % self.config.log_every == 0 or self.step == self.config.steps:
            self._record(rate, norm)
        return stopping

    def _record(self, rate: float, norm: float) -> None:
        """One row of the metrics; its loss is the mean over the steps since the last row."""
        if self.loss_steps:
            self.last_loss = self.loss_sum / self.loss_steps
        now = time.perf_counter()
        tokens = (self.step - self.row_step) * self.config.batch_tokens
        figures = self.engine.objective.figures(self.engine.live)
        if self.metrics is not None:
            row = {
                "step": self.step,
                "tokens": self.step * self.config.batch_tokens,
                "epoch": round(self.loader.passes, 6),
                "loss": self.last_loss if self.loss_steps else math.nan,
                "lr": rate,
                "grad_norm": norm,
                "tokens_per_second": round(tokens / (now - self.row_clock), 1),
                "seconds": round(self._elapsed(), 3),
                "skipped": self.guard.skipped,
            }
            if self.replay is not None:
                row["round"] = self.replay.number + 1
            self.metrics.write(row | figures)
        self.row_step, self.row_clock = self.step, now
        self.loss_sum, self.loss_steps = 0.0, 0

    def _elapsed(self) -> float:
        """Seconds of the whole run, resumes included."""
        return self.seconds + time.perf_counter() - self.clock

    def _peak_memory(self) -> int:
        gpu = self.engine.device.type == "cuda"
        now = torch.cuda.max_memory_allocated(self.engine.device) if gpu else machine.peak_rss()
        return max(self.peak, int(now))

    def _evaluation_due(self) -> bool:
        config = self.config
        if self.evaluator is None or not config.eval_every or not self.step:
            return False
        return self.step % config.eval_every == 0 or self.step == config.steps

    def _evaluate(self, interrupt: Interrupt) -> None:
        """Measure the weights just saved, on the first process.

        A resumed run that finds its step measured already does not repeat it.
        """
        self.engine.leave_weights()
        metrics, evaluator = self.metrics, self.evaluator
        if metrics is not None and evaluator is not None and self.step not in metrics.evaluated:
            interrupt.at_once = True
            if interrupt.asked:
                raise KeyboardInterrupt
            values = evaluator(self.engine.model)  # type: ignore[arg-type]
            interrupt.at_once = False
            tokens = self.step * self.config.batch_tokens
            metrics.write({"step": self.step, "tokens": tokens, "evaluation": values})
            self.row_step, self.row_clock = self.step, time.perf_counter()
        self.world.wait()

    def _round_begins(self) -> bool:
        """Whether the next step is of another round than what is being read, or nothing is being read yet."""
        replay = self.replay
        return replay is not None and not (replay.begun and replay.of(self.step) == replay.number)

    def _begin_round(self, interrupt: Interrupt) -> None:
        """Score and draw what a later round reads, where one begins here.

        The weights have just been saved, so that a kill meanwhile loses no step.
        """
        if self.replay is None or not self._round_begins():
            return
        interrupt.at_once = True
        if interrupt.asked:
            raise KeyboardInterrupt
        self.replay.begin(self.step, self.folder)
        interrupt.at_once = False
        self.row_step, self.row_clock = self.step, time.perf_counter()

    def _keep_safe(self, stopping: bool) -> None:
        """Save where it is time to, or go back where the weights are lost.

        While steps are being left out nothing is saved, unless a person stops the run: the weights are suspect,
        and the checkpoint to go back to must stay; or unless a later round begins here, which is drawn by them. Weights
        that are no numbers are never saved.
        """
        due = self.step % self.config.save_every == 0 or self._evaluation_due()
        self.due = self.due or due
        last = self.step == self.config.steps or (self.replay is not None and self.replay.at_end(self.step))
        if self.guard.lost():
            self._throw_back()
        elif stopping or last or (self.due and not self.guard.in_a_row):
            if not self.engine.sound():
                self._throw_back()
                return
            if stopping and self.world.main:
                say(f"interrupted: saving step {self.step}")
            self._save()

    def _save(self) -> None:
        weights, moments = self.engine.tensors()
        self.guard.passed(self.step)
        if self.world.main:
            if self.metrics is not None:
                self.metrics.sync()
            keep, attempt = self.config.keep, self.attempt
            checkpoint.save(self.folder, self.step, weights, moments, self._state(), attempt=attempt, keep=keep)
        self.attempt, self.due = 0, False
        self.world.wait()

    def _state(self) -> dict[str, Any]:
        return {
            **({} if self.replay is None else {"rounds": self.replay.state()}),
            "attempt": self.attempt,
            "config": self.config.to_dict(),
            "data": self.data,
            "loader": self.loader.state.to_dict(),
            "guard": self.guard.to_dict(),
            "seconds": self._elapsed(),
            "loss_sum": self.loss_sum,
            "loss_steps": self.loss_steps,
            "last_loss": None if math.isnan(self.last_loss) else self.last_loss,
            "peak_memory": self._peak_memory(),
            "versions": machine.versions(),
            "objective": self.engine.objective.identity(),
        }

    def _saved(self) -> checkpoint.Saved | None:
        """The newest checkpoint. The first process looks first: it clears away what is damaged."""
        if self.world.main:
            saved = checkpoint.load_latest(self.folder)
            self.world.wait()
            return saved
        self.world.wait()
        return checkpoint.load_latest(self.folder)

    def _restore(self, saved: checkpoint.Saved) -> None:
        """Put back everything a step depends on."""
        state = saved.state
        if state["data"] != self.data:
            raise CheckpointError(
                "the training data are not those this run was begun with",
                where=str(saved.path),
                mend="restore them, or begin a new run with another --out",
            )
        check_same(self.engine.objective, state.get("objective", {}), str(saved.path))
        self.engine.load(saved.model, saved.optimizer)
        self.step = int(state["step"])
        if self.replay is not None:
            self.replay.resume(state["rounds"])
        self.loader.state = Cursor.from_dict(state["loader"])
        self.guard = Guard.from_dict(state["guard"])
        self.seconds, self.clock = float(state["seconds"]), time.perf_counter()
        self.loss_sum, self.loss_steps = float(state["loss_sum"]), int(state["loss_steps"])
        self.last_loss = math.nan if state["last_loss"] is None else float(state["last_loss"])
        self.peak = int(state["peak_memory"])

    def _throw_back(self) -> None:
        """Back to the last checkpoint's weights; the data go on from here, so that others follow.

        Saved at once under a name of its own, so that a kill now still leaves an exact state to resume.
        """
        guard, here, failed, elapsed = self.guard, replace(self.loader.state), self.step, self._elapsed()
        if guard.returns >= MAX_RETURNS:
            raise TrainingError(
                f"the loss does not stay finite: {guard.skipped} steps left out, and going back to a "
                f"checkpoint {guard.returns} times did not help",
                where=f"step {failed}",
                mend=f"a lower train.lr (it was {self.config.lr:.3g}; try {self.config.lr / 3:.1g}) "
                "or a longer train.warmup, in a new --out",
            )
        saved = self._saved()
        if saved is None:
            raise CheckpointError("the run's checkpoints have disappeared", where=str(self.folder))
        self._restore(saved)
        guard.went_back(failed, self.guard.to_dict())
        self.guard, self.seconds = guard, elapsed
        if self.replay is None or self.replay.of(self.step) == self.replay.number:
            self.loader.state = here
        self.attempt = int(saved.state["attempt"]) + 1
        if self.world.main:
            warn(f"back from step {failed} to step {self.step}, on new data ({guard.skipped} steps left out)")
        if self.metrics is not None:
            self.metrics.cut(self.step)
            self.metrics.write({"step": self.step, "thrown_back_from": failed, "skipped": guard.skipped})
        self.row_step, self.row_clock = self.step, time.perf_counter()
        self._save()

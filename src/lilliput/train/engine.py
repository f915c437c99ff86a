"""The numbers of a step: gradients of a global batch, the update, the tensors that must survive a kill."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np
import torch
from torch import nn

from lilliput.errors import CheckpointError, TrainingError
from lilliput.model.heap import keep_freed_memory
from lilliput.progress import say, warn
from lilliput.train import parallel
from lilliput.train.config import TrainConfig
from lilliput.train.depths import Routed
from lilliput.train.dropout import Dropper
from lilliput.train.layer_skip import LayerSkip
from lilliput.train.likelihood import autocast, window_losses
from lilliput.train.objectives import OBJECTIVES, Objective
from lilliput.train.optimizer import (
    build_optimizer,
    copy_into,
    load_optimizer,
    optimizer_tensors,
    set_learning_rate,
)
from lilliput.train.order import mix

Tensors = dict[str, torch.Tensor]


class Engine:
    """A model in training on this process: the plain `model`, the `live` one that is stepped, its optimizer.

    Alone, `live` shares `model`'s parameters and differs only in being compiled; among several processes it
    is a sharded copy.
    """

    def __init__(
        self,
        model: nn.Module,
        config: TrainConfig,
        device: torch.device,
        world: parallel.World,
        objective: Objective | None = None,
    ) -> None:
        self.model, self.config, self.device, self.world = model, config, device, world
        torch.set_num_threads(max(1, config.threads // world.local_size))
        self.objective = objective or _objective(config, model)
        self.dropper = None if config.dropout is None else Dropper(config.dropout, config.steps, device)
        if device.type == "cpu":
            keep_freed_memory()
        model.to(device)
        self._build()

    def _build(self) -> None:
        if self.world.size == 1:
            self.live = parallel.twin(self.model)
        else:
            self.live = parallel.shard(self.model, self.world, self.device)
        if self.dropper is not None:
            self.dropper.attach(self.live)
        self.optimizer = build_optimizer(self.live, self.config, self.objective.groups(self.live, self.config))
        self.live.train()

    def gradients(self, batch: np.ndarray, step: int, asked: Callable[[], bool]) -> tuple[float, float, bool]:
        """Compute the gradients of the global batch's mean loss.

        batch: this process's windows, int64 (≤ its share, context + 1). Returns the mean loss in nats a
        token, the gradient's global norm, and whether any process is `asked` to stop.
        """
        config, world = self.config, self.world
        torch.manual_seed(mix(config.seed, config.round, step, world.rank) >> 1)
        if self.dropper is not None:
            self.dropper.begin(step)
        self.objective.begin(self.live, step)
        loss_here = self._forward_backward(batch)
        norm = parallel.whole(torch.nn.utils.get_total_norm(self._grads()))
        # One wait for the device a step: both numbers come over together.
        loss, norm_value = torch.stack([loss_here.double(), norm.to(loss_here.device).double()]).tolist()
        loss, stops = world.total([loss, float(asked())], self.device)
        return loss, norm_value, stops > 0

    def update(self, rate: float, norm: float) -> None:
        """Clip by the global norm and apply AdamW."""
        if 0 < self.config.clip < norm:
            torch._foreach_mul_(self._grads(), self.config.clip / norm)
        set_learning_rate(self.optimizer, rate, self.config.lr)
        self.optimizer.step()
        self.objective.updated(self.live)

    def clear(self) -> None:
        """Drop the gradients."""
        self.optimizer.zero_grad(set_to_none=True)

    def _grads(self) -> list[torch.Tensor]:
        return [p.grad for p in self.live.parameters() if p.grad is not None]

    def _forward_backward(self, batch: np.ndarray) -> torch.Tensor:
        """Accumulate gradients by micro batches; returns this process's part of the loss (scalar, nats)."""
        config, world = self.config, self.world
        share = self._share()
        if len(batch) < share:  # every process makes the same passes: fill up with what weighs nothing
            padding = np.full((share - len(batch), *batch.shape[1:]), -100, dtype=np.int64)
            batch = np.concatenate([batch, padding])
        windows = torch.from_numpy(batch).to(self.device, non_blocking=True)
        total = torch.zeros((), device=self.device)
        micro = config.micro_sequences
        for begin in range(0, share, micro):
            parallel.sync_gradients(self.live, begin + micro >= share)
            with autocast(self.config.precision, self.device):
                loss = self.objective.loss(self.live, windows[begin : begin + micro]) / config.batch_tokens
            # fully_shard averages gradients over processes; the batch's mean is their sum.
            torch.autograd.backward(loss * world.size)
            total += loss.detach()
            # The finished graph would stand while the next pass runs, and its small objects keep freed memory apart.
            del loss
        return total

    def losses(self, batch: np.ndarray) -> list[float]:
        """The cross-entropy of each window of a global batch, nats a target, under the weights that `model` holds (see
        `leave_weights`): the processes take their parts and all get the whole.

        batch: int64 (sequences, context + 1). The last bits follow from a window's place in the batch, as in training.
        """
        share = -(-len(batch) // self.world.size)
        mine = slice(self.world.rank * share, (self.world.rank + 1) * share)
        found = np.zeros(len(batch))
        if len(batch[mine]):
            found[mine] = window_losses(self.model, batch[mine], self.config.precision, self.device)
        return self.world.total(found.tolist(), self.device)

    def _share(self) -> int:
        """Windows of the global batch that each process takes."""
        return -(-self.config.batch_sequences // self.world.size)

    def compile(self, *, fresh: bool) -> None:
        """Compile, and prove it on one micro batch.

        On a CPU, and where layers are sharded, each layer by itself: they share one compiled form, and the
        embedding stays as it is, since its compiled gradient adds atomically, in an order that differs from run
        to run. Alone on a GPU, which promises no last bits, all of the model, for the loss gains most there.
        Where it fails, a fresh run goes on without; a resumed one must not.
        """
        if self.world.main:
            say("compiling (may take a minute)")
        whole = self.device.type == "cuda" and self.world.size == 1 and not self.objective.walks
        for block in [self.live] if whole else parallel.blocks(self.live):
            block.forward = torch.compile(block.forward, dynamic=False)
        micro = min(self.config.micro_sequences, self._share())
        shape = (micro, self.config.context + 1, *getattr(self.model, "row", ()))
        window = torch.zeros(shape, dtype=torch.int64, device=self.device)
        try:
            self.objective.begin(self.live, 0)
            with autocast(self.config.precision, self.device):
                loss = self.objective.loss(self.live, window)
            torch.autograd.backward(loss)
            self.clear()
        except Exception as error:  # whatever the compiler's chain throws: there is no narrower type
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            if not fresh or self.world.size > 1:
                raise TrainingError(
                    f"torch.compile fails: {reason}",
                    mend="restore the compiler this run began with, or begin anew with train.compile=false",
                ) from error
            warn(f"torch.compile fails here, training goes on without it: {reason}")
            self.config = replace(self.config, compile=False)
            self._build()

    def tensors(self) -> tuple[Tensors, Tensors]:
        """(weights, optimizer's state), whole, on the CPU; empty on all processes but the first."""
        keep = self.world.main
        weights = parallel.gather(dict(self.live.state_dict()), keep=keep)
        return weights, parallel.gather(optimizer_tensors(self.live, self.optimizer), keep=keep)

    def load(self, weights: Mapping[str, torch.Tensor], moments: Mapping[str, torch.Tensor]) -> None:
        """Put back what `tensors` gave; CheckpointError if it is another model's."""
        own = self.live.state_dict()
        same = set(own) == set(weights)
        if not same or any(own[name].shape != tensor.shape for name, tensor in weights.items()):
            raise CheckpointError(
                "the checkpoint holds a model of another shape",
                mend="give another --out, or remove the old run's folder",
            )
        for name, tensor in own.items():
            copy_into(tensor, weights[name])
        load_optimizer(self.live, self.optimizer, moments)

    def sound(self) -> bool:
        """Whether every weight is finite (on all processes)."""
        bad = torch.zeros((), device=self.device)
        for parameter in self.live.parameters():
            bad += (~parallel.local(parameter.detach()).isfinite()).any()
        return self.world.total([float(bad)], self.device)[0] == 0

    @torch.no_grad()
    def leave_weights(self) -> None:
        """Have `model` hold the trained weights. Alone it shares them already."""
        if self.world.size > 1:
            own = self.model.state_dict()
            for name, tensor in self.live.state_dict().items():
                own[name].copy_(parallel.whole(tensor.detach()))


def _objective(config: TrainConfig, model: nn.Module) -> Objective:
    """What a run learns that is handed no objective."""
    if getattr(model, "config", None) and getattr(model.config, "capacity", 0):
        return Routed()
    if config.layer_dropout is not None or config.exits is not None:
        return LayerSkip(config.steps, config.layer_dropout, config.exits)
    return OBJECTIVES[config.objective]()

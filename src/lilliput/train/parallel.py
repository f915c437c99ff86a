"""More processes: `torchrun` starts them, FSDP2 (`fully_shard`) shards the model, files stay those of one.

The model's code knows nothing of this: a copy of it is sharded from outside. Checkpoints hold whole tensors,
so a run may go on with another number of processes (not to the last bit: sums are then taken in another
order). All processes must see the run's folder; only the first writes.
"""

from __future__ import annotations

import copy
import os
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor

from lilliput.model.shared_block import lenders

# While the first process evaluates and saves, the others wait.
_PATIENCE = timedelta(hours=6)


@dataclass(frozen=True)
class World:
    """This process's place among those that train together."""

    rank: int = 0
    size: int = 1
    local_size: int = 1

    @property
    def main(self) -> bool:
        """Whether this process writes files and speaks."""
        return self.rank == 0

    def wait(self) -> None:
        """Until all processes are here."""
        if self.size > 1:
            dist.barrier()

    def total(self, values: list[float], device: torch.device) -> list[float]:
        """Sums over the processes."""
        if self.size == 1:
            return values
        tensor = torch.tensor(values, dtype=torch.float64, device=device)
        dist.all_reduce(tensor)
        summed: list[float] = tensor.tolist()
        return summed


def asked() -> int:
    """How many processes `torchrun` started; 1 where it did not."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def start(device: torch.device) -> World:
    """Join the processes that `torchrun` started (gloo on a CPU, nccl on GPUs); alone where it did not."""
    size = asked()
    if size == 1:
        return World()
    if not dist.is_initialized():
        if device.type == "cuda":
            torch.cuda.set_device(device)
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=_PATIENCE)
    return World(dist.get_rank(), size, int(os.environ.get("LOCAL_WORLD_SIZE", "1")))


def twin(model: nn.Module) -> nn.Module:
    """A second module tree over the very same parameters, to be compiled without touching the first."""
    shared: dict[int, Any] = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
    return copy.deepcopy(model, shared)


def blocks(model: nn.Module) -> list[nn.Module]:
    """The repeated layers: the entries of the model's module lists."""
    lists = [module for module in model.modules() if isinstance(module, nn.ModuleList)]
    return [block for entries in lists for block in entries]


def shard(model: nn.Module, world: World, device: torch.device) -> nn.Module:
    """A sharded copy of `model`: each layer is one unit, the rest (embedding, head, last norm, and layers whose weights
    others use, too, which must not be put away after the first use) another.

    Gradients are averaged over the processes, so each process scales its loss by their number.
    """
    # A compiled layer's output is a view; nothing here changes it in place, which is what this warns of.
    warnings.filterwarnings("ignore", message="FSDP2-wrapped module .* returned a view tensor")
    mesh = init_device_mesh(device.type, (world.size,))
    copied = copy.deepcopy(model)
    lend = [block for _, block in lenders(copied)]
    for block in blocks(copied):
        if block not in lend:
            fully_shard(block, mesh=mesh)
    fully_shard(copied, mesh=mesh)
    return copied


def sync_gradients(model: nn.Module, now: bool) -> None:
    """Whether the next backward pass exchanges gradients: only the last micro batch needs to."""
    if isinstance(model, FSDPModule):
        model.set_requires_gradient_sync(now)


def whole(tensor: torch.Tensor) -> torch.Tensor:
    """The full tensor from all its shards. A collective: every process must call it."""
    if isinstance(tensor, DTensor):
        full: torch.Tensor = tensor.full_tensor()
        return full
    return tensor


def local(tensor: torch.Tensor) -> torch.Tensor:
    """This process's part of a tensor."""
    if isinstance(tensor, DTensor):
        part: torch.Tensor = tensor.to_local()
        return part
    return tensor


def gather(tensors: Mapping[str, torch.Tensor], *, keep: bool) -> dict[str, torch.Tensor]:
    """Full tensors on the CPU, one at a time; kept only where `keep` (the process that writes)."""
    out: dict[str, torch.Tensor] = {}
    for name, tensor in tensors.items():
        full = whole(tensor.detach())
        if keep:
            out[name] = full.cpu()
    return out

"""AdamW with decoupled weight decay on matrices only, and its state as plain named tensors."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from lilliput.errors import CheckpointError
from lilliput.model.shared_block import uses_of
from lilliput.train.config import TrainConfig

MOMENTS = ("exp_avg", "exp_avg_sq")


def default_groups(model: nn.Module, config: TrainConfig) -> list[dict[str, Any]]:
    """Two groups: tensors of two or more axes decay, norms' scales and biases do not. What n layers use makes two more,
    whose rate is 1/√n of the others'.

    A step of such a tensor is taken in n places of the network at once, which move it √n (independent) to n times
    (alike) as far as a step in one. Its gradient, the sum over the uses, shows that, but to scale the gradient would
    change nothing, since Adam divides it by its own size: the rate has to be scaled. The decay goes with the rate.
    """
    uses = uses_of(model)
    groups = []
    for count in sorted({1, *uses.values()}):
        own = [p for name, p in model.named_parameters() if p.requires_grad and uses.get(name, 1) == count]
        rate = {} if count == 1 else {"rate": config.lr / math.sqrt(count)}
        groups += [
            {"params": [p for p in own if p.dim() >= 2], "weight_decay": config.weight_decay, **rate},
            {"params": [p for p in own if p.dim() < 2], "weight_decay": 0.0, **rate},
        ]
    return groups


def build_optimizer(
    model: nn.Module, config: TrainConfig, groups: list[dict[str, Any]] | None = None
) -> torch.optim.AdamW:
    """Fused AdamW over `groups` (`Objective.groups` says what may stand in one), by default those of
    `default_groups`."""
    groups = default_groups(model, config) if groups is None else groups
    return torch.optim.AdamW(
        [group for group in groups if group["params"]],
        lr=config.lr,
        betas=(config.beta1, config.beta2),
        eps=config.eps,
        fused=True,
    )


def set_learning_rate(optimizer: torch.optim.Optimizer, lr: float, peak: float) -> None:
    """The rate of the next update: `lr`, and for a group with a "rate" of its own that times lr / peak, or just that
    where it is "constant"."""
    for group in optimizer.param_groups:
        own = group.get("rate")
        group["lr"] = lr if own is None else own if group.get("constant") else own * (lr / peak)


def optimizer_tensors(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    """The optimizer's state as `PARAMETER/exp_avg`, `/exp_avg_sq`, `/step`; empty before the first update."""
    out: dict[str, torch.Tensor] = {}
    for name, parameter in model.named_parameters():
        for key, value in optimizer.state.get(parameter, {}).items():
            out[f"{name}/{key}"] = value
    return out


def load_optimizer(model: nn.Module, optimizer: torch.optim.Optimizer, tensors: Mapping[str, torch.Tensor]) -> None:
    """Put back what `optimizer_tensors` gave, exactly. CheckpointError if it is another model's.

    Values are copied into freshly allocated memory, as a first update would allocate it: a memory-mapped
    file has another alignment, which on some machines means other instructions and other last bits.
    """
    known: set[str] = set()
    optimizer.state.clear()
    for name, parameter in model.named_parameters():
        if f"{name}/step" not in tensors:
            continue
        state: dict[str, torch.Tensor] = {}
        state["step"] = tensors[f"{name}/step"].to(dtype=torch.float32, device=parameter.device, copy=True)
        for moment in MOMENTS:
            saved = tensors.get(f"{name}/{moment}")
            if saved is None or saved.shape != parameter.shape:
                raise CheckpointError(f"the optimizer's state does not fit the parameter {name}")
            state[moment] = torch.empty_like(parameter, memory_format=torch.preserve_format)
            copy_into(state[moment], saved)
        optimizer.state[parameter] = state
        known.update(f"{name}/{key}" for key in state)
    strange = set(tensors) - known
    if strange:
        names = ", ".join(sorted(strange)[:3])
        raise CheckpointError(f"the optimizer's state names unknown parameters: {names}")


@torch.no_grad()
def copy_into(target: torch.Tensor, full: torch.Tensor) -> None:
    """Copy a whole tensor into `target`, which may be this process's shard of it (a DTensor)."""
    from torch.distributed.tensor import DTensor, distribute_tensor

    if isinstance(target, DTensor):
        full = full.to(target.device)
        target.copy_(distribute_tensor(full, target.device_mesh, target.placements, src_data_rank=None))
    else:
        target.copy_(full)

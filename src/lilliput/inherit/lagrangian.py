"""The penalty that brings masks to their target sizes, and the objective that learns them (formula: masks.py)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from lilliput.inherit import concrete
from lilliput.inherit.masked import SPACES, MaskedDecoder
from lilliput.train import parallel
from lilliput.train.metrics import read_metrics
from lilliput.train.objectives import Causal, split
from lilliput.train.optimizer import default_groups

if TYPE_CHECKING:
    from lilliput.train.config import TrainConfig

_FIGURES = ("size", "target", "lambda1", "lambda2")


def penalty(model: MaskedDecoder, ramp: float) -> Tensor:
    """Σ over the spaces of mean[λ1·(sp − t) + λ2·(sp − t)²], the mean over layers where a space has them.

    ramp: the share of the target sparsity that holds now.
    """
    total = torch.zeros((), device=model.lambda1.device)
    for index, space in enumerate(model.cut):
        excess = model.sparsity(space) - ramp * sparsity_wanted(model, space)
        total = total + (model.lambda1[index] * excess + model.lambda2[index] * excess.square()).mean()
    return total


def sparsity_wanted(model: MaskedDecoder, space: str) -> float:
    """t, the share of a space's members that must go (of ffn and kv_head: in each layer)."""
    size: int = getattr(model.config, SPACES[space])
    return (size - model.wanted(space)) / size


class Masking(Causal):
    """Cross-entropy of a `MaskedDecoder` and the penalty.

    The value of the loss is the cross-entropy alone, so that what is shown and watched is nats; the gradient is that of
    both. Rates: peaks of logα and of λ. warmup_steps: over which the target sparsity rises from 0.
    """

    rises = True

    def __init__(self, mask_rate: float, lambda_rate: float, warmup_steps: int, target: dict[str, int]) -> None:
        self.mask_rate, self.lambda_rate, self.warmup_steps = mask_rate, lambda_rate, warmup_steps
        self.target = target
        self.ramp = 0.0

    def loss(self, model: nn.Module, windows_BT1: Tensor) -> Tensor:
        likelihood = super().loss(model, windows_BT1)
        added = penalty(_masked(model), self.ramp)
        targets = (split(windows_BT1)[1] >= 0).sum()
        return likelihood + targets * (added - added.detach())

    def groups(self, model: nn.Module, config: TrainConfig) -> list[dict[str, Any]]:
        masked = _masked(model)
        return [
            *default_groups(masked.decoder, config),
            {"params": list(masked.masks.parameters()), "weight_decay": 0.0, "rate": self.mask_rate},
            {
                "params": [masked.lambda1, masked.lambda2],
                "weight_decay": 0.0,
                "rate": self.lambda_rate,
                "maximize": True,
            },
        ]

    def begin(self, model: nn.Module, step: int) -> None:
        self.ramp = min(1.0, step / self.warmup_steps) if self.warmup_steps else 1.0

    @torch.no_grad()
    def updated(self, model: nn.Module) -> None:
        for logalpha in _masked(model).masks.parameters():
            logalpha.clamp_(concrete.LOW, concrete.HIGH)

    @torch.no_grad()
    def figures(self, model: nn.Module) -> dict[str, float]:
        """The penalty, and of each space the members that are expected to stay (the mean over layers), those that
        should by now, and the multipliers."""
        masked = _masked(model)
        lambdas = [parallel.whole(part.detach()).tolist() for part in (masked.lambda1, masked.lambda2)]
        found: dict[str, float] = {"penalty": 0.0}
        for index, space in enumerate(masked.cut):
            size: int = getattr(masked.config, SPACES[space])
            wanted = self.ramp * sparsity_wanted(masked, space)
            expected = concrete.expected_share(parallel.whole(masked.masks[space].detach()))
            excess = (1 - expected) - wanted
            one, two = (part[index] for part in lambdas)
            found["penalty"] += float((one * excess + two * excess.square()).mean())
            found[f"size/{space}"] = size * float(expected.mean())
            found[f"target/{space}"] = size - self.ramp * (size - masked.wanted(space))
            found[f"lambda1/{space}"], found[f"lambda2/{space}"] = one, two
        return found

    def identity(self) -> dict[str, Any]:
        rates = {"mask_rate": self.mask_rate, "lambda_rate": self.lambda_rate}
        return {**rates, "sparsity_warmup_steps": self.warmup_steps, "target": self.target}


def _masked(model: nn.Module) -> MaskedDecoder:
    if not isinstance(model, MaskedDecoder):
        raise TypeError(f"masks are learned in a MaskedDecoder, not in a {type(model).__name__}")
    return model


def log_rows(path: Path) -> list[dict[str, Any]]:
    """What a run's metrics say about its masks, a row for each logged step: step, loss (nats a token, cross-entropy
    alone), penalty, temperature (β, which never changes), and by space size (members expected to stay), target (those
    that should by now), lambda1 and lambda2."""
    rows = []
    for row in read_metrics(path):
        if "penalty" not in row:
            continue
        by_space = {
            name: {key.removeprefix(f"{name}/"): value for key, value in row.items() if key.startswith(f"{name}/")}
            for name in _FIGURES
        }
        plain = {name: row[name] for name in ("step", "loss", "penalty")}
        rows.append({**plain, "temperature": concrete.BETA, **by_space})
    return rows

"""An objective decides what is learned and how each parameter is stepped, and the loop asks it as it says."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from train_support import CPU, model, same, settings, stream

from lilliput.errors import CheckpointError
from lilliput.train.checkpoint import found
from lilliput.train.config import TrainConfig
from lilliput.train.loop import train
from lilliput.train.metrics import read_metrics
from lilliput.train.objectives import Causal, Objective
from lilliput.train.optimizer import build_optimizer, default_groups, set_learning_rate


class Weighed(Causal):
    """Cross-entropy, a loss of its own on the last norm, which is stepped by a rule of its own and kept small."""

    def __init__(self, share: float = 0.5) -> None:
        self.share, self.step = share, 0
        self.calls: list[int] = []

    def loss(self, model: nn.Module, windows_BT1: torch.Tensor) -> torch.Tensor:
        return super().loss(model, windows_BT1) + self.share * self.step * model.model.norm.weight.sum()

    def groups(self, model: nn.Module, config: TrainConfig) -> list[dict[str, Any]]:
        norm = model.model.norm.weight
        others = default_groups(model, config)
        for group in others:
            group["params"] = [p for p in group["params"] if p is not norm]
        return [*others, {"params": [norm], "weight_decay": 0.0, "rate": 0.1, "constant": True, "maximize": True}]

    def begin(self, model: nn.Module, step: int) -> None:
        self.step = step
        self.calls.append(step)

    def updated(self, model: nn.Module) -> None:
        with torch.no_grad():
            model.model.norm.weight.clamp_(max=1.25)

    def figures(self, model: nn.Module) -> dict[str, float]:
        return {"norm": float(model.model.norm.weight.detach().max())}

    def identity(self) -> dict[str, Any]:
        return {"share": self.share}


def test_groups_have_rates_of_their_own(tmp_path: Path) -> None:
    a, b, c = (nn.Parameter(torch.zeros(3)) for _ in range(3))
    groups = [
        {"params": [a], "weight_decay": 0.0},
        {"params": [b], "weight_decay": 0.0, "rate": 0.5},
        {"params": [c], "weight_decay": 0.0, "rate": 0.25, "constant": True, "maximize": True},
        {"params": [], "weight_decay": 0.0},
    ]
    optimizer = build_optimizer(nn.Linear(1, 1), settings(lr=1e-2), groups)
    for p in (a, b, c):
        p.grad = torch.ones(3)
    set_learning_rate(optimizer, 2e-3, 1e-2)
    assert [group["lr"] for group in optimizer.param_groups] == [2e-3, 0.5 * (2e-3 / 1e-2), 0.25]
    optimizer.step()  # Adam's first step is the rate, against the gradient or along it
    for p, wanted in ((a, -2e-3), (b, -0.1), (c, 0.25)):
        torch.testing.assert_close(p.detach(), torch.full((3,), wanted))


def test_the_loop_asks_as_it_says(tmp_path: Path) -> None:
    objective, net = Weighed(), model()
    train(net, stream(), settings(steps=12), tmp_path, device=CPU, objective=objective)
    assert objective.calls == list(range(12))
    rows = [row["norm"] for row in read_metrics(tmp_path / "metrics.jsonl")]
    # The first step's own loss is zero; from then on the norm rises, against its loss, up to the clamp.
    assert rows[-1] == pytest.approx(1.25)
    assert float(net.model.norm.weight.detach().min()) > 1.2
    plain = model()
    train(plain, stream(), settings(steps=12), tmp_path / "plain", device=CPU)
    assert not same(net, plain)


def test_an_objective_resumes_exactly_and_only_with_its_settings(tmp_path: Path) -> None:
    whole, resumed = model(), model(seed=9)
    train(whole, stream(), settings(steps=12), tmp_path / "a", device=CPU, objective=Weighed())
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    shutil.rmtree(found(tmp_path / "b" / "checkpoints")[-1])
    train(resumed, stream(), settings(steps=12), tmp_path / "b", device=CPU, objective=Weighed())
    assert same(whole, resumed)
    left, right = (read_metrics(tmp_path / run / "metrics.jsonl") for run in "ab")
    assert [(row["loss"], row["norm"]) for row in left] == [(row["loss"], row["norm"]) for row in right]
    for other in (Weighed(0.25), None):
        with pytest.raises(CheckpointError, match="share"):
            train(model(), stream(), settings(steps=12), tmp_path / "a", device=CPU, objective=other)


def test_an_objective_must_say_its_loss() -> None:
    with pytest.raises(NotImplementedError):
        Objective().loss(model(), torch.zeros(1, 17, dtype=torch.int64))

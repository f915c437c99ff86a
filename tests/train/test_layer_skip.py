"""Layer dropout and the early exit loss are LayerSkip's formulas (2404.16710), and exact on resume."""

import math
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional as F
from train_support import CPU, model, same, settings, stream

from lilliput.errors import ConfigError
from lilliput.model.sharing import Sharing
from lilliput.recipe import load_recipe
from lilliput.train.config import TrainConfig
from lilliput.train.derive_skip import skips
from lilliput.train.exits import ExitLoss, LayerDropout, exit_flops
from lilliput.train.layer_skip import LayerSkip
from lilliput.train.loop import train

FAMILIES = {
    "llama": {"depth": 3},
    "pangu": {"depth": 3, "family": "pangu", "shortcut": 8, "series": 2},
    "looped": {"depth": 4, "share": Sharing(loops=2)},
}
WINDOWS = torch.randint(0, 64, (3, 17), generator=torch.Generator().manual_seed(1))


def test_layer_dropout_is_its_formula() -> None:
    depth, steps = 5, 9
    for step in range(steps):
        over_time = math.exp(step * math.log(2) / (steps - 1)) - 1
        wanted = [(math.exp(layer * math.log(2) / (depth - 1)) - 1) * over_time * 0.2 for layer in range(depth)]
        assert LayerDropout(0.2).at(depth, step, steps) == pytest.approx(wanted)
    assert LayerDropout(0.2).at(depth, 8, steps)[-1] == pytest.approx(0.2)
    assert LayerDropout(0.2, "constant").at(depth, 0, steps)[::4] == pytest.approx([0, 0.2])
    assert LayerDropout(0.2).at(1, 8, steps) == [0]


def plain_weights(counted: set[int], scale: float) -> list[float]:
    """ẽ of six layers, written down from the paper."""
    e = [scale * sum(range(layer + 1)) for layer in range(5)] + [5 + scale * sum(range(5))]
    total = sum(e[layer] for layer in counted)
    return [e[layer] / total if layer in counted else 0.0 for layer in range(6)]


def test_the_weights_of_exits_are_their_formula() -> None:
    rotating, gradual = ExitLoss(0.3, "rotational", 3), ExitLoss(0.3, "gradual")
    for step, counted in enumerate([{0, 3, 5}, {1, 4, 5}, {2, 5}, {0, 3, 5}]):
        assert rotating.weights(6, step, 60) == pytest.approx(plain_weights(counted, 0.3))
    for step, first in [(0, 5), (4, 5), (5, 4), (14, 3), (30, 0), (59, 0)]:
        assert gradual.weights(6, step, 60) == pytest.approx(plain_weights(set(range(first, 6)), 0.3))
    assert ExitLoss(1.0, "none").weights(6, 0, 60) == pytest.approx(plain_weights(set(range(6)), 1.0))


def test_the_loss_is_the_weighted_sum_over_the_exits() -> None:
    net = model(depth=4).double()
    objective = LayerSkip(10, None, ExitLoss(0.5, "none"))
    objective.begin(net, 0)
    x, wanted = net.model.embed_tokens(WINDOWS[:, :-1]), torch.zeros((), dtype=torch.float64)
    for layer, share in zip(net.model.layers, objective.weights, strict=True):
        x = layer(x, *net.model.turns(16))
        logits = net.model.norm(x) @ net.head_weight().T
        wanted = wanted + share * F.cross_entropy(logits.flatten(0, 1), WINDOWS[:, 1:].flatten(), reduction="sum")
    found = objective.loss(net, WINDOWS)
    torch.testing.assert_close(found.double(), wanted, atol=1e-4, rtol=0)
    ours, theirs = (torch.autograd.grad(loss, list(net.parameters())) for loss in (found, wanted))
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, atol=1e-3, rtol=1e-4)


def test_a_layer_that_is_left_out_leaves_its_sequence_as_it_is() -> None:
    net = model(depth=2)
    objective = LayerSkip(10, LayerDropout(1 - 1e-9, "constant"), None)
    objective.begin(net, 0)
    x = net.model.layers[0](net.model.embed_tokens(WINDOWS[:, :-1]), *net.model.turns(16))
    logits = net.model.norm(x) @ net.head_weight().T
    wanted = F.cross_entropy(logits.flatten(0, 1), WINDOWS[:, 1:].flatten(), reduction="sum")
    torch.testing.assert_close(objective.loss(net, WINDOWS), wanted, atol=1e-3, rtol=0)


def test_layers_are_left_out_as_often_as_asked() -> None:
    net = model(depth=2)
    objective = LayerSkip(10, LayerDropout(0.3, "constant"), None)
    objective.begin(net, 0)
    torch.manual_seed(0)
    windows = WINDOWS[:1].expand(2000, -1)
    loss = objective.loss(net, windows).item() / 2000
    torch.manual_seed(0)
    dropped = (torch.rand(2, 2000)[1] < 0.3).double().mean().item()
    assert dropped == pytest.approx(0.3, abs=0.03)
    objective.rates = [0.0, 0.0]
    kept = objective.loss(net, WINDOWS[:1]).item()
    objective.rates = [0.0, 1.0]
    out = objective.loss(net, WINDOWS[:1]).item()
    assert loss == pytest.approx(dropped * out + (1 - dropped) * kept, abs=1e-3)


@pytest.mark.parametrize("family", FAMILIES.values(), ids=FAMILIES)
def test_a_resumed_run_skips_the_same(tmp_path: Path, family: dict[str, Any]) -> None:
    parts = {"layer_dropout": LayerDropout(0.5), "exits": ExitLoss(0.5, "rotational", 2)}
    config = settings(**parts, keep=9)
    whole, resumed = model(**family), model(**family)
    done = train(whole, stream(), config, tmp_path / "whole", device=CPU)
    shutil.copytree(tmp_path / "whole/checkpoints/step-00000010", tmp_path / "again/checkpoints/step-00000010")
    train(resumed, stream(), config, tmp_path / "again", device=CPU)
    assert same(whole, resumed)
    assert TrainConfig.from_dict(config.to_dict()) == config
    assert done.final_loss < math.log(64) - 0.1


def test_exits_that_do_not_exist_are_refused() -> None:
    train = load_recipe("tiny", ["train.exit_loss=0.2", "train.exit_every=5"]).train
    with pytest.raises(ConfigError, match="every 5 layers do not exist in a model of 4"):
        skips(train, 4)
    assert skips(train, 5)[0] == {"exits": ExitLoss(0.2, "rotational", 5)}
    train = load_recipe("tiny", ["train.exit_loss=0.2"]).train
    with pytest.raises(ConfigError, match="one layer"):
        skips(train, 1)
    assert skips(train, 4)[0] == {"exits": ExitLoss(0.2, "rotational", 3)}


def test_further_exits_are_paid_for() -> None:
    shape = model(depth=4).config
    head = 6.0 * shape.vocab_size * shape.width * 1000
    assert exit_flops(shape, None, 12, 1000) == 0
    # Of each three steps, two count an exit before the last with any weight: that of the first layer has none.
    assert exit_flops(shape, ExitLoss(0.5, "rotational", 3), 12, 1000) == pytest.approx(head * 2 / 3)

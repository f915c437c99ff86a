"""Dropout follows its schedule, leaves the model alone, and a resumed run repeats it to the last bit."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from train_support import CPU, model, same, settings, stream

from lilliput.errors import ConfigError
from lilliput.model.sharing import Sharing
from lilliput.recipe import load_recipe
from lilliput.train import parallel
from lilliput.train.config import TrainConfig
from lilliput.train.dropout import SCHEDULES, Dropout, Dropper
from lilliput.train.loop import train


def rates(schedule: str, **more: float) -> list[float]:
    return [round(Dropout(0.2, schedule, **more).at(step, 5), 6) for step in range(5)]


def test_each_schedule_is_its_formula() -> None:
    assert rates("constant") == [0.2] * 5
    assert rates("linear-up") == [0, 0.05, 0.1, 0.15, 0.2]
    assert rates("linear-down") == [0.2, 0.15, 0.1, 0.05, 0]
    assert rates("cut-off") == [0.2, 0.2, 0.2, 0, 0]
    assert rates("cut-off", turn=0.25) == [0.2, 0.2, 0, 0, 0]
    assert rates("triangular") == [0, 0.1, 0.2, 0.1, 0]
    assert rates("triangular", turn=0.25) == [0, 0.2, 0.133333, 0.066667, 0]
    assert [Dropout(0.2, schedule).at(0, 1) for schedule in SCHEDULES] == [0.2, 0.2, 0, 0.2, 0]


def test_what_is_dropped_is_zero_and_the_rest_is_scaled_up() -> None:
    plain = model(width=64, head_dim=32)
    live = parallel.twin(plain)
    dropper = Dropper(Dropout(0.25), 10, CPU)
    dropper.attach(live)
    dropper.begin(3)
    ids = torch.arange(64)[None].expand(8, -1)
    torch.manual_seed(0)
    before, after = (net.get_submodule("model.embed_tokens")(ids) for net in (plain, live))
    dropped = after == 0
    assert dropped.float().mean() == pytest.approx(0.25, abs=0.01)
    torch.testing.assert_close(after[~dropped], before[~dropped] / 0.75)
    assert not torch.equal(live(ids[:, :16]), live(ids[:, :16]))
    assert torch.equal(plain(ids[:, :16]), plain(ids[:, :16]))


def test_no_rate_is_no_dropout(tmp_path: Path) -> None:
    nets = model(), model()
    for number, (net, dropout) in enumerate(zip(nets, (None, Dropout(0.0)), strict=True)):
        train(net, stream(), settings(dropout=dropout), tmp_path / str(number), device=CPU)
    assert same(*nets)


PANGU = {"family": "pangu", "shortcut": 8, "series": 2}
LOOPED = {"depth": 4, "share": Sharing(loops=2, lora=2)}


@pytest.mark.parametrize(("schedule", "family"), [("linear-down", {}), ("triangular", PANGU), ("constant", LOOPED)])
def test_a_resumed_run_drops_the_same(tmp_path: Path, schedule: str, family: dict[str, Any]) -> None:
    config = settings(dropout=Dropout(0.3, schedule), keep=9)
    whole, resumed = model(**family), model(**family)
    train(whole, stream(), config, tmp_path / "whole", device=CPU)
    shutil.copytree(tmp_path / "whole/checkpoints/step-00000010", tmp_path / "again/checkpoints/step-00000010")
    train(resumed, stream(), config, tmp_path / "again", device=CPU)
    assert same(whole, resumed)
    plain = model(**family)
    train(plain, stream(), settings(), tmp_path / "plain", device=CPU)
    assert not same(whole, plain)


def test_a_run_without_is_identified_as_ever() -> None:
    plain, dropped = settings(), settings(dropout=Dropout(0.1, "triangular", 0.2))
    assert not {"dropout", "layer_dropout", "exits"} & set(plain.to_dict())
    assert TrainConfig.from_dict(dropped.to_dict()) == dropped
    assert not {"dropout", "dropout_turn", "layer_dropout", "exit_loss"} & set(load_recipe("tiny").to_dict()["train"])


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ("train.dropout=1", "less than 1"),
        ("train.dropout=-0.1", "greater than or equal to 0"),
        ("train.dropout_schedule=linear-up", "needs train.dropout"),
        ("train.dropout=0.1 train.dropout_schedule=linear", "linear-up"),
        ("train.dropout=0.1 train.dropout_turn=0.2", "cut-off or triangular"),
        ("train.dropout=0.1 train.dropout_schedule=cut-off train.dropout_turn=1.5", "less than 1"),
        ("train.layer_dropout=1", "less than 1"),
        ("train.layer_dropout_schedule=constant", "needs train.layer_dropout"),
        ("train.exit_loss=1.5", "less than or equal to 1"),
        ("train.exit_every=2", "needs train.exit_loss"),
        ("train.exit_loss=0.5 train.exit_curriculum=gradual train.exit_every=2", "rotational"),
        ("objective=masked train.dropout=0.1", "model.dropout"),
    ],
)
def test_wrong_settings_are_refused(asked: str, message: str) -> None:
    with pytest.raises(ConfigError) as error:
        load_recipe("tiny", asked.split())
    assert message in f"{error.value.message} {error.value.mend}"

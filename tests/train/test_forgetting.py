"""What is told of finished rounds: losses of the same windows before and after, and the texts that were drawn."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from train_support import CPU, model, settings, stream

from lilliput.errors import CheckpointError
from lilliput.model.decoder import Decoder
from lilliput.train.config import TrainConfig
from lilliput.train.forgetting import scoring_cost, told
from lilliput.train.loop import train
from lilliput.train.order import reading
from lilliput.train.replay import read_draw, read_scores
from lilliput.train.rounds import Rounds


class Letters:
    """Numbers as letters: what `told` asks of a tokenizer."""

    bos_id = 0

    def decode(self, ids: list[int]) -> str:
        return " ".join(f"t{number}" for number in ids)


CONFIG = settings(steps=24, rounds=Rounds(3, 0.5, 2, "loss", 0.1, "sequence"))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Decoder]:
    folder, net = tmp_path_factory.mktemp("run"), model()
    train(net, stream(), CONFIG, folder, device=CPU)
    return folder / "rounds", net


def tell(config: TrainConfig, folder: Path, net: Decoder) -> dict[str, Any]:
    return told(config, stream(), folder, net, Letters(), CPU)  # type: ignore[arg-type]


def test_each_part_is_followed_from_the_first_rounds_end_to_the_last(run: tuple[Path, Decoder]) -> None:
    folder, net = run
    found = tell(CONFIG, folder, net)
    assert found["steps"] == [12, 6, 6]
    # So little text that all of it is followed: 12 batches of 6 windows in two parts.
    windows = reading(np.arange(72), 124, CONFIG.seed)
    first = read_scores(folder / "round-2.scores.npz").of(windows)
    given = torch.from_numpy(stream().batch(windows, 16))
    with torch.no_grad():
        nats = net(given[:, :-1], given[:, 1:].contiguous(), reduction="none").double().mean(1).numpy()
    for number, here in enumerate((slice(0, 36), slice(36, 72))):
        row = found["forgetting"][number]
        assert (row["part"], row["windows"]) == (number + 1, 36)
        assert row["first"] == pytest.approx(first[here].mean())
        assert row["last"] == pytest.approx(nats[here].mean(), abs=1e-6)
        assert row["error"] == pytest.approx((nats - first)[here].std(ddof=1) / 6, abs=1e-6)
        assert row["last"] < row["first"]


def test_the_texts_drawn_most_come_first_and_of_these_the_hardest(run: tuple[Path, Decoder]) -> None:
    folder, net = run
    drawn = tell(CONFIG, folder, net)["drawn"]
    assert [(row["round"], row["drawn"]) for row in drawn["rounds"]] == [(2, 36), (3, 36)]
    assert all(row["loss_drawn"] > row["loss_left"] for row in drawn["rounds"])
    assert all(0.1 < row["evenness"] < 0.999 for row in drawn["rounds"])
    most = drawn["most"]
    assert len(most) == 10
    assert [(-row["times"], -row["loss"]) for row in most] == sorted((-row["times"], -row["loss"]) for row in most)
    both = np.intersect1d(*(read_draw(folder / f"round-{number}.draw.npz") for number in (2, 3)))
    assert most[0]["times"] == (2 if len(both) else 1)
    windows = {" ".join(f"t{i}" for i in row[row != 0]) for row in stream().batch(np.arange(124), 16)}
    assert all(row["text"].replace("¶ ", "") in windows for row in most)


def test_scoring_is_charged(run: tuple[Path, Decoder]) -> None:
    folder, net = run
    cost = scoring_cost(net.config, CONFIG, stream(), folder)
    assert cost["tokens"] == 2 * 72 * 16
    assert cost["flops"] == pytest.approx(2 * net.config.parameters() * cost["tokens"])
    assert cost["seconds"] > 0


@pytest.mark.parametrize("weighting", ["uniform", "fresh"])
def test_rounds_that_do_not_weigh_are_told_too(tmp_path: Path, weighting: str) -> None:
    config, net = settings(steps=18, rounds=Rounds(2, 0.5, 3, weighting, 1.0, "batch")), model()
    train(net, stream(), config, tmp_path, device=CPU)
    found = tell(config, tmp_path / "rounds", net)
    assert len(found["forgetting"]) == 3
    if weighting == "fresh":
        assert found["drawn"] is None
    else:
        assert found["drawn"]["rounds"] == [{"round": 2, "drawn": 6}]
        assert found["drawn"]["most"]


def test_a_run_without_rounds_tells_nothing(tmp_path: Path) -> None:
    assert tell(replace(CONFIG, rounds=None), tmp_path, model()) == {}


def test_scores_that_are_gone_are_told(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no readable scores"):
        tell(CONFIG, tmp_path, model())

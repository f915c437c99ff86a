"""torchrun with processes on a CPU (gloo, fully_shard) trains as one process does."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from train_support import CPU, SHARED, model, settings, stream

from lilliput.device import compiler
from lilliput.train.checkpoint import found
from lilliput.train.loop import train
from lilliput.train.metrics import read_metrics
from lilliput.train.replay import draw_file, read_draw, read_scores, scores_file
from lilliput.train.rounds import Rounds

CHILD = Path(__file__).parent / "parallel_child.py"
pytestmark = pytest.mark.skipif(not torch.distributed.is_available(), reason="torch without distributed")


def torchrun(folder: Path, steps: int, batch: int, *more: str) -> str:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    command += [str(CHILD), str(folder), str(steps), str(batch), *more]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False, timeout=200)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stderr


def losses(folder: Path) -> list[float]:
    return [row["loss"] for row in read_metrics(folder / "metrics.jsonl") if "loss" in row]


def norms(folder: Path) -> list[float]:
    return [row["grad_norm"] for row in read_metrics(folder / "metrics.jsonl") if "loss" in row]


def alone(folder: Path, steps: int, batch: int, rounds: Rounds | None = None) -> torch.nn.Module:
    net = model()
    config = settings(steps=steps, batch_sequences=batch, eval_every=10, micro_sequences=2, rounds=rounds)
    train(net, stream(), config, folder, device=CPU, evaluator=lambda _: {"x": 0.0})
    return net


def drop_last(folder: Path) -> None:
    """As if killed before the last checkpoint."""
    shutil.rmtree(found(folder / "checkpoints")[-1])


BATCH = 7  # does not divide by two: one process's share is filled up


@pytest.fixture(scope="module")
def one_and_two(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, torch.nn.Module]:
    """The same run by one process and by two."""
    one, two = tmp_path_factory.mktemp("one"), tmp_path_factory.mktemp("two")
    net = alone(one, 20, BATCH)
    torchrun(two, 20, BATCH)
    return one, two, net


def test_two_processes_give_the_loss_of_one(one_and_two: tuple[Path, Path, torch.nn.Module]) -> None:
    one, two, net = one_and_two
    assert len(losses(two)) == 20
    assert losses(two) == pytest.approx(losses(one), abs=1e-5)
    assert norms(two) == pytest.approx(norms(one), rel=1e-3)
    weights = load_file(two / "weights.safetensors")
    for name, tensor in net.state_dict().items():
        assert torch.allclose(weights[name], tensor, atol=1e-4), name
    result = json.loads((two / "result.json").read_text())
    assert result["steps"] == 20
    assert result["tokens"] == 20 * BATCH * 16
    rows = [row for row in read_metrics(two / "metrics.jsonl") if "evaluation" in row]
    assert [row["step"] for row in rows] == [10, 20]
    # The evaluator saw whole, trained weights.
    trained = float(weights["model.norm.weight"].sum())
    assert rows[-1]["evaluation"]["norm"] == pytest.approx(trained, abs=1e-6)


def test_a_run_goes_on_with_another_number_of_processes(
    tmp_path: Path, one_and_two: tuple[Path, Path, torch.nn.Module]
) -> None:
    one, two, _ = one_and_two
    fewer, more = tmp_path / "fewer", tmp_path / "more"
    shutil.copytree(two, fewer)
    drop_last(fewer)
    alone(fewer, 20, BATCH)
    assert losses(fewer) == pytest.approx(losses(one), abs=1e-5)
    shutil.copytree(one, more)
    drop_last(more)
    torchrun(more, 20, BATCH)
    assert losses(more) == pytest.approx(losses(one), abs=1e-5)


def test_layers_that_share_weights_may_be_sharded(tmp_path: Path) -> None:
    net = model(**SHARED)
    train(net, stream(), settings(steps=6, batch_sequences=BATCH, micro_sequences=2), tmp_path / "one", device=CPU)
    torchrun(tmp_path / "two", 6, BATCH, "shared")
    assert losses(tmp_path / "two") == pytest.approx(losses(tmp_path / "one"), abs=1e-5)
    weights = load_file(tmp_path / "two" / "weights.safetensors")
    assert set(weights) == set(net.state_dict())
    for name, tensor in net.state_dict().items():
        assert torch.allclose(weights[name], tensor, atol=1e-4), name


@pytest.mark.slow
def test_compiled_layers_may_be_sharded(tmp_path: Path, one_and_two: tuple[Path, Path, torch.nn.Module]) -> None:
    if compiler() is None:
        pytest.skip("no C++ compiler")
    told = torchrun(tmp_path, 20, BATCH, "compile")
    assert "compiling" in told
    assert "goes on without" not in told
    assert losses(tmp_path) == pytest.approx(losses(one_and_two[0]), abs=1e-4)


@pytest.mark.slow
def test_two_processes_score_draw_and_go_on_as_one_does(tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    alone(one, 20, BATCH, Rounds(2, 0.5, 2, "loss", 0.1, "sequence"))
    torchrun(two, 20, BATCH, "rounds")
    scores = [read_scores(scores_file(folder / "rounds", 1)) for folder in (one, two)]
    assert scores[0].windows.tolist() == scores[1].windows.tolist()
    assert scores[0].losses == pytest.approx(scores[1].losses, abs=1e-5)
    draws = [read_draw(draw_file(folder / "rounds", 1)).tolist() for folder in (one, two)]
    assert draws[0] == draws[1]
    assert losses(two) == pytest.approx(losses(one), abs=1e-4)
    # Resumed in the second round, and from its first step.
    drop_last(two)
    torchrun(two, 20, BATCH, "rounds")
    assert losses(two) == pytest.approx(losses(one), abs=1e-4)

"""Rounds in the loop: what is scored, drawn and read; a break-off anywhere changes nothing."""

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from train_support import CPU, Stream, model, same, settings, steps_in, stream

from lilliput.errors import CheckpointError, ConfigError
from lilliput.train import replay
from lilliput.train.config import TrainConfig
from lilliput.train.loop import train
from lilliput.train.metrics import read_metrics
from lilliput.train.order import reading
from lilliput.train.replay import draw_file, read_draw, read_scores, scores_file
from lilliput.train.rounds import Plan, Rounds

STEPS, BATCH, CONTEXT = 18, 6, 16


def asked(steps: int = STEPS, **changes: object) -> TrainConfig:
    given = {"count": 2, "rate": 0.5, "parts": 3, "weighting": "loss", "temperature": 0.1, "unit": "batch", **changes}
    return settings(steps=steps, rounds=Rounds(**given))  # type: ignore[arg-type]


class Reads(Stream):
    """A data source that keeps what is read of it, and may break off as a network drive does."""

    def __init__(self, data: Stream, left: int = 10**9) -> None:
        super().__init__(data.tokens)
        self.left, self.seen = left + 1, []  # one read is for the fingerprint

    def batch(self, indices: np.ndarray, context: int) -> np.ndarray:
        if self.left == 0:
            raise ConnectionError("the drive is gone")
        self.left -= 1
        self.seen.append(np.asarray(indices))
        return super().batch(indices, context)


@pytest.fixture(autouse=True)
def _flush_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replay, "FLUSH_SECONDS", 0.0)


def trained(folder: Path, config: TrainConfig, left: int = 10**9) -> tuple[torch.nn.Module, Reads]:
    net, data = model(), Reads(stream(), left)
    train(net, data, config, folder, device=CPU)
    return net, data


@pytest.mark.parametrize("unit", ["batch", "sequence"])
def test_a_later_round_reads_what_was_drawn_and_nothing_else(tmp_path: Path, unit: str) -> None:
    config = asked(unit=unit)
    plan = Plan.of(config)
    assert plan is not None
    _, data = trained(tmp_path, config)
    first = reading(np.arange(plan.ends[0] * BATCH), 124, config.seed)
    read = data.seen[1:]
    assert np.array_equal(np.concatenate(read[:12]), first)
    scored = np.concatenate(read[12:-6])
    assert np.array_equal(scored, np.unique(first))
    units = read_draw(draw_file(tmp_path / "rounds", 1))
    places = (units[:, None] * plan.unit + np.arange(plan.unit)).ravel()
    later = np.concatenate(read[-6:])
    assert np.array_equal(np.sort(later), np.sort(first[places]))
    assert not np.array_equal(later, first[places])  # shuffled
    if unit == "batch":
        # Batches stay as they were read.
        batches = {tuple(row) for row in first.reshape(-1, BATCH)}
        assert {tuple(row) for row in later.reshape(-1, BATCH)} <= batches


def test_the_scores_are_the_loss_under_the_weights_of_that_step(tmp_path: Path) -> None:
    config = asked()
    trained(tmp_path, config)
    scores = read_scores(scores_file(tmp_path / "rounds", 1))
    net = model()
    # The first round alone is the start of the same run: its weights are those that the scores were taken of.
    with pytest.raises(ConnectionError):
        trained(tmp_path / "cut", config, left=12)
    from lilliput.train.checkpoint import load_latest

    saved = load_latest(tmp_path / "cut" / "checkpoints")
    assert saved is not None
    assert saved.path.name == "step-00000012"
    net.load_state_dict(saved.model)
    windows = torch.from_numpy(stream().batch(scores.windows, CONTEXT))
    with torch.no_grad():
        logits = net(windows[:, :-1])
        nats = torch.nn.functional.cross_entropy(logits.transpose(1, 2), windows[:, 1:], reduction="none").mean(1)
    assert np.allclose(scores.losses, nats.numpy(), atol=1e-5)
    assert scores.of(scores.windows[[3, 1]]).tolist() == scores.losses[[3, 1]].tolist()
    assert np.isnan(scores.of(np.array([10**6]))).all()


def test_high_losses_are_drawn_more_often_where_the_temperature_is_low(tmp_path: Path) -> None:
    config = asked(unit="sequence", temperature=0.01)
    trained(tmp_path, config)
    plan = Plan.of(config)
    assert plan is not None
    scores = read_scores(scores_file(tmp_path / "rounds", 1))
    losses = scores.of(reading(np.arange(plan.units), 124, config.seed))
    drawn = np.isin(np.arange(plan.units), read_draw(draw_file(tmp_path / "rounds", 1)))
    assert losses[drawn].mean() > losses[~drawn].mean() + 0.1


def test_fresh_rounds_are_a_run_without(tmp_path: Path) -> None:
    config = asked(weighting="fresh")
    with_rounds, _ = trained(tmp_path / "with", config)
    without, _ = trained(tmp_path / "without", replace(config, rounds=None))
    assert same(with_rounds, without)
    assert not draw_file(tmp_path / "with" / "rounds", 1).exists()
    losses = [[row["loss"] for row in read_metrics(tmp_path / name / "metrics.jsonl")] for name in ("with", "without")]
    assert losses[0] == losses[1]
    assert not (tmp_path / "without" / "rounds").exists()


def test_a_round_is_said_in_every_row_and_one_schedule_spans_them(tmp_path: Path) -> None:
    config = asked(24, count=3, parts=2)
    trained(tmp_path / "three", config)
    trained(tmp_path / "one", replace(config, rounds=None))
    rows, plain = (read_metrics(tmp_path / name / "metrics.jsonl") for name in ("three", "one"))
    assert [row["round"] for row in rows] == [1] * 12 + [2] * 6 + [3] * 6
    assert all("round" not in row for row in plain)
    assert [row["lr"] for row in rows] == [row["lr"] for row in plain]
    assert [row["tokens"] for row in rows] == [row["tokens"] for row in plain]
    # What is read again counts as reading.
    assert [row["epoch"] for row in rows] == [row["epoch"] for row in plain]
    first, second = (read_draw(draw_file(tmp_path / "three" / "rounds", number)) for number in (1, 2))
    assert not np.array_equal(first, second)


@pytest.mark.parametrize("weighting", ["loss", "uniform"])
def test_a_run_that_breaks_off_anywhere_ends_in_the_same_weights(tmp_path: Path, weighting: str) -> None:
    config = asked(weighting=weighting, unit="sequence")
    whole, data = trained(tmp_path / "whole", config)
    reads = len(data.seen) - 1
    # 12 steps, the scoring (four windows at a time), 6 steps of the second round.
    for left in (12, 13, 20, reads - 6, reads - 2) if weighting == "loss" else (12, reads - 6):
        folder = tmp_path / str(left)
        with pytest.raises(ConnectionError):
            trained(folder, config, left)
        again, rest = trained(folder, config)
        assert same(whole, again), left
        rows = [row["loss"] for row in read_metrics(folder / "metrics.jsonl")]
        assert rows == [row["loss"] for row in read_metrics(tmp_path / "whole" / "metrics.jsonl")]
        if 13 <= left < reads - 6:
            # What was scored is not scored again.
            assert len(rest.seen) - 1 == reads - left


def test_it_saves_before_it_scores(tmp_path: Path) -> None:
    with pytest.raises(ConnectionError):
        trained(tmp_path, replace(asked(), save_every=100), left=14)
    assert steps_in(tmp_path) == ["step-00000000", "step-00000012"]
    assert len(read_scores(scores_file(tmp_path / "rounds", 1)).losses) == 8


def test_a_run_killed_after_its_last_step_counts_its_epochs_alike(tmp_path: Path) -> None:
    config = replace(asked(), eval_every=STEPS)
    whole = train(model(), stream(), config, tmp_path / "whole", device=CPU, evaluator=lambda _: {})

    def dies(_: torch.nn.Module) -> dict[str, float]:
        raise ConnectionError("the drive is gone")

    with pytest.raises(ConnectionError):
        train(model(), stream(), config, tmp_path / "cut", device=CPU, evaluator=dies)
    again = train(model(), stream(), config, tmp_path / "cut", device=CPU, evaluator=lambda _: {})
    assert again.epochs == whole.epochs == pytest.approx(STEPS * BATCH / 124)


def test_scores_of_other_weights_are_not_taken(tmp_path: Path) -> None:
    config = asked()
    whole, _ = trained(tmp_path / "whole", config)
    with pytest.raises(ConnectionError):
        trained(tmp_path / "cut", config, left=12)
    (tmp_path / "cut" / "rounds").mkdir()
    for file in (scores_file, draw_file):
        held = dict(np.load(file(tmp_path / "whole" / "rounds", 1)))
        held["weights"] = "another"
        if "losses" in held:
            held["losses"] = held["losses"][::-1]
        np.savez(file(tmp_path / "cut" / "rounds", 1), **held)
    again, _ = trained(tmp_path / "cut", config)
    assert same(whole, again)


def test_a_draw_that_is_gone_or_another_is_told(tmp_path: Path) -> None:
    config = asked()
    with pytest.raises(ConnectionError):
        trained(tmp_path, config, left=12 + 18 + 5)  # after step 15, which is saved
    file = draw_file(tmp_path / "rounds", 1)
    kept = file.read_bytes()
    for damage in (lambda: file.write_bytes(b"no"), file.unlink):
        damage()
        with pytest.raises(CheckpointError, match="draw of this round"):
            trained(tmp_path, config)
        file.write_bytes(kept)
    trained(tmp_path, config)


class Broken(Reads):
    """Some reads bring a token whose embedding is no number."""

    def __init__(self, data: Stream, reads: range) -> None:
        super().__init__(data)
        self.broken = reads

    def batch(self, indices: np.ndarray, context: int) -> np.ndarray:
        windows = super().batch(indices, context)
        if len(self.seen) - 1 in self.broken:
            windows[0, 3] = 63
        return windows


def brittle() -> torch.nn.Module:
    net = model(tied=False)
    with torch.no_grad():
        net.model.embed_tokens.weight[63] = 3e38
    return net


def test_a_round_that_is_thrown_back_stays_in_its_round_and_resumes_exactly(tmp_path: Path) -> None:
    # 12 steps and 18 reads of scoring, then one good step and five that are no numbers: back to where round 2 began.
    config, clean, whole = replace(asked(), save_every=100), stream(vocab=63), brittle()
    data = Broken(clean, range(12 + 18 + 2, 12 + 18 + 7))
    result = train(whole, data, config, tmp_path / "whole", device=CPU)
    assert result.skipped == 5
    drawn = read_draw(draw_file(tmp_path / "whole" / "rounds", 1))
    plan = Plan.of(config)
    assert plan is not None
    first = reading(np.arange(72), 124, config.seed).reshape(12, BATCH)
    units = {tuple(first[unit]) for unit in drawn}
    later = [tuple(seen) for seen in data.seen[1 + 12 + 18 :]]
    # Six steps that were undone, then six more: the round's units twice, each time in an order of its own.
    assert len(later) == 12
    assert set(later[:6]) == set(later[6:]) == units
    rows = read_metrics(tmp_path / "whole" / "metrics.jsonl")
    assert [row["step"] for row in rows if "thrown_back_from" in row] == [12]
    folder = tmp_path / "cut"
    broken = Broken(clean, data.broken)
    broken.left = 12 + 18 + 8
    with pytest.raises(ConnectionError):
        train(brittle(), broken, config, folder, device=CPU)
    assert steps_in(folder) == ["step-00000012", "step-00000012.1"]
    again = brittle()
    train(again, Reads(clean), config, folder, device=CPU)
    assert same(whole, again)


def test_rounds_that_cannot_be_are_refused_before_a_step(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="not one of each of 7 parts"):
        trained(tmp_path, asked(parts=7))
    assert not (tmp_path / "checkpoints").exists()


def test_another_round_setting_is_another_run(tmp_path: Path) -> None:
    trained(tmp_path, asked())
    with pytest.raises(CheckpointError, match="rounds"):
        trained(tmp_path, asked(temperature=2.0))


def test_bf16_scores_too(tmp_path: Path) -> None:
    half, _ = trained(tmp_path / "half", replace(asked(), precision="bf16"))
    trained(tmp_path / "full", asked())
    losses = [read_scores(scores_file(tmp_path / name / "rounds", 1)).losses for name in ("half", "full")]
    assert np.allclose(*losses, atol=0.1)
    assert not np.array_equal(*losses)
    assert {p.dtype for p in half.parameters()} == {torch.float32}


CHILD = """
import sys, time
sys.path.insert(0, sys.argv[2])
from pathlib import Path
from test_replay import *

class Slow(Stream):
    def batch(self, indices, context):
        time.sleep(0.02)
        return super().batch(indices, context)

replay.FLUSH_SECONDS = 0.0
train(model(), Slow(stream().tokens), asked(), Path(sys.argv[1]), device=CPU)
"""


@pytest.mark.parametrize("moment", ["scoring", pytest.param("second round", marks=pytest.mark.slow)])
@pytest.mark.skipif(sys.platform == "win32", reason="needs signals")
def test_kill_9_then_the_same_again_ends_in_the_same_weights(tmp_path: Path, moment: str) -> None:
    whole, data = trained(tmp_path / "whole", asked())
    folder = tmp_path / "killed"
    scores = scores_file(folder / "rounds", 1)

    def reached() -> bool:
        if moment == "scoring":
            return scores.exists() and not draw_file(scores.parent, 1).exists()
        return any(row["round"] == 2 for row in read_metrics(folder / "metrics.jsonl"))

    command = [sys.executable, "-c", CHILD, str(folder), str(Path(__file__).parent)]
    with subprocess.Popen(command, start_new_session=True, env={**os.environ, "OMP_NUM_THREADS": "1"}) as process:
        while not reached():
            assert process.poll() is None, "it ended before the moment came"
            time.sleep(0.002)
        os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    held = read_scores(scores)
    left = -(-(len(held.windows) - len(held.losses)) // 4) + 6
    again, rest = trained(folder, asked())
    assert same(whole, again)
    # Neither the first round nor a window that was scored is read again.
    assert len(rest.seen) - 1 <= left < len(data.seen) - 13 + (moment == "scoring")

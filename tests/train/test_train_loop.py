"""The loop learns, normalises, skips, goes back and reports as it says."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from train_support import CPU, SHARED, Stream, model, same, settings, steps_in, stream

from lilliput.errors import CheckpointError, StorageError, TrainingError
from lilliput.train.checkpoint import found
from lilliput.train.interrupt import Interrupt
from lilliput.train.loop import train
from lilliput.train.metrics import read_metrics
from lilliput.train.order import Cursor, Loader
from lilliput.train.schedule import learning_rate


def reference(steps: int) -> torch.nn.Module:
    """The same training written down plainly: whole batches, textbook AdamW (1711.05101), no engine."""
    config, net = settings(steps=steps), model()
    loader = Loader(stream(), config.context, config.batch_sequences, config.seed, Cursor())
    first = {name: torch.zeros_like(p) for name, p in net.named_parameters()}
    second = {name: torch.zeros_like(p) for name, p in net.named_parameters()}
    for step in range(steps):
        window = torch.from_numpy(loader.next_batch())
        logits = net(window[:, :-1])
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), window[:, 1:].flatten())
        net.zero_grad()
        loss.backward()
        norm = torch.sqrt(sum((p.grad.square().sum() for p in net.parameters()), start=torch.zeros(())))
        scale = min(1.0, config.clip / float(norm))
        rate = learning_rate(config, step)
        with torch.no_grad():
            for name, p in net.named_parameters():
                grad = p.grad * scale
                first[name] += (1 - config.beta1) * (grad - first[name])
                second[name] += (1 - config.beta2) * (grad.square() - second[name])
                if p.dim() >= 2:
                    p -= rate * config.weight_decay * p
                m = first[name] / (1 - config.beta1 ** (step + 1))
                v = second[name] / (1 - config.beta2 ** (step + 1))
                p -= rate * m / (v.sqrt() + config.eps)
    return net


def test_training_is_what_the_textbook_says(tmp_path: Path) -> None:
    trained = model()
    train(trained, stream(), settings(steps=12), tmp_path, device=CPU)
    for (name, ours), (_, theirs) in zip(trained.named_parameters(), reference(12).named_parameters(), strict=True):
        assert torch.allclose(ours, theirs, atol=2e-5), name


def test_it_learns_and_tells(tmp_path: Path) -> None:
    net, seen = model(), []

    def evaluator(given: torch.nn.Module) -> dict[str, float]:
        assert given is net
        newest = max((tmp_path / "checkpoints").glob("step-*"))
        seen.append(int(newest.name[5:]))  # the save comes first
        return {"bits": 1.5}

    config = settings(steps=60, eval_every=25, save_every=20, lr=1e-2)
    result = train(net, stream(), config, tmp_path, device=CPU, evaluator=evaluator)
    assert seen == [25, 50, 60]
    assert (result.steps, result.tokens, result.skipped) == (60, config.tokens, 0)
    assert result.epochs == pytest.approx(60 * 6 / 124)
    rows = read_metrics(tmp_path / "metrics.jsonl")
    steps = [row for row in rows if "loss" in row]
    assert [row["step"] for row in steps] == list(range(1, 61))
    assert steps[-1]["loss"] < steps[0]["loss"] - 0.8
    assert {"tokens", "lr", "grad_norm", "tokens_per_second", "epoch", "seconds", "skipped"} <= set(steps[0])
    assert [row["evaluation"] for row in rows if "evaluation" in row] == [{"bits": 1.5}] * 3
    assert steps_in(tmp_path) == ["step-00000050", "step-00000060"]


def test_rows_hold_the_mean_since_the_last_row(tmp_path: Path) -> None:
    train(model(), stream(), settings(), tmp_path / "all", device=CPU)
    train(model(), stream(), settings(log_every=5), tmp_path / "some", device=CPU)
    every = [row["loss"] for row in read_metrics(tmp_path / "all" / "metrics.jsonl")]
    some = read_metrics(tmp_path / "some" / "metrics.jsonl")
    assert [row["step"] for row in some] == [5, 10, 15, 20]
    assert some[1]["loss"] == pytest.approx(np.mean(every[5:10]), rel=1e-12)


@pytest.mark.parametrize("micro", [1, 4, 6])
def test_accumulation_does_not_change_the_gradient(tmp_path: Path, micro: int) -> None:
    whole, parts = model(), model()
    train(whole, stream(), settings(steps=5, micro_sequences=6), tmp_path / "whole", device=CPU)
    train(parts, stream(), settings(steps=5, micro_sequences=micro), tmp_path / "parts", device=CPU)
    for ours, theirs in zip(whole.parameters(), parts.parameters(), strict=True):
        assert torch.allclose(ours, theirs, atol=1e-5)


def test_the_same_command_again_answers_from_the_checkpoint(tmp_path: Path) -> None:
    first, second = model(), model(seed=9)
    one = train(first, stream(), settings(), tmp_path, device=CPU)
    two = train(second, stream(), settings(), tmp_path, device=CPU)
    assert same(first, second)
    assert (two.steps, two.final_loss, two.skipped) == (one.steps, one.final_loss, one.skipped)


def test_another_run_in_the_same_folder_is_refused(tmp_path: Path) -> None:
    train(model(), stream(), settings(), tmp_path, device=CPU)
    with pytest.raises(CheckpointError, match="lr"):
        train(model(), stream(), settings(lr=1e-4), tmp_path, device=CPU)
    with pytest.raises(CheckpointError, match="training data"):
        train(model(), stream(seed=4), settings(), tmp_path, device=CPU)
    with pytest.raises(CheckpointError, match="another shape"):
        train(model(ffn=48), stream(), settings(), tmp_path, device=CPU)


# --- trouble -----------------------------------------------------------------------------------------

POISON = 63


def poisoned(batches: list[int], config_seed: int = 11) -> Stream:
    """Data in which chosen batches hold a token whose embedding overflows (see `brittle`)."""
    data = stream(6001, vocab=POISON)  # 375 windows: no batch comes twice
    loader = Loader(data, 16, 6, config_seed, Cursor())
    order = [loader.next_indices() for _ in range(max(batches) + 1)]
    for number in batches:
        data.tokens[order[number][0] * 16 + 5] = POISON
    return data


def brittle() -> torch.nn.Module:
    """A real model with one embedding row so large that its gradient is no number."""
    net = model(tied=False)
    with torch.no_grad():
        net.model.embed_tokens.weight[POISON] = 3e38
    return net


def test_a_step_that_is_no_number_is_left_out_and_counted(tmp_path: Path) -> None:
    net = brittle()
    result = train(net, poisoned([3, 7, 8]), settings(), tmp_path, device=CPU)
    assert result.skipped == 3
    assert all(bool(p.isfinite().all()) for p in net.parameters())
    rows = read_metrics(tmp_path / "metrics.jsonl")
    assert [row["skipped"] for row in rows if row["step"] in (3, 4, 8, 9, 20)] == [0, 1, 2, 3, 3]
    assert rows[3]["loss"] is None or rows[3]["grad_norm"] is None


def test_a_few_in_a_row_throw_the_run_back_while_the_data_go_on(tmp_path: Path) -> None:
    net = brittle()
    result = train(net, poisoned([12, 13, 14, 15, 16]), settings(), tmp_path, device=CPU)
    assert (result.steps, result.skipped) == (20, 5)
    # Thrown back from step 17 to 10 (nothing is saved while steps are left out): 7 batches more are read.
    assert result.epochs == pytest.approx(27 * 6 / 375)
    rows = read_metrics(tmp_path / "metrics.jsonl")
    assert [row for row in rows if "thrown_back_from" in row] == [{"step": 10, "thrown_back_from": 17, "skipped": 5}]
    assert [row["step"] for row in rows if "loss" in row] == list(range(1, 21))


def test_a_run_killed_around_a_throw_back_resumes_exactly(tmp_path: Path) -> None:
    bad = [12, 13, 14, 15, 16]
    whole = brittle()
    train(whole, poisoned(bad), settings(), tmp_path / "whole", device=CPU)
    for reads in (11, 14, 16, 17, 18, 22, 25):
        broken, folder = brittle(), tmp_path / str(reads)
        with pytest.raises(ConnectionError):
            train(broken, Failing(poisoned(bad), reads), settings(), folder, device=CPU)
        again = brittle()
        train(again, poisoned(bad), settings(), folder, device=CPU)
        assert same(whole, again), reads


def test_a_run_that_stays_broken_stops_and_says_what_to_change(tmp_path: Path) -> None:
    with pytest.raises(TrainingError) as error:
        train(brittle(), poisoned(list(range(7, 40))), settings(steps=40), tmp_path, device=CPU)
    assert "train.lr" in (error.value.mend or "")


def test_a_rate_far_too_high_is_stopped(tmp_path: Path) -> None:
    config = settings(steps=400, lr=1e3, min_lr=1e3, clip=0.0, warmup_steps=1)
    with pytest.raises(TrainingError, match="does not stay finite"):
        train(model(), stream(), config, tmp_path, device=CPU)


class Failing(Stream):
    """A data source that breaks off, as a network drive does; the process's state is then lost."""

    def __init__(self, data: Stream, reads: int) -> None:
        super().__init__(data.tokens)
        self.left = reads + 1  # one read is for the fingerprint

    def batch(self, indices: np.ndarray, context: int) -> np.ndarray:
        if self.left == 0:
            raise ConnectionError("the drive is gone")
        self.left -= 1
        return super().batch(indices, context)


# --- exact resume ------------------------------------------------------------------------------------


@pytest.mark.parametrize("changes", [{}, {"micro_sequences": 1}, {"schedule": "wsd", "decay_steps": 8}])
def test_n_steps_equal_k_steps_and_the_rest(tmp_path: Path, changes: dict[str, object]) -> None:
    # 124 windows in 6 a step: the epoch's edge is inside step 21.
    config = settings(steps=30, **changes)
    whole = model()
    train(whole, stream(), config, tmp_path / "whole", device=CPU)
    for reads in (0, 1, 7, 20, 21, 22, 29):
        folder = tmp_path / str(reads)
        with pytest.raises(ConnectionError):
            train(model(), Failing(stream(), reads), config, folder, device=CPU)
        again = model()
        train(again, stream(), config, folder, device=CPU)
        assert same(whole, again), reads
        rows = [row["loss"] for row in read_metrics(folder / "metrics.jsonl")]
        assert rows == [row["loss"] for row in read_metrics(tmp_path / "whole" / "metrics.jsonl")]


def test_layers_that_share_weights_resume_exactly_and_are_saved_once(tmp_path: Path) -> None:
    config = settings(steps=12)
    begun, whole = model(**SHARED), model(**SHARED)
    train(whole, stream(), config, tmp_path / "whole", device=CPU)
    assert all(not torch.equal(p, q) for p, q in zip(whole.parameters(), begun.parameters(), strict=True))
    with pytest.raises(ConnectionError):
        train(model(**SHARED), Failing(stream(), 7), config, tmp_path / "killed", device=CPU)
    again = model(**SHARED)
    train(again, stream(), config, tmp_path / "killed", device=CPU)
    assert same(whole, again)
    saved = found(tmp_path / "killed" / "checkpoints")[-1]
    names = {name for name, _ in whole.named_parameters()}
    assert set(load_file(saved / "model.safetensors")) == names
    assert len(load_file(saved / "optimizer.safetensors")) == 3 * len(names)


def test_a_damaged_checkpoint_still_ends_in_the_same_weights(tmp_path: Path) -> None:
    config = settings(steps=30)
    whole = model()
    train(whole, stream(), config, tmp_path / "whole", device=CPU)
    with pytest.raises(ConnectionError):
        train(model(), Failing(stream(), 22), config, tmp_path / "cut", device=CPU)
    newest = tmp_path / "cut" / "checkpoints" / "step-00000020" / "optimizer.safetensors"
    os.truncate(newest, newest.stat().st_size // 2)
    again = model()
    train(again, stream(), config, tmp_path / "cut", device=CPU)
    assert same(whole, again)


def test_a_killed_evaluation_is_made_up_for(tmp_path: Path) -> None:
    def dies(_: torch.nn.Module) -> dict[str, float]:
        raise ConnectionError

    config = settings(eval_every=8)
    with pytest.raises(ConnectionError):
        train(model(), stream(), config, tmp_path, device=CPU, evaluator=dies)
    assert steps_in(tmp_path)[-1] == "step-00000008"
    whole, again = model(), model()
    train(again, stream(), config, tmp_path, device=CPU, evaluator=lambda _: {"x": 1.0})
    train(whole, stream(), config, tmp_path / "whole", device=CPU)
    assert same(whole, again)
    found = [row["step"] for row in read_metrics(tmp_path / "metrics.jsonl") if "evaluation" in row]
    assert found == [8, 16, 20]


def test_a_file_system_that_fills_up_while_training_is_told(tmp_path: Path) -> None:
    script = (
        "import resource, sys; sys.path.insert(0, sys.argv[2])\n"
        "from train_support import *\n"
        "from lilliput.errors import StorageError\n"
        "from lilliput.train.loop import train\n"
        "from pathlib import Path\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[3]),) * 2)\n"
        "try:\n    train(model(), stream(), settings(), Path(sys.argv[1]), device=CPU)\n"
        "except StorageError as error:\n    print(error)\n"
    )
    here = str(Path(__file__).parent)
    for limit in (8_000, 40_000):  # too small for the weights, then for the optimizer's state
        command = [sys.executable, "-c", script, str(tmp_path), here, str(limit)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        assert "no room left" in done.stdout, done.stderr
    whole, again = model(), model()
    train(whole, stream(), settings(), tmp_path / "whole", device=CPU)
    train(again, stream(), settings(), tmp_path, device=CPU)
    assert same(whole, again)


def test_a_full_disk_elsewhere_in_the_run_is_told_too(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").symlink_to("/dev/full")
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full here")
    with pytest.raises(StorageError, match="step-00000000"):
        train(model(), stream(), settings(), tmp_path, device=CPU)


# --- signals -----------------------------------------------------------------------------------------


class Slow(Stream):
    """Takes its time, so that a signal meets a run at work; sends one after some reads."""

    def __init__(self, data: Stream, reads: int, number: int) -> None:
        super().__init__(data.tokens)
        self.reads, self.number = reads, number

    def batch(self, indices: np.ndarray, context: int) -> np.ndarray:
        if self.reads == 0:
            for _ in range(2):  # torchrun passes the terminal's signal on: it comes twice
                os.kill(os.getpid(), self.number)
                time.sleep(0.01)
        self.reads -= 1
        return super().batch(indices, context)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_finishes_the_step_and_saves(tmp_path: Path, number: int) -> None:
    before = signal.getsignal(number)
    with pytest.raises(KeyboardInterrupt):
        train(model(), Slow(stream(), 8, number), settings(), tmp_path, device=CPU)
    assert signal.getsignal(number) is before
    # The signal came while the data of step 8 were read: that step was done, then saved.
    last = steps_in(tmp_path)[-1]
    assert last == "step-00000008"
    assert json.loads((tmp_path / "checkpoints" / last / "state.json").read_text())["step"] == 8
    whole, again = model(), model()
    train(whole, stream(), settings(), tmp_path / "whole", device=CPU)
    train(again, stream(), settings(), tmp_path, device=CPU)
    assert same(whole, again)


def test_a_second_ctrl_c_stops_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lilliput.train.interrupt.SAME_SECONDS", 0.01)
    with Interrupt() as interrupt:
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.05)
        assert interrupt.asked
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(0.05)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


def test_a_thread_may_train_though_it_gets_no_signals(tmp_path: Path) -> None:
    net = model()
    worker = threading.Thread(target=train, args=(net, stream(), settings(), tmp_path), kwargs={"device": CPU})
    worker.start()
    worker.join()
    assert steps_in(tmp_path)[-1] == "step-00000020"


# --- compiled ----------------------------------------------------------------------------------------


@pytest.mark.skipif(sys.platform == "win32", reason="needs a compiler")
def test_compiled_runs_resume_exactly_and_agree_with_plain_ones(tmp_path: Path) -> None:
    from lilliput.device import compiler

    if compiler() is None:
        pytest.skip("no C++ compiler")
    config = settings(steps=12, micro_sequences=3, compile=True)
    whole, again, plain = model(), model(), model()
    train(whole, stream(), config, tmp_path / "whole", device=CPU)
    with pytest.raises(ConnectionError):
        train(model(), Failing(stream(), 8), config, tmp_path / "cut", device=CPU)
    torch._dynamo.reset()
    # What the first machine decided is kept, whatever is derived now.
    train(again, stream(), replace(config, compile=False), tmp_path / "cut", device=CPU)
    assert same(whole, again)
    train(plain, stream(), replace(config, compile=False), tmp_path / "plain", device=CPU)
    for ours, theirs in zip(whole.parameters(), plain.parameters(), strict=True):
        assert torch.allclose(ours, theirs, atol=1e-4)


def test_a_compiler_that_fails_is_gone_without(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    broken = tmp_path / "broken-compiler"
    broken.write_text("#!/bin/sh\nexit 1\n")
    broken.chmod(0o755)
    script = (
        "import sys; sys.path.insert(0, sys.argv[2])\n"
        "from train_support import *\n"
        "from lilliput.train.loop import train\n"
        "from pathlib import Path\n"
        "done = train(model(), stream(), settings(compile=True), Path(sys.argv[1]), device=CPU)\n"
        "print(done.config.compile, done.steps)\n"
    )
    environment = {**os.environ, "CXX": str(broken), "TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "cache")}
    command = [sys.executable, "-c", script, str(tmp_path / "run"), str(Path(__file__).parent)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.stdout.split() == ["False", "20"], done.stderr
    assert "goes on without" in done.stderr


def test_bf16_learns_as_fp32_does_and_keeps_full_weights(tmp_path: Path) -> None:
    config = settings(steps=40, lr=1e-2)
    full = train(model(), stream(), config, tmp_path / "fp32", device=CPU)
    net = model()
    half = train(net, stream(), replace(config, precision="bf16"), tmp_path / "bf16", device=CPU)
    assert {p.dtype for p in net.parameters()} == {torch.float32}
    assert half.final_loss != full.final_loss
    assert half.final_loss == pytest.approx(full.final_loss, abs=0.05)

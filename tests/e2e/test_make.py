"""`lilliput make` as people use it: the answer, again, with other settings, stopped and gone on."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

from e2e_support import SMALL

COMMAND = f"lilliput make tiny corpus=notes.txt {' '.join(SMALL)}"


def test_the_answer_names_everything_that_was_made(tiny_run):
    for name in ("model", "run", "report"):
        assert Path(tiny_run[name]).is_absolute()
        assert Path(tiny_run[name]).exists()
    assert 0 < tiny_run["parameters"] <= 60_000
    assert isinstance(tiny_run["bits_per_byte"], float)
    held = tiny_run["held_out"]
    assert held["low"] <= tiny_run["bits_per_byte"] <= held["high"]
    assert 0 < tiny_run["bits_per_byte"] < tiny_run["baselines"]["uniform"] == 8.0
    assert 0 < tiny_run["baselines"]["xz"] < 8
    assert tiny_run["samples"][0]["text"]
    run = Path(tiny_run["run"])
    for name in ("recipe.yaml", "metrics.jsonl", "checkpoints", "model", "results.json", "report.html"):
        assert (run / name).exists(), name


def test_every_derived_value_is_printed_on_stderr(tiny_run):
    for value in ("batch = ", "lr = ", "warm-up = ", "compile = ", "tokens = "):
        assert value in tiny_run["stderr"]


def test_the_same_command_again_answers_at_once_and_alike(tiny_run, call):
    again = call(f"{COMMAND} --out runs/tiny --json")
    assert again.returncode == 0
    assert json.loads(again.stdout) == {name: value for name, value in tiny_run.items() if name != "stderr"}
    assert "tokens" not in again.stderr


def test_people_read_what_was_made_and_what_to_do_next(tiny_run, call):
    done = call(f"{COMMAND} --out runs/tiny --quiet")
    assert done.returncode == 0
    assert done.stderr == ""
    assert "model          runs/tiny/model" in done.stdout
    assert f"{tiny_run['parameters']:,}" in done.stdout
    assert f"{tiny_run['bits_per_byte']:.4f}" in done.stdout
    assert "xz -9" in done.stdout
    assert "lilliput generate runs/tiny/model" in done.stdout


def test_a_folder_holds_one_run(tiny_run, call):
    other = call(f"{COMMAND} seed=7 --out runs/tiny --json")
    assert other.returncode == 2
    assert "seed" in json.loads(other.stdout)["error"]["message"]
    assert "--out" in json.loads(other.stdout)["error"]["mend"]


def test_without_a_folder_each_settings_have_one_of_their_own(tiny_run, shell, call):
    done = call(f"{COMMAND} --json")
    assert done.returncode == 0
    run = Path(json.loads(done.stdout)["run"])
    assert run.parent == shell.folder / "runs"
    assert run.name.startswith("tiny-")
    assert "(found)" in next(line for line in done.stderr.splitlines() if line.startswith("weights"))
    assert json.loads(done.stdout)["bits_per_byte"] == tiny_run["bits_per_byte"]


def test_ctrl_c_says_how_to_go_on_and_the_same_command_does(shell, tiny_run):
    words = [sys.executable, "-m", "lilliput.cli.main", *COMMAND.split()[1:], "train.eval_every=1000"]
    words += ["seed=3", "--out", "runs/stopped", "--json"]
    running = subprocess.Popen(
        words, cwd=shell.folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ}
    )
    assert running.stderr is not None
    for line in running.stderr:
        if "compile =" in line:
            break
    metrics = shell.folder / "runs" / "stopped" / "metrics.jsonl"
    while running.poll() is None and not (metrics.exists() and metrics.stat().st_size):
        pass
    running.send_signal(signal.SIGINT)
    out, err = running.communicate(timeout=120)
    assert running.returncode == 1, err
    assert json.loads(out)["error"]["kind"] == "interrupted"
    assert "goes on" in err
    assert "Traceback" not in err
    done = subprocess.run(words, cwd=shell.folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["parameters"] == tiny_run["parameters"]

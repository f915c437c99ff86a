"""`lilliput ladder` on the command line: what it refuses, where it puts a ladder, what it prints as JSON."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lilliput.cli.ladder import default_folder
from lilliput.cli.main import run
from lilliput.lab.ladder.ask import read_ask


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--rates many", "--rates 0.5,1,2"),
        ("--rates 1,1", "different shares"),
        ("inherit.teacher=x", "trains its own teacher"),
        ("train.token=3M", "did you mean train.tokens?"),
        ("corpus=gone.txt", "gone.txt"),
        ("--task blimp", "--data DIR"),
        ("--task blimpp --data .", "blimp"),
        ("budget.params=25k", "budget.params"),
    ],
)
def test_a_mistake_is_refused_before_any_work(
    words: str, message: str, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    text = " ".join(f"word{number}" for number in range(4000))
    (tmp_path / "words.txt").write_text(text)
    given = [] if "corpus=" in words else ["corpus=words.txt"]
    assert run(["ladder", "tiny", *given, *words.split(), "--json"]) == 2
    error = json.loads(capfd.readouterr().out)["error"]
    assert message in f"{error['message']} {error['where']} {error['mend']}"
    assert error["mend"]


def test_a_ladder_has_a_folder_of_its_own() -> None:
    assert default_folder(read_ask("demo", [])) == Path("runs/ladder-demo")
    other = default_folder(read_ask("demo", ["train.tokens=1M"]))
    assert other.name.startswith("ladder-demo-")
    assert other != default_folder(read_ask("demo", ["train.tokens=2M"]))
    # Other rates or another teacher make another ladder, so it has another folder.
    for options in ({"rates": (0.5, 1.0, 2.0)}, {"teacher_size": 2.0}):
        assert default_folder(read_ask("demo", [], **options)).name.startswith("ladder-demo-")
    assert default_folder(read_ask("demo", [], rates=(1.0,), seeds=2)) == Path("runs/ladder-demo")
    # More seeds go on in the same folder.
    one, three = (default_folder(read_ask("tiny", ["seed=1"], seeds=seeds)) for seeds in (1, 3))
    assert one == three

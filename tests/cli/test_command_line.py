"""The command line as a shell sees it: help, version, wrong requests, and how fast it answers."""

import json
import os
import subprocess
import sys

import pytest

from lilliput import __version__
from lilliput.cli.main import app, main

VERBS = {"make", "generate", "chat", "evaluate", "doctor", "study", "tokenizer"}
GROUPS = {"study", "tokenizer"}


def test_help_names_every_verb(lilliput):
    for words in ([], ["--help"]):
        ran = lilliput(*words)
        assert ran.code == 0
        assert all(f"  {verb} " in ran.out for verb in VERBS)


@pytest.mark.parametrize("verb", [*sorted(VERBS), "study run", "tokenizer count"])
def test_every_verb_has_help(verb, lilliput):
    ran = lilliput(*verb.split(), "--help")
    assert ran.code == 0
    assert ran.out.startswith(f"Usage: lilliput {verb}")


def test_version(lilliput):
    assert lilliput("--version").out == f"lilliput {__version__}\n"


def test_help_imports_nothing_heavy():
    check = (
        "import sys; from lilliput.cli.main import app; "
        "print(*{'torch','numpy','pydantic','yaml','rich','tokenizers','jinja2'} & set(sys.modules))"
    )
    found = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True)
    assert found.stdout.split() == []


def test_help_answers_at_once(lilliput):
    def seconds():
        began = os.times()
        lilliput("--help")
        ended = os.times()
        return ended.children_user - began.children_user + ended.children_system - began.children_system

    # Processor time of the best of several: what is measured is the program, not what else the machine does.
    assert min(seconds() for _ in range(5)) < 0.4


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("mkae", "no such command: mkae [lilliput] → did you mean make?"),
        ("study shw", "no such command: shw [lilliput study] → did you mean show?"),
        ("study run", "missing argument"),
        ("make --uot x", "no such option: --uot"),
        ("make --seed 3", "settings have no dashes: seed=VALUE"),
        ("generate --promt x", "no such option: --promt [lilliput generate] → did you mean --prompt?"),
        ("generate", "missing argument 'model'"),
        ("generate m --max-new many", "--max-new"),
        ("generate m --top-p 2", "--top-p"),
        ("evaluate m", "nothing to evaluate on"),
        ("make dmeo", "no recipe called 'dmeo' [RECIPE] → did you mean demo?"),
        ("make nowhere.yaml", "no recipe called 'nowhere.yaml'"),
        ("make tiny train.lrr=3", "unknown key train.lrr [tiny] → did you mean train.lr?"),
        ("make tiny train.lr=fast", "train.lr"),
        ("make tiny train.lr=-1", "train.lr"),
        ("make tiny budget.params=many", "budget.params"),
        ("make tiny budget.params=1", "budget.params"),
        ("make tiny seed", "not a setting: 'seed'"),
        ("make tiny train=3", "train has keys of its own"),
        ("make tiny train.tokens=1M train.schedule=cosin", "train.schedule"),
        ("make train.lrr=3", "[demo]"),
    ],
)
def test_a_wrong_request_is_refused_with_the_way_to_mend_it(words, message, lilliput):
    ran = lilliput(*words.split())
    assert ran.code == 2
    assert ran.out == ""
    assert ran.err.startswith("error: ")
    assert ran.err.count("\n") == 1
    assert message in ran.err
    assert "→" in ran.err
    again = lilliput(*words.split(), "--json")
    assert again.code == 2
    assert again.json["exit_code"] == 2
    assert set(again.json["error"]) == {"kind", "message", "where", "mend"}
    assert again.json["error"]["message"] in ran.err


def test_verbs_share_their_options():
    import typer

    group = typer.main.get_command(app)
    commands = {name: command for name, command in group.commands.items() if name not in GROUPS}
    for name in GROUPS:
        commands |= group.commands[name].commands
    for name, command in commands.items():
        options = {option for parameter in command.params for option in parameter.opts}
        assert {"--json", "--quiet"} <= options, name


def test_doctor_says_what_this_machine_can_do(lilliput):
    ran = lilliput("doctor", "--json")
    assert ran.code == 0
    found = ran.json
    assert found["lilliput"] == __version__
    assert found["cpu"]["cores"] >= 1
    assert set(found["extras"]) == {"hf", "data", "tokenizers", "lab", "log"}
    assert isinstance(found["advice"], list)
    text = lilliput("doctor")
    assert text.code == 0
    assert "torch" in text.out


def test_doctor_tells_of_a_store_that_cannot_be_written(lilliput, tmp_path):
    (tmp_path / "file").write_text("no folder")
    ran = lilliput("doctor", "--json", env={"LILLIPUT_STORE": str(tmp_path / "file")})
    assert ran.json["store"]["writable"] is False
    assert any("LILLIPUT_STORE" in line for line in ran.json["advice"])


def test_with_json_nothing_else_reaches_stdout():
    noisy = (
        "import os, sys\n"
        "from lilliput.cli.outcome import Answer, finish, stdout_for_answer\n"
        "with stdout_for_answer(as_json=True) as real:\n"
        "    print('a library prints'); os.system('echo a child prints')\n"
        "    finish(Answer({'ok': 1}, None), as_json=True, descriptor=real)\n"
    )
    done = subprocess.run([sys.executable, "-c", noisy], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == {"ok": 1}
    assert "a library prints" in done.stderr
    assert "a child prints" in done.stderr


@pytest.mark.parametrize(
    ("given", "left"),
    [
        ({}, "1000"),
        ({"GOMP_SPINCOUNT": "5"}, "5"),
        ({"OMP_WAIT_POLICY": "active"}, None),
    ],
)
def test_waiting_threads_leave_their_cores_to_others(given, left, monkeypatch, capsys):
    for name in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY"):
        # Set first, so that whatever the command sets is taken back after the test.
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(sys, "argv", ["lilliput", "--version"])
    with pytest.raises(SystemExit):
        main()
    assert os.environ.get("GOMP_SPINCOUNT") == left
    assert capsys.readouterr().out.startswith("lilliput ")

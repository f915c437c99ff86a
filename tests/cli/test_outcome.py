"""Every way a command can end gives one clear line, the right exit code, and with --json one object."""

import errno
import json
import os

import pytest

from lilliput.cli.outcome import Answer, Failure, explain, finish, guarded, write_all
from lilliput.errors import LilliputError, ModelError, TrainingError


@pytest.mark.parametrize(
    ("error", "code", "kind", "words"),
    [
        (ModelError("no model", where="here", mend="make one"), 2, "model", "no model"),
        (TrainingError("exploded"), 1, "training", "exploded"),
        (KeyboardInterrupt(), 1, "interrupted", "stopped"),
        (OSError(errno.ENOSPC, "No space left on device", "x"), 1, "storage", "disk is full"),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), 1, "storage", "disk is full"),
        (RuntimeError("I/O error: No space left on device (os error 28)"), 1, "storage", "disk is full"),
        (OSError(errno.EIO, "Input/output error", "x"), 1, "storage", "input/output error"),
        (FileNotFoundError(errno.ENOENT, "No such file", "gone.txt"), 2, "request", "no such file"),
        (PermissionError(errno.EACCES, "Permission denied", "/locked"), 2, "request", "no permission"),
        (IsADirectoryError(errno.EISDIR, "Is a directory", "d"), 2, "request", "is a directory"),
        (MemoryError(), 1, "memory", "not enough memory"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"), 1, "memory", "not enough memory"),
        (RuntimeError("CUDA out of memory. Tried to allocate"), 1, "memory", "not enough memory"),
        (ZeroDivisionError("division by zero"), 1, "internal", "internal error: ZeroDivisionError"),
        (EOFError(), 1, "internal", "internal error: EOFError"),
    ],
)
def test_every_error_has_a_kind_a_code_and_a_mend(error, code, kind, words):
    known = explain(error)
    assert isinstance(known, LilliputError)
    assert (known.exit_code, known.kind) == (code, kind)
    assert words in str(known)
    assert "\n" not in str(known)
    if kind != "training":
        assert known.mend


def _finish(outcome, *, as_json):
    reader, writer = os.pipe()
    code = finish(outcome, as_json=as_json, descriptor=writer)
    os.close(writer)
    with os.fdopen(reader, "rb") as end:
        return code, end.read().decode()


def test_the_answer_is_one_json_object_or_text():
    answer = Answer({"model": "/m", "name": "größe"}, "made /m")
    assert _finish(answer, as_json=True) == (0, '{"model": "/m", "name": "größe"}\n')
    assert _finish(answer, as_json=False) == (0, "made /m\n")
    assert _finish(Answer(None, None), as_json=True) == (0, "")


def test_an_error_is_one_line_on_stderr_and_an_object_with_json(capsys):
    failure = Failure(ModelError("no model", where="here", mend="make one"))
    assert _finish(failure, as_json=False) == (2, "")
    assert capsys.readouterr().err == "error: no model [here] → make one\n"
    code, out = _finish(failure, as_json=True)
    assert code == 2
    assert json.loads(out) == {
        "error": {"kind": "model", "message": "no model", "where": "here", "mend": "make one"},
        "exit_code": 2,
    }


def test_a_closed_pipe_is_no_error(capsys):
    assert _finish(Failure(BrokenPipeError(errno.EPIPE, "Broken pipe")), as_json=False) == (0, "")
    assert capsys.readouterr().err == ""


def test_a_traceback_is_shown_only_on_request(capsys, monkeypatch):
    @guarded
    def broken() -> Answer:
        raise ValueError("odd\nand long")

    monkeypatch.delenv("LILLIPUT_DEBUG", raising=False)
    finish(broken(), as_json=False, descriptor=1)
    err = capsys.readouterr().err
    assert "internal error: ValueError: odd and long" in err
    assert "Traceback" not in err
    assert err.count("\n") == 1
    monkeypatch.setenv("LILLIPUT_DEBUG", "1")
    finish(broken(), as_json=False, descriptor=1)
    assert "Traceback" in capsys.readouterr().err


def test_text_is_utf8_whatever_the_terminal(tmp_path):
    with open(tmp_path / "out", "wb") as file:
        write_all(file.fileno(), "naïve \ud800 ☃")
    assert (tmp_path / "out").read_bytes().decode() == "naïve ? ☃"

"""What every test may use."""

import inspect
import os
import signal
import statistics
import sys
import typing
from collections.abc import Iterator
from pathlib import Path

import pytest

from lilliput import progress


def pytest_configure() -> None:
    # Workers that run tests side by side ignore Ctrl-C, and so would the programs that the tests start and interrupt.
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The development data (real corpora, benchmarks), no part of the project; absent: the test is skipped."""
    asked = os.environ.get("LILLIPUT_DATA")
    if not asked or not Path(asked).is_dir():
        pytest.skip("the development data is not here (LILLIPUT_DATA)")
    return Path(asked)


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of real text that every machine has: two modules of Python's library."""
    file = tmp_path_factory.mktemp("text") / "modules.txt"
    file.write_text(inspect.getsource(typing) + "\n\n" + inspect.getsource(statistics), encoding="utf-8")
    return file


@pytest.fixture(scope="session", autouse=True)
def _own_store(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Tests share one store of their own and leave the person's alone."""
    os.environ["LILLIPUT_STORE"] = str(tmp_path_factory.mktemp("store"))


@pytest.fixture(autouse=True)
def _speaks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each test begins in a process that speaks and has warned of nothing yet: a command run with --quiet before it, in
    the same process, would silence it."""
    monkeypatch.setattr(progress, "_quiet", False)
    monkeypatch.setattr(progress, "_told", set())


@pytest.fixture
def own_modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Where transformers copies the classes of model directories to: a folder of the test's own."""
    pytest.importorskip("transformers")
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.setattr(sys, "path", [*sys.path])
    yield
    for name in [name for name in sys.modules if name.split(".")[0] == "transformers_modules"]:
        del sys.modules[name]

"""Stage outputs: found by hash, built once, whole or not at all."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lilliput.errors import StorageError
from lilliput.store import Store, atomic_dir, canonical_hash, read_json, write_atomic, write_json

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)


@given(st.dictionaries(st.text(), JSON))
def test_the_hash_ignores_the_order_of_keys(value: dict[str, object]) -> None:
    assert canonical_hash(value) == canonical_hash(dict(reversed(value.items())))


def test_the_hash_tells_values_apart() -> None:
    assert canonical_hash({"a": 1}) != canonical_hash({"a": 2}) != canonical_hash({"b": 2})


def test_a_stage_is_built_once_and_found_again(tmp_path: Path) -> None:
    calls = []

    def build(folder: Path) -> dict[str, int]:
        calls.append(folder)
        (folder / "data").write_text("x")
        return {"size": 1}

    first = Store(tmp_path).stage("corpus", {"a": 1}, build)
    second = Store(tmp_path).stage("corpus", {"a": 1}, build)
    other = Store(tmp_path).stage("corpus", {"a": 2}, build)
    assert (first.fresh, second.fresh, other.fresh) == (True, False, True)
    assert len(calls) == 2
    assert second.path == first.path != other.path
    assert (second.path / "data").read_text() == "x"
    assert second.manifest == {"size": 1}


def test_a_failed_stage_leaves_nothing(tmp_path: Path) -> None:
    def build(folder: Path) -> dict[str, int]:
        (folder / "half").write_text("x")
        raise OSError("stopped")

    with pytest.raises(OSError, match="stopped"):
        Store(tmp_path).stage("corpus", {}, build)
    assert [path.suffix for path in (tmp_path / "corpus").iterdir()] == [".lock"]


def test_two_threads_build_one_stage(tmp_path: Path) -> None:
    built = []

    def build(folder: Path) -> dict[str, int]:
        time.sleep(0.3)
        built.append(1)
        return {}

    threads = [threading.Thread(target=lambda: Store(tmp_path).stage("s", {}, build)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert built == [1]


def test_a_killed_process_blocks_nobody_and_its_remains_are_removed(tmp_path: Path) -> None:
    script = (
        "import sys, time\nfrom lilliput.store import Store\n"
        "def build(folder):\n (folder / 'half').write_text('x'); print('in', flush=True); time.sleep(60)\n"
        "Store(sys.argv[1]).stage('s', {}, build)\n"
    )
    with subprocess.Popen([sys.executable, "-c", script, str(tmp_path)], stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "in\n"
        os.kill(child.pid, signal.SIGKILL)
    stage = Store(tmp_path).stage("s", {}, lambda folder: {"whole": True})
    assert stage.fresh
    assert not (stage.path / "half").exists()
    assert sorted(path.suffix for path in (tmp_path / "s").iterdir()) == ["", ".lock"]


def test_an_atomic_folder_replaces_the_old_one(tmp_path: Path) -> None:
    for text in ("one", "two"):
        with atomic_dir(tmp_path / "model") as folder:
            (folder / text).write_text(text)
    assert [path.name for path in (tmp_path / "model").iterdir()] == ["two"]
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_a_failed_write_keeps_the_old_file(tmp_path: Path) -> None:
    target = tmp_path / "file"
    write_atomic(target, "old")
    with pytest.raises(TypeError):
        write_atomic(target, 3)  # type: ignore[arg-type]
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


def test_damaged_json_is_named(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"a": "ä"})
    assert read_json(tmp_path / "a.json") == {"a": "ä"}
    (tmp_path / "a.json").write_text("{")
    with pytest.raises(StorageError, match="damaged"):
        read_json(tmp_path / "a.json")

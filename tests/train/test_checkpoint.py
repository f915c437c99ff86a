"""Checkpoints appear whole or not at all; damage is found; a full disk leaves the last good one."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
import torch

from lilliput.errors import CheckpointError, StorageError
from lilliput.train import checkpoint

WEIGHTS = {"a": torch.arange(1000.0), "b": torch.ones(3, 4)}
MOMENTS = {"a/exp_avg": torch.full((1000,), 0.5), "a/step": torch.tensor(7.0)}


def save(folder: Path, step: int, **more: int) -> Path:
    return checkpoint.save(folder, step, WEIGHTS, MOMENTS, {"x": 1 / 3, "n": step}, **more)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_what_is_saved_comes_back_exactly(tmp_path: Path) -> None:
    save(tmp_path, 12)
    saved = checkpoint.load_latest(tmp_path)
    assert saved is not None
    assert saved.path.name == "step-00000012"
    assert all(torch.equal(saved.model[name], tensor) for name, tensor in WEIGHTS.items())
    assert all(torch.equal(saved.optimizer[name], tensor) for name, tensor in MOMENTS.items())
    assert saved.state["x"] == 1 / 3
    assert names(saved.path) == ["SHA256SUMS", "model.safetensors", "optimizer.safetensors", "state.json"]


def test_the_sums_are_those_sha256sum_reads(tmp_path: Path) -> None:
    path = save(tmp_path, 1)
    done = subprocess.run(["sha256sum", "-c", "SHA256SUMS"], cwd=path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_last_two_are_kept(tmp_path: Path) -> None:
    for step in (0, 5, 10, 15):
        save(tmp_path, step)
    assert names(tmp_path) == ["step-00000010", "step-00000015"]


def test_order_is_by_step_then_attempt(tmp_path: Path) -> None:
    save(tmp_path, 99_999_999, keep=9)
    save(tmp_path, 5, keep=9)
    save(tmp_path, 100_000_000, keep=9)
    save(tmp_path, 5, attempt=10, keep=9)
    save(tmp_path, 5, attempt=2, keep=9)
    found = [path.name for path in checkpoint.found(tmp_path)]
    assert found == [
        "step-00000005",
        "step-00000005.2",
        "step-00000005.10",
        "step-99999999",
        "step-100000000",
    ]


def test_nothing_there_is_a_new_run(tmp_path: Path) -> None:
    assert checkpoint.load_latest(tmp_path / "none") is None


def damage(path: Path, how: str) -> None:
    target = path / "model.safetensors"
    if how == "bit":
        raw = bytearray(target.read_bytes())
        raw[-5] ^= 1
        target.write_bytes(raw)
    elif how == "torn":
        os.truncate(target, 100)
    elif how == "gone":
        target.unlink()
    elif how == "sums gone":
        (path / "SHA256SUMS").unlink()
    elif how == "sums torn":
        os.truncate(path / "SHA256SUMS", 70)
    else:
        state = json.loads((path / "state.json").read_text())
        (path / "state.json").write_text(json.dumps({**state, "n": -1}))


KINDS = ["bit", "torn", "gone", "sums gone", "sums torn", "edited"]


@pytest.mark.parametrize("how", KINDS)
def test_a_damaged_checkpoint_leaves_the_one_before(
    tmp_path: Path, how: str, capsys: pytest.CaptureFixture[str]
) -> None:
    save(tmp_path, 5)
    damage(save(tmp_path, 10), how)
    saved = checkpoint.load_latest(tmp_path)
    assert saved is not None
    assert saved.state["n"] == 5
    assert "step-00000010" in capsys.readouterr().err
    assert names(tmp_path) == ["step-00000005"]


def test_only_damaged_ones_are_an_error_and_stay(tmp_path: Path) -> None:
    damage(save(tmp_path, 5), "bit")
    damage(save(tmp_path, 10), "torn")
    with pytest.raises(CheckpointError) as error:
        checkpoint.load_latest(tmp_path)
    assert error.value.mend
    assert names(tmp_path) == ["step-00000005", "step-00000010"]


def test_what_a_killed_save_left_is_cleared(tmp_path: Path) -> None:
    save(tmp_path, 5)
    (tmp_path / ".step-00000010.x8").mkdir()
    (tmp_path / ".step-00000010.x8" / "model.safetensors").write_bytes(b"half")
    assert checkpoint.load_latest(tmp_path) is not None
    assert names(tmp_path) == ["step-00000005"]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A real file system of 128 kB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=128k", "tmpfs", str(folder)]
    try:
        mounted = subprocess.run(mount, capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        mounted = False
    if not mounted:
        pytest.skip("this user may not mount a file system")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.parametrize("room", [0, 1, 3, 5], ids=lambda pages: f"{pages} pages free")
def test_a_full_disk_leaves_the_last_good_state_and_says_how_to_go_on(small_disk: Path, room: int) -> None:
    # A checkpoint takes six pages here: the disk fills up in each of its files in turn.
    folder = small_disk / "checkpoints"
    save(folder, 5)
    save(folder, 10)
    filler = small_disk / "filler"
    with suppress(OSError), open(filler, "wb", buffering=0) as file:
        while True:
            file.write(b"x" * 512)
    os.truncate(filler, filler.stat().st_size - 4096 * room)
    with pytest.raises(StorageError) as error:
        save(folder, 15)
    assert "step-00000010" in error.value.message
    assert "same command" in (error.value.mend or "")
    assert names(folder) == ["step-00000005", "step-00000010"]
    filler.unlink()
    saved = checkpoint.load_latest(folder)
    assert saved is not None
    assert saved.state["n"] == 10
    del saved  # its tensors are maps of the files, which would keep the disk busy
    save(folder, 15)
    assert names(folder) == ["step-00000010", "step-00000015"]


LIMITED = """
import resource, sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from test_checkpoint import save
from lilliput.errors import StorageError
folder = Path(sys.argv[1])
save(folder, 5)
resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))
try:
    save(folder, 10)
except StorageError as error:
    print(error)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="needs resource limits")
def test_a_file_size_limit_is_told_as_a_full_disk(tmp_path: Path) -> None:
    command = [sys.executable, "-c", LIMITED, str(tmp_path), str(Path(__file__).parent)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "step-00000005" in done.stdout
    assert names(tmp_path) == ["step-00000005"]

"""A cache answers as the teacher does, is found by content, and goes on after a kill."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from distil_support import CONTEXT, CPU, VOCAB, Stream, decoder, settings, windows

from lilliput.errors import ConfigError, StorageError
from lilliput.inherit import teacher_cache
from lilliput.inherit.distil import Distil
from lilliput.inherit.teacher_cache import Cached, cache, position_bytes
from lilliput.inherit.teacher_logits import Live
from lilliput.train.loop import train
from lilliput.train.metrics import read_metrics
from lilliput.train.order import Cursor, Loader

EVERY = settings(steps=40)


def fill(folder: Path, k: int = VOCAB, teacher: Live | None = None, **changes: Any) -> teacher_cache.Caching:
    asked = {"shards": Stream(), "config": EVERY, "vocab": VOCAB, "k": k, **changes}
    return cache(folder, teacher or Live(decoder(1)), **asked)


def real_windows(data: Stream, indices: Any = range(6)) -> torch.Tensor:
    return torch.from_numpy(data.batch(np.array(list(indices)), CONTEXT))


@pytest.mark.parametrize("ids", [None, torch.tensor([0, *range(5, 40)])])
@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_with_every_piece_it_answers_as_the_teacher_does(tmp_path: Path, ids: Any, temperature: float) -> None:
    vocab = VOCAB if ids is None else len(ids)
    data, student = Stream(vocab=vocab), decoder(0, vocab_size=vocab)
    live = Live(decoder(1), temperature=temperature, ids=ids)
    done = fill(tmp_path / "c", k=99, teacher=live, shards=data, vocab=vocab)
    mix: dict[str, Any] = {"share": 0.7, "temperature": temperature, "ids": ids}
    given = torch.cat([real_windows(data), torch.full((1, CONTEXT + 1), -100)])
    losses, gradients = [], []
    for teacher in (Cached(done.folder), live):
        student.zero_grad()
        loss = Distil(teacher, **mix).loss(student, given)
        loss.backward()
        losses.append(float(loss.detach()) / (6 * CONTEXT))
        gradients.append(torch.cat([parameter.grad.flatten() for parameter in student.parameters()]))
    assert losses[0] == pytest.approx(losses[1], abs=1e-3)
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-2, atol=2e-3 * float(gradients[1].abs().max()))


def test_fewer_pieces_say_less_and_a_run_learns_from_them(tmp_path: Path) -> None:
    data, student, found = Stream(), decoder(0), []
    for k in (1, 8, 32, VOCAB):
        objective = Distil(Cached(fill(tmp_path / str(k), k).folder), share=1.0)
        with torch.no_grad():
            found.append(float(objective.loss(student, real_windows(data))))
    assert found == sorted(found)
    # 32 of 48 pieces: what is missed is the order of the third that is least likely.
    assert found[2] > 0.9 * found[3]
    objective = Distil(Cached(tmp_path / "8"), share=1.0)
    train(student, data, settings(steps=20, lr=2e-2, save_every=20), tmp_path / "run", device=CPU, objective=objective)
    rows = [row["divergence"] for row in read_metrics(tmp_path / "run" / "metrics.jsonl")]
    assert rows[-1] < 0.8 * rows[0]


def test_it_has_the_windows_of_a_run_and_no_others(tmp_path: Path) -> None:
    data, config = Stream(), settings()
    done = fill(tmp_path / "c", 4, config=config)
    assert (done.windows, done.added) == (25, 25)  # 6 steps of 4, and the window of zeros
    ours, loader = Cached(done.folder), Loader(data, CONTEXT, 4, config.seed, Cursor())
    read = np.concatenate([loader.next_indices() for _ in range(config.steps)])
    ours(real_windows(data, read)[:, :-1])
    ours(torch.zeros(2, CONTEXT, dtype=torch.int64))
    other = next(index for index in range(data.windows(CONTEXT)) if index not in read)
    with pytest.raises(ConfigError, match="not asked about"):
        ours(real_windows(data, [other])[:, :-1])
    # A longer run adds only what it needs.
    longer = fill(tmp_path / "c", 4)
    assert (longer.windows, longer.added) == (data.windows(CONTEXT) + 1, data.windows(CONTEXT) - 24)
    Cached(done.folder)(real_windows(data, [other])[:, :-1])


def test_its_size_is_what_was_said(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    done = fill(tmp_path / "c", 5)
    assert f"{done.windows * CONTEXT / 1000:.3g}k tokens take" in capfd.readouterr().err
    files = sum(file.stat().st_size for file in done.folder.rglob("*.npy"))
    assert done.bytes == done.windows * (CONTEXT * position_bytes(5, VOCAB) + 16)
    assert files - 5 * 128 == done.bytes
    assert position_bytes(32, 1 << 16) == 136
    assert position_bytes(32, 1 << 17) == 200


def test_interrupted_work_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(teacher_cache, "_PART_BYTES", 3000)
    monkeypatch.setattr(teacher_cache, "_BATCH_TOKENS", {"cpu": 2 * CONTEXT})

    class Dies(Live):
        calls = 0

        def __call__(self, ids_BT: torch.Tensor) -> Any:
            self.calls += 1
            if self.calls > 20:
                raise ConnectionError
            return super().__call__(ids_BT)

    with pytest.raises(ConnectionError):
        fill(tmp_path / "c", 9, Dies(decoder(1)))
    (tmp_path / "c" / ".part-000009.abandoned").mkdir()
    first = len(np.concatenate([np.load(part) for part in (tmp_path / "c").glob("part-*/windows.npy")]))
    assert 30 < first <= 40
    again = fill(tmp_path / "c", 9)
    assert again.added == again.windows - first
    assert not list((tmp_path / "c").glob(".part-*"))
    fill(tmp_path / "whole", 9)
    given, names = real_windows(Stream(), range(99))[:, :-1], ("pieces", "logs", "rest", "kept")
    left, right = (Cached(tmp_path / run)(given).fields for run in ("c", "whole"))
    for name in names:
        torch.testing.assert_close(left[name], right[name], rtol=1e-3, atol=1e-5)
    assert fill(tmp_path / "c", 9).added == 0


@pytest.mark.slow
def test_a_killed_process_loses_no_finished_part(tmp_path: Path) -> None:
    script = (
        "import sys; sys.path.insert(0, sys.argv[2])\n"
        "from distil_support import *\n"
        "from lilliput.inherit import teacher_cache\n"
        "from lilliput.inherit.teacher_logits import Live\n"
        "teacher_cache._PART_BYTES, teacher_cache._BATCH_TOKENS = 3000, {'cpu': CONTEXT}\n"
        "teacher_cache.cache(sys.argv[1], Live(decoder(1)), Stream(24_000), settings(steps=900), vocab=VOCAB, k=9)\n"
    )
    command = [sys.executable, "-c", script, str(tmp_path / "c"), str(Path(__file__).parent)]
    process = subprocess.Popen(command)
    while len(list((tmp_path / "c").glob("part-*"))) < 5:
        assert process.poll() is None
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    # What is there is whole.
    some = len(Cached(tmp_path / "c")._hashes)
    assert some >= 5
    done = fill(tmp_path / "c", 9, shards=Stream(24_000), config=settings(steps=900))
    assert done.added == done.windows - some


def test_answers_of_another_kind_are_refused(tmp_path: Path) -> None:
    folder = fill(tmp_path / "c", 4).folder
    for changes, said in (
        ({"k": 5}, "k 4 → 5"),
        ({"teacher": Live(decoder(2))}, "teacher"),
        ({"teacher": Live(decoder(1), temperature=2.0)}, "temperature 1.0 → 2.0"),
        ({"teacher": Live(decoder(1), ids=torch.arange(20)), "vocab": 20}, "ids"),
        ({"config": settings(context=6)}, "context"),
        ({"k": 0}, "0 pieces"),
        ({"config": settings(context=CONTEXT + 1)}, "longer than the teacher's context"),
    ):
        with pytest.raises(ConfigError, match=said) as caught:
            fill(folder, **{"k": 4, **changes})
        assert caught.value.mend
    cached = Cached(folder)
    for wrong, said in (({"temperature": 2.0}, "temperature"), ({"ids": torch.arange(VOCAB)}, "id map")):
        with pytest.raises(ConfigError, match=said):
            Distil(cached, share=0.5, **wrong)
    with pytest.raises(ConfigError, match="not of 5"):
        cached(windows()[:4, :5])
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "a.txt").write_text("mine")
    with pytest.raises(ConfigError, match="not empty"):
        fill(tmp_path / "full")
    with pytest.raises(ConfigError, match="no answers"):
        Cached(tmp_path / "nowhere")


def test_damage_and_other_formats_are_told(tmp_path: Path) -> None:
    folder = fill(tmp_path / "c", 4).folder
    file = next(folder.glob("part-*/logs.npy"))
    os.truncate(file, file.stat().st_size // 2)
    with pytest.raises(StorageError, match="damaged"):
        Cached(folder)
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps({**manifest, "format": 99}))
    with pytest.raises(ConfigError, match="format 99"):
        Cached(folder)


def test_what_does_not_fit_on_the_disk_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    free = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(teacher_cache.shutil, "disk_usage", lambda _: free)
    with pytest.raises(StorageError, match="1kB are free") as caught:
        fill(tmp_path / "c", 4)
    assert "smaller k" in str(caught.value.mend)

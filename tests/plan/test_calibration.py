"""A real calibration: kept, found again, measured anew where it is damaged or was taken on a busy machine. Nothing here
depends on how fast this machine is."""

import json
from dataclasses import replace

import pytest
import torch

from lilliput.model import ModelConfig
from lilliput.plan import calibration, quiet
from lilliput.plan.calibration import calibrate, rate_here
from lilliput.plan.latency import PRICES, Calibration
from lilliput.plan.probes import Probes
from lilliput.store import Store

CPU = torch.device("cpu")
# Seconds instead of half a minute: too little to predict by, enough to be a calibration.
TRAIN = ((1, 32, 2, 48, 64, 1), (1, 32, 2, 48, 64, 2))
FEW = Probes(decode=((1, 32, 2, 1, 48, 300),), train=TRAIN, point=0.0, step=0.0)


def _shape(depth=4, width=128, heads=4, kv_heads=4) -> ModelConfig:
    return ModelConfig(
        depth=depth, width=width, heads=heads, kv_heads=kv_heads, head_dim=width // heads, ffn=352, vocab_size=2048,
        context=512, bos_id=0, eos_id=0,
    )  # fmt: skip


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch):
    """What else this machine does, as the test wants it; a call of it is another process."""

    def becomes(*, idle: bool) -> None:
        monkeypatch.setattr(calibration, "_used", set())
        monkeypatch.setattr(calibration, "quiet", lambda threads: idle)
        monkeypatch.setattr("lilliput.progress._told", set())

    return becomes


def test_a_busy_machine_is_timed_again_once_it_is_quiet(machine, tmp_path, monkeypatch, capsys):
    store = Store(tmp_path)
    machine(idle=False)
    first = calibrate(store, CPU, 1, probes=FEW)
    assert first.provisional
    assert "provisional" in capsys.readouterr().err
    (file,) = (tmp_path / "calibrations").glob("*.json")
    assert json.loads(file.read_text())["about"]["provisional"] is True
    # Still busy, or in the middle of a run: it stands.
    machine(idle=False)
    assert calibrate(store, CPU, 1, probes=FEW) == first
    monkeypatch.setattr(calibration, "quiet", lambda threads: True)
    assert calibrate(store, CPU, 1, probes=FEW) == first
    assert "timed again" not in capsys.readouterr().err
    machine(idle=True)
    second = calibrate(store, CPU, 1, probes=FEW)
    assert "timed again" in capsys.readouterr().err
    assert second.about["takes"] == 2
    assert second.provisional == (second.fit_error > calibration.SCATTER)


def test_a_machine_that_always_scatters_is_left_alone_after_three(machine, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(calibration, "SCATTER", -1.0)
    for _ in range(5):
        machine(idle=True)
        found = calibrate(Store(tmp_path), CPU, 1, probes=FEW)
    assert found.provisional
    assert found.about["takes"] == 3
    assert "--recalibrate" in capsys.readouterr().err


def test_of_two_provisional_timings_the_better_is_kept(machine, tmp_path, monkeypatch):
    store = Store(tmp_path)
    machine(idle=False)
    calibrate(store, CPU, 1, probes=FEW)
    (file,) = (tmp_path / "calibrations").glob("*.json")
    raw = json.loads(file.read_text())
    raw["about"]["fit_error"], raw["layer_seconds"] = 0.0, 0.125
    file.write_text(json.dumps(raw))
    monkeypatch.setattr(calibration, "SCATTER", -1.0)
    machine(idle=True)
    found = calibrate(store, CPU, 1, probes=FEW)
    assert found.layer_seconds == 0.125
    assert found.about["takes"] == 2


def test_a_speed_budget_says_that_its_timing_is_provisional(machine, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("LILLIPUT_STORE", str(tmp_path))
    monkeypatch.setattr(calibration, "usual_probes", lambda device: FEW)
    machine(idle=False)
    assert rate_here()(_shape()) > 0
    assert "budget.speed is kept only as far" in capsys.readouterr().err


def test_whether_a_machine_is_quiet_is_read_off_its_idle_ticks(tmp_path, monkeypatch):
    stat = tmp_path / "stat"

    def ticks(idle: int, busy: int) -> None:
        cores = "".join(f"cpu{core} 0 0 0 0 0 0 0 0 0 0\n" for core in range(4))
        stat.write_text(f"cpu  {busy} 0 0 {idle} 0 0 0 0 0 0\n{cores}intr 1\n")

    monkeypatch.setattr(quiet, "_STAT", stat)
    monkeypatch.setattr(quiet.os, "cpu_count", lambda: 4)
    for idle, busy, cores, expected in ((100, 2, 4, True), (50, 50, 2, True), (50, 50, 4, False), (2, 98, 1, False)):
        ticks(1000, 1000)
        monkeypatch.setattr(quiet.time, "sleep", lambda _, idle=idle, busy=busy: ticks(1000 + idle, 1000 + busy))
        assert quiet.quiet(cores) is expected
    # Elsewhere the load of the last minute tells; where nothing does, it counts as quiet.
    monkeypatch.setattr(quiet, "_STAT", tmp_path / "none")
    monkeypatch.setattr(quiet.os, "getloadavg", lambda: (3.0, 0.0, 0.0), raising=False)
    assert not quiet.quiet(2)
    monkeypatch.delattr(quiet.os, "getloadavg")
    assert quiet.quiet(2)


def test_a_calibration_is_kept_found_again_and_renewed(tmp_path, capsys):
    store, threads = Store(tmp_path), torch.get_num_threads()
    first = calibrate(store, CPU, 1, probes=FEW)
    assert torch.get_num_threads() == threads
    assert "timing this machine" in capsys.readouterr().err
    (file,) = (tmp_path / "calibrations").glob("*.json")
    written = file.read_bytes()

    assert calibrate(store, CPU, 1, probes=FEW) == first
    assert file.read_bytes() == written
    assert "timing" not in capsys.readouterr().err

    renewed = calibrate(store, CPU, 1, probes=FEW, renew=True)
    assert renewed != first
    assert calibrate(store, CPU, 1, probes=FEW) == renewed

    other = calibrate(store, CPU, 1, probes=replace(FEW, point=0.001))
    assert other != renewed
    assert len(list((tmp_path / "calibrations").glob("*.json"))) == 2


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    """The file of a calibration."""
    root = tmp_path_factory.mktemp("kept")
    calibrate(Store(root), CPU, 1, probes=FEW)
    return next((root / "calibrations").glob("*.json"))


@pytest.mark.parametrize("damage", ["cut", "word", "missing", "negative", "nan", "rates", "key", "list", "about"])
def test_a_damaged_calibration_is_measured_anew(kept, tmp_path, capsys, damage):
    store, file = Store(tmp_path), tmp_path / "calibrations" / kept.name
    file.parent.mkdir()
    raw = json.loads(kept.read_text())
    if damage == "missing":
        del raw["prices"]["layer"]
    elif damage in ("negative", "nan", "word"):
        raw["prices"]["layer"] = {"negative": -1.0, "nan": float("nan"), "word": "fast"}[damage]
    elif damage == "rates":
        raw["rates"] = raw["rates"][1:]
    elif damage == "key":
        raw["key"]["machine"]["cpu"] = "another"
    elif damage == "about":
        raw["about"] = {}
    text = "[1, 2]" if damage == "list" else json.dumps(raw)
    file.write_text(text[:40] if damage == "cut" else text)
    capsys.readouterr()
    found = calibrate(store, CPU, 1, probes=FEW)
    told = capsys.readouterr().err
    assert "damaged" in told
    assert "timing this machine" in told
    assert calibrate(store, CPU, 1, probes=FEW) == found
    assert Calibration.from_dict(json.loads(file.read_text())) == found


def test_a_calibration_reads_well_and_predicts(tmp_path):
    found = calibrate(Store(tmp_path), CPU, 1, probes=FEW)
    (file,) = (tmp_path / "calibrations").glob("*.json")
    raw = json.loads(file.read_text())
    assert set(raw["prices"]) == set(PRICES)
    assert {"machine", "device", "threads", "dtype", "versions", "format"} <= raw["key"].keys()
    assert len(raw["about"]["decoding"]) == 12
    assert raw["about"]["training"][0]["seconds"] > 0
    assert Calibration.from_dict(found.to_dict()) == found
    assert found.tokens_per_second(_shape()) > 0
    assert found.train_seconds(_shape(), 1000, 1) > 0


def test_a_slow_machine_is_timed_once_only(tmp_path):
    patient = replace(FEW, point=60.0, step=60.0, limit=0.0)
    assert calibrate(Store(tmp_path), CPU, 1, probes=patient).about["seconds"] < 60


def test_prices_of_another_dtype_are_not_confused(tmp_path):
    store = Store(tmp_path)
    calibrate(store, CPU, 1, probes=FEW)
    assert calibrate(store, CPU, 1, dtype="bf16", probes=FEW).dtype == "bf16"


@pytest.mark.slow
def test_the_usual_calibration_fits_its_own_probes(tmp_path):
    """Half a minute of real timing: no claim about speed, only that the law describes what was timed."""
    found = calibrate(Store(tmp_path), CPU, 1)
    assert len(found.about["decoding"]) > 60
    deep, flat = _shape(depth=24, width=64, heads=2, kv_heads=2), _shape(depth=2, width=64, heads=2, kv_heads=2)
    assert found.tokens_per_second(deep) < found.tokens_per_second(flat)
    assert found.prices["layer"] > 0

"""A run that was asked for a speed keeps its shape, whatever a later timing of the machine says."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from lilliput.device import threads
from lilliput.errors import ConfigError
from lilliput.pipeline import make
from lilliput.plan.calibration import calibrate
from lilliput.plan.latency import PRICES
from lilliput.recipe import Recipe, build_recipe
from lilliput.store import Store

SPEED = 2000


def recipe(text: Path) -> Recipe:
    return build_recipe(
        {
            "corpus": str(text),
            "budget": {"params": "80k", "speed": SPEED},
            "model": {"context": 32},
            "train": {"tokens": "4k", "compile": False},
        },
        where="test",
    )


def timed(folder: Path, layer: float) -> None:
    """Let the calibration of this machine say something else: `layer` seconds a layer."""
    (file,) = (folder / "calibrations").glob("*.json")
    known = json.loads(file.read_text(encoding="utf-8"))
    known["prices"] = dict.fromkeys(PRICES, 0.0) | {"layer": layer, "weight byte, one row 0": 1e-10}
    file.write_text(json.dumps(known), encoding="utf-8")


@pytest.fixture(scope="module")
def calibrated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with a calibration of this machine."""
    folder = tmp_path_factory.mktemp("store")
    calibrate(Store(folder), torch.device("cpu"), threads())
    return folder


def test_a_run_keeps_the_shape_it_was_settled_with(
    calibrated: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LILLIPUT_STORE", str(calibrated))
    text = tmp_path / "text.txt"
    text.write_text("the cat sat on the mat and the dog sat on the log\n" * 400, encoding="utf-8")
    timed(calibrated, 300e-6)
    first = make(recipe(text), tmp_path / "run", Store())
    # Whatever runs have shown to be best, no more than one layer is fast enough; below, two are.
    assert first["shape"]["depth"] == 1
    for lost in ("results.json", "model"):
        (tmp_path / "run" / lost).rename(tmp_path / lost)
    timed(calibrated, 30e-6)
    again = make(recipe(text), tmp_path / "run", Store())
    assert again["shape"] == first["shape"]
    fresh = make(recipe(text), tmp_path / "other", Store())
    assert fresh["shape"]["depth"] > first["shape"]["depth"]
    timed(calibrated, 1e-2)
    with pytest.raises(ConfigError) as caught:
        make(recipe(text), tmp_path / "slow", Store())
    assert caught.value.where == "budget.speed"

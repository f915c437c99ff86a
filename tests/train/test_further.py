"""How high the rate rises when a model is trained on: known tokens, assumed ones, chains of runs, and the formula."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from train_support import CPU, SHAPE

from lilliput.recipe import TrainSettings
from lilliput.train.derive import derive, flops
from lilliput.train.further import Trained, trained


def _model(folder: Path, tokens: object, before: Path | None = None) -> Path:
    folder.mkdir()
    info = {"cost": {"tokens": tokens}, "recipe": {"from": None if before is None else str(before)}}
    (folder / "lilliput.json").write_text(json.dumps(info))
    return folder


def test_a_run_says_what_its_model_has_seen(tmp_path: Path) -> None:
    assert trained(_model(tmp_path / "a", 5_000_000), 1000).tokens == 5_000_000


def test_runs_are_followed_back_to_the_first(tmp_path: Path) -> None:
    first = _model(tmp_path / "a", 5_000_000)
    second = _model(tmp_path / "b", 250_000, first)
    assert trained(_model(tmp_path / "c", 50_000, second), 1000).tokens == 5_300_000


@pytest.mark.parametrize("content", [None, "{", "[]", '{"cost": {"tokens": "many"}}', '{"cost": {"tokens": 0}}'])
def test_where_nothing_of_use_is_written_twenty_a_parameter_are_assumed(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / "lilliput.json").write_text(content)
    found = trained(tmp_path, 1000)
    assert found.tokens == 20_000
    assert "20 a parameter" in found.why
    # What a later run added counts beside it.
    assert trained(_model(tmp_path / "later", 300, tmp_path), 1000).tokens == 20_300


def test_models_that_went_on_from_one_another_end(tmp_path: Path) -> None:
    one, other = tmp_path / "a", tmp_path / "b"
    _model(one, 100, other)
    _model(other, 100, one)
    assert trained(one, 1000).tokens > 20_000


@given(st.floats(1e3, 1e12), st.floats(1e3, 1e12))
def test_the_longer_the_run_the_nearer_to_a_fresh_one(seen: float, tokens: float) -> None:
    share = Trained(seen, "").share(tokens)
    assert 0 < share < 1
    assert Trained(seen, "").share(2 * tokens) > share
    assert Trained(2 * seen, "").share(tokens) < share


def test_the_measured_point_is_met_and_a_run_as_long_as_the_first_has_less_than_half() -> None:
    assert Trained(1e6, "").share(0.05e6) == pytest.approx(0.035, abs=0.001)
    assert Trained(1e6, "").share(1e6) == pytest.approx(1 / 2.4)


def test_a_further_run_is_derived_gently_and_only_its_rate(tmp_path: Path) -> None:
    asked, before = TrainSettings(tokens=100_000), Trained(2_000_000, "the model has seen 2M tokens")
    fresh, _ = derive(asked, SHAPE, 10**7, 3 * 10**7, 0, CPU)
    further, notes = derive(asked, SHAPE, 10**7, 3 * 10**7, 0, CPU, before)
    whole = min(1e-2, 0.3118 * flops(SHAPE, 2_100_000) ** -0.125)
    assert further.lr == pytest.approx(whole * 0.05 / 1.45)
    assert further.min_lr == pytest.approx(0.1 * further.lr)
    different = {name for name in vars(fresh) if getattr(fresh, name) != getattr(further, name)}
    assert different == {"lr", "min_lr"}
    (note,) = [note for note in notes if note.startswith("lr = ")]
    assert "the model has seen 2M tokens" in note
    assert "f = 0.05" in note


def test_a_rate_that_is_set_stays() -> None:
    further, _ = derive(TrainSettings(lr=0.003), SHAPE, 10**7, 3 * 10**7, 0, CPU, Trained(1e6, ""))
    assert further.lr == 0.003

"""Studies of encoders, for real: by masked loss, and by what they tell once fine-tuned, committees among them."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from lab_support import WORDS

from lilliput.errors import ConfigError, CorpusError
from lilliput.evaluate.measured import MaskedScores
from lilliput.lab.cells import scores
from lilliput.lab.grid import cells_of
from lilliput.lab.spec import read_study
from lilliput.lab.study import run_study, show_study, study_status
from lilliput.store import Store, read_json

SMALL = {
    "objective": "masked",
    "budget.params": None,
    "tokenizer.vocab_size": 260,
    "model.depth": 1,
    "model.width": 16,
    "model.heads": 2,
    "model.context": 32,
    "train.tokens": 20_000,
    "train.lr": 0.01,
    "evaluate.bytes": 4000,
}
TASKS = {"data": "$SETS/words", "per_label": 12, "epochs": 12, "lr": 0.01, "length": 16}


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Texts whose label one word tells."""
    folder, rng = tmp_path_factory.mktemp("sets"), random.Random(0)

    def rows(count: int) -> str:
        made = []
        for at in range(count):
            word = ("cat", "dog")[at % 2]
            text = " ".join([word, *rng.choices([one for one in WORDS if one not in ("cat", "dog")], k=6)])
            made.append(json.dumps({"text": text, "label": word}))
        return "\n".join(made) + "\n"

    (folder / "words.train.jsonl").write_text(rows(40))
    (folder / "words.test.jsonl").write_text(rows(60))
    return folder


@pytest.fixture
def write(tmp_path: Path, tiny_corpus: Path, sets: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("SETS", str(sets))

    def written(**changes: Any) -> Path:
        settings = {**SMALL, "corpus": str(tiny_corpus)}
        values = {"question": "Does it help?", "recipe": "tiny", "settings": settings, **changes}
        path = tmp_path / "mine.yaml"
        path.write_text(yaml.safe_dump(values, sort_keys=False))
        return path

    return written


def test_arms_are_compared_by_masked_loss(write: Any, shared_store: Store, tmp_path: Path) -> None:
    study = write(
        arms={"slow": ["train.lr=0.00001"], "fast": []},
        seeds=3,
        metric="masked_loss",
        claims=[{"kind": "superiority", "arm": "fast", "versus": "slow", "delta": 0.05}],
    )
    found = run_study(study, results=tmp_path / "results", store=shared_store)
    assert found["metric"] == "masked_loss"
    assert found["claims"][0]["verdict"] == "supported"
    arms = {arm["name"]: arm for arm in found["arms"]}
    assert 0 < arms["fast"]["mean"] < arms["slow"]["mean"] < np.log(260) + 0.5
    cell = read_json(tmp_path / "results" / "mine" / "cells" / "fast-seed0.json")
    held = scores(cell)
    assert isinstance(held, MaskedScores)
    assert held.value == pytest.approx(cell["value"], abs=1e-3)
    assert cell["low"] < cell["value"] < cell["high"]
    assert cell["held_out_curve"][-1][1] < cell["held_out_curve"][0][1]
    shown = (tmp_path / "results" / "mine" / "README.md").read_text()
    assert "A lower masked loss is better" in shown
    assert "bits per byte" not in shown


def test_cells_end_in_a_classification(write: Any, shared_store: Store, tmp_path: Path) -> None:
    results, arms = tmp_path / "results", {"scratch": ["from=scratch"], "plain": [], "pair": ["members=2"]}
    study = write(
        arms=arms,
        seeds=2,
        classify=TASKS,
        speed=True,
        claims=[
            {"kind": "superiority", "arm": "plain", "versus": "scratch", "delta": 0},
            {"kind": "non-inferiority", "arm": "pair", "versus": "plain", "delta": 0.5, "metric": "words"},
        ],
    )
    found = run_study(study, results=results, store=shared_store)
    assert found["metric"] == "words"
    assert study_status(study, results=results)["done"] == 6
    cells = {path.stem: read_json(path) for path in (results / "mine" / "cells").glob("*.json")}
    shares = {stem: cell["tasks"]["words"]["acc"] for stem, cell in cells.items()}
    for claim in found["claims"]:
        gains = [shares[f"{claim['arm']}-seed{seed}"] - shares[f"{claim['versus']}-seed{seed}"] for seed in (0, 1)]
        assert claim["effect"]["seeds"] == 2
        assert claim["effect"]["gain"] == pytest.approx(sum(gains) / 2, abs=1e-9)
    scratch, plain, pair = (cells[f"{arm}-seed1"] for arm in arms)
    assert scratch["value"] is None is pair["value"]
    assert plain["value"] > 0
    assert pair["parameters"] == 2 * plain["parameters"]
    assert scratch["cost"]["flops"] == 0 < plain["cost"]["flops"]
    assert len(pair["tasks"]["words"]["members"]) == 2
    # The first member is the single model: its pre-training and its fine-tuning are shared.
    assert pair["tasks"]["words"]["members"][0] == plain["tasks"]["words"]["acc"]
    assert 0.6 < plain["tasks"]["words"]["baseline"]["acc"] <= 1
    assert [row["batch"] for row in pair["speed"]] == [1, 32]
    told = show_study(study, results=results)
    assert "TF-IDF + logistic regression" in told["task_tables"]
    assert "accuracy at words, %" in told["table"]
    assert "ms, batch 32" in told["table"]
    assert run_study(study, results=results, store=shared_store)["measured"] == []
    # Other settings ask again and pre-train nothing.
    changed = write(arms={"plain": []}, seeds=2, classify={**TASKS, "epochs": 1})
    assert study_status(changed, results=results)["cells"][1]["state"] == "lacks words"
    run_study(changed, results=results, store=shared_store)
    again = read_json(results / "mine" / "cells" / "plain-seed1.json")
    assert again["finished"] == plain["finished"]
    assert (plain["tasks"]["words"]["tuning"]["epochs"], again["tasks"]["words"]["tuning"]["epochs"]) == (12, 1)
    assert study_status(changed, results=results)["done"] == 2


def test_overlap_is_a_field_and_accuracy_has_a_slope(write: Any, shared_store: Store, tmp_path: Path) -> None:
    sizes = [2000, 4000, 8000, 16000]
    trends = [
        {"x": "overlap", "y": "words"},
        {"x": "train.tokens", "at_least": -1, "slope": "doubling"},
    ]
    study = write(axis={"key": "train.tokens", "values": sizes}, classify=TASKS, correlations=trends)
    found = run_study(study, results=tmp_path / "results", store=shared_store)
    constant, size = found["correlations"]
    assert constant["verdict"] == "not measured"
    assert [point["x"] for point in constant["points"]] == [constant["points"][0]["x"]] * 4
    assert 0 < constant["points"][0]["x"] <= 1
    assert (size["y"], size["verdict"], size["slope"]["per"]) == ("words", "supported", "doubling")
    assert size["slope"]["low"] <= size["slope"]["value"] <= size["slope"]["high"]
    shown = (tmp_path / "results" / "mine" / "README.md").read_text()
    assert "for each doubling of train.tokens" in shown
    assert (tmp_path / "results" / "mine" / "train_tokens-words.svg").is_file()


def test_pre_training_has_one_hash_whatever_it_is_asked_afterwards(write: Any) -> None:
    arms = {"scratch": ["from=scratch"], "plain": [], "pair": ["members=2"]}
    one = {cell.arm: cell for cell in cells_of(read_study(write(arms=arms, classify=TASKS)))}
    other = cells_of(read_study(write(arms={"plain": []}, classify={**TASKS, "epochs": 1})))[0]
    bare = cells_of(read_study(write(arms={"plain": []}, metric="masked_loss")))[0]
    assert one["plain"].hash == other.hash == bare.hash == one["pair"].each("masked_loss")[0].hash
    assert len({cell.hash for cell in one.values()}) == 3
    assert len({member.hash for member in one["pair"].each("masked_loss")}) == 2


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"arms": {"a": []}, "classify": {**TASKS, "data": "$SETS/none"}}, "no file there begins with none"),
        ({"arms": {"a": ["members=0"]}, "classify": TASKS}, "no number of members"),
        ({"arms": {"a": ["objective=causal"]}, "classify": TASKS}, "cells that classify are encoders"),
        ({"arms": {"a": []}, "classify": {**TASKS, "epoch": 2}}, "did you mean classify.epochs"),
        ({"arms": {"a": []}, "metric": "accuracy"}, "has no accuracy"),
        ({"arms": {"a": []}, "tasks": ["blimp"], "data": "x"}, "asked of decoders"),
        (
            {"arms": {"a": [], "b": ["model.depth=2"]}, "classify": TASKS, "claims": [
                {"kind": "superiority", "arm": "a", "versus": "b", "delta": 0, "metric": "bits_per_byte"}]},
            "no metric called 'bits_per_byte'",
        ),
        (
            {"arms": {"a": []}, "speed": True, "classify": TASKS,
             "correlations": [{"x": "depth", "y": "tokens_per_second"}]},
            "encoders write nothing",
        ),
        ({"arms": {"a": []}, "correlations": [{"x": "overlap", "y": "masked_loss"}]}, "with one labelled set"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused_before_work(
    changes: dict[str, Any], said: str, write: Any, shared_store: Store, tmp_path: Path
) -> None:
    with pytest.raises((ConfigError, CorpusError)) as caught:
        run_study(write(**changes), results=tmp_path / "results", store=shared_store)
    assert said in str(caught.value)

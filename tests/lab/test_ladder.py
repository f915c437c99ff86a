"""A ladder from end to end: settled, tuned, measured, told; again, with more seeds, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from lab_support import write_text
from ladder_support import SMALL, write_code

from lilliput.errors import ConfigError, CorpusError
from lilliput.evaluate.statistics import compare
from lilliput.lab.cells import scores
from lilliput.lab.ladder.ask import Ask, read_ask
from lilliput.lab.ladder.plan import RUNGS, TITLES, Plan, known_folder
from lilliput.lab.ladder.run import run_ladder
from lilliput.lab.ladder.settle import Settling
from lilliput.lab.ladder.studies import write_studies
from lilliput.report.ladder_text import ladder_text
from lilliput.store import Store, read_json


@pytest.fixture(scope="module")
def code(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_code(tmp_path_factory.mktemp("code") / "code.jsonl")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return Store(tmp_path_factory.mktemp("ladder-store"))


def asked(code: Path, *words: str, **options: Any) -> Ask:
    settings = {"rates": (0.5, 2.0), "seeds": 2, "batches": ()} | options
    return read_ask("tiny", [f"corpus={code}", *SMALL, *words], **settings)


@pytest.fixture(scope="module")
def ladder(code: Path, store: Store, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Two seeds, two learning rates."""
    return run_ladder(asked(code), tmp_path_factory.mktemp("runs") / "ladder", store)


def _cells(ladder: dict[str, Any], folder: str = "cells") -> dict[str, dict[str, Any]]:
    return {file.stem: read_json(file) for file in sorted(Path(ladder["folder"], folder).glob("*-seed*.json"))}


def test_the_answer_has_every_rung_with_its_gain(ladder: dict[str, Any]) -> None:
    assert [rung["arm"] for rung in ladder["rungs"]] == list(RUNGS)
    assert [rung["name"] for rung in ladder["rungs"]] == [TITLES[arm] for arm in RUNGS]
    assert ladder["rungs"][0]["gain"] == {"value": 0.0, "low": 0.0, "high": 0.0}
    for rung in ladder["rungs"][1:]:
        assert rung["gain"]["low"] <= rung["gain"]["value"] <= rung["gain"]["high"]
        assert rung["outcome"] in ("better", "worse", "no difference shown")
        assert rung["verdict"] in ("supported", "not supported", "inconclusive")
    gains = sum(rung["gain"]["value"] for rung in ladder["rungs"])
    assert gains == pytest.approx(ladder["whole"]["gain"]["value"], abs=1e-6)
    assert ladder["whole"]["gain"]["value"] == pytest.approx(
        ladder["rungs"][0]["bits_per_byte"] - ladder["rungs"][-1]["bits_per_byte"], abs=1e-6
    )
    assert Path(ladder["report"]).is_file()
    assert all(Path(rung["model"], "config.json").is_file() for rung in ladder["rungs"])
    assert json.loads(json.dumps(ladder, allow_nan=False)) == ladder


def test_the_gains_are_those_of_the_statistics(ladder: dict[str, Any]) -> None:
    measured = {(cell["arm"], cell["seed"]): scores(cell) for cell in _cells(ladder).values() if cell["arm"] in RUNGS}
    effect = compare(measured, "inheritance", "architecture")
    (rung,) = [rung for rung in ladder["rungs"] if rung["arm"] == "inheritance"]
    assert (effect.gain, effect.low, effect.high) == pytest.approx(tuple(rung["gain"].values()))
    assert effect.outcome == rung["outcome"]


def test_arms_have_equal_parameters_and_read_equal_bytes(ladder: dict[str, Any]) -> None:
    cells = {name: cell for name, cell in _cells(ladder).items() if cell["arm"] in RUNGS}
    counts = {cell["parameters"] for cell in cells.values()}
    assert (max(counts) - min(counts)) / min(counts) < 0.02
    for cell in cells.values():
        # Whole batches: at most half of one is missing or too much.
        read = cell["cost"]["tokens"] * cell["tokenizer"]["bytes_per_token"]
        batch = 1024 * cell["tokenizer"]["bytes_per_token"]
        assert abs(read - ladder["bytes"]) <= batch, cell["arm"]
    rounds, before = cells["rounds-seed0"], cells["inheritance-seed0"]
    assert rounds["cost"]["tokens"] == before["cost"]["tokens"]
    assert rounds["recipe"]["rounds"]["count"] == 2
    assert rounds["value"] != before["value"]
    assert "rounds" not in before["recipe"]


def test_the_big_tokenizer_is_trained_and_the_compact_one_cut_from_it(ladder: dict[str, Any]) -> None:
    plan = Plan.from_dict(read_json(Path(ladder["folder"], "ladder.json"))["plan"])
    base, compact = plan.arms["base"], plan.arms["compact"]
    assert base.settings[0].startswith("tokenizer.from=$LADDER/tokenizer-")
    assert not any(word.startswith("tokenizer.compact") for word in base.settings)
    assert f"tokenizer.compact={compact.shape.vocab_size}" in compact.settings
    assert compact.shape.vocab_size < base.shape.vocab_size
    assert base.shape.depth == compact.shape.depth == (plan.arms["architecture"].shape.depth + 1) // 2
    assert plan.planner == "architecture"
    assert "one cell" in " ".join(ladder["notes"])
    # Nothing of this machine, so that the folder can be shown to others.
    for name in ("study.yaml", "recipe.yaml", "report.html", "README.md", "rates/study.yaml"):
        assert str(Path(ladder["folder"])) not in Path(ladder["folder"], name).read_text()


def test_rates_are_tuned_alike_on_text_that_judges_nothing(ladder: dict[str, Any]) -> None:
    tried = {(row["arm"], row["share"]): row["bits_per_byte"] for row in ladder["rates"]}
    assert set(tried) == {(arm, share) for arm in RUNGS for share in (0.5, 2.0)}
    for rung in ladder["rungs"]:
        best = min((0.5, 2.0), key=lambda share: tried[rung["arm"], share])
        assert rung["lr_share"] == best
        cell = _cells(ladder)[f"{rung['arm']}-seed0"]
        assert cell["cost"]["config"]["lr"] == pytest.approx(rung["lr"], rel=1e-5)
    # The trial at the rate that is taken is the arm's first seed, and counted there.
    taken = {(rung["arm"], rung["lr_share"]) for rung in ladder["rungs"]}
    others = [row for row in ladder["rates"] if (row["arm"], row["share"]) not in taken]
    assert ladder["cost"]["learning rates"]["flops"] == pytest.approx(sum(row["flops"] for row in others))
    chosen, judged = (_cells(ladder, folder)[name] for folder, name in
                      (("rates/cells", "base_x2-seed0"), ("cells", "base-seed0")))  # fmt: skip
    assert chosen["documents"]["text_hash"] != judged["documents"]["text_hash"]
    (folder,) = Path(ladder["folder"]).glob("held-out-*")
    halves = [set((folder / f"{half}.jsonl").read_text().splitlines()) for half in ("choose", "judge")]
    assert not halves[0] & halves[1]


def test_the_teacher_is_trained_once_and_its_cost_shown_apart(ladder: dict[str, Any]) -> None:
    cells = _cells(ladder)
    teacher = cells["teacher-seed0"]
    assert ladder["teacher"]["flops"] == teacher["cost"]["flops"] > 0
    assert 2.5 < ladder["teacher"]["parameters"] / ladder["rungs"][0]["parameters"] < 4.3
    taught = ladder["rungs"][3]["cost"]
    assert taught["in_all"]["flops"] == pytest.approx(
        taught["flops"] + taught["carving"]["flops"] + teacher["cost"]["flops"]
    )
    assert ladder["rungs"][2]["cost"]["in_all"]["flops"] == ladder["rungs"][2]["cost"]["flops"]
    assert cells["inheritance-seed0"]["teacher"]["hash"] == cells["rounds-seed1"]["teacher"]["hash"] == teacher["hash"]


def test_people_read_the_table_beside_the_papers(ladder: dict[str, Any]) -> None:
    text = ladder_text(ladder)
    for words in ("+ compact tokenizer", "42.41", "51.28", "The whole:", "5% was claimed", "teacher:", "After 'def'"):
        assert words in text
    assert text.rstrip().endswith("report.html")


def test_again_it_answers_at_once_and_goes_on_where_more_is_asked(
    ladder: dict[str, Any], code: Path, store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = Path(ladder["folder"])
    assert run_ladder(asked(code), folder, store) == ladder
    assert "finished before" in capsys.readouterr().err
    # A rung's cell is lost: it alone is made again, in the very same way.
    state = read_json(folder / "ladder.json")
    (folder / "ladder.json").write_text(json.dumps({**state, "extent": None}))
    (folder / "cells" / "compact-seed1.json").unlink()
    again = run_ladder(asked(code), folder, store)
    assert again["rungs"][1]["gain"] == ladder["rungs"][1]["gain"]
    said = capsys.readouterr().err
    assert said.startswith("What does each part buy? base → + compact tokenizer → + architecture")
    assert "1 cell to train" in said
    with pytest.raises(ConfigError, match=r"another rates|another train\.tokens"):
        run_ladder(asked(code, "train.tokens=9k"), folder, store)


def test_a_tokenizer_and_texts_that_are_named_are_taken(
    ladder: dict[str, Any], code: Path, store: Store, tmp_path: Path
) -> None:
    source = ladder["rungs"][0]["model"]
    ask = asked(code, f"tokenizer.from={source}", f'evaluate.text=["{code}"]', "tokenizer.compact=300")
    with known_folder(tmp_path):
        plan = Settling(ask, tmp_path, store, torch.device("cpu")).plan()
        rates = write_studies(ask, plan, None, tmp_path)
        arms = write_studies(ask, plan, dict.fromkeys(plan.arms, 2.0), tmp_path)
    assert list(tmp_path.glob("tokenizer-*")) == list(tmp_path.glob("held-out-*")) == []
    assert source in plan.arms["base"].settings[0]
    assert plan.pieces == {"big": 432, "compact": 300, "source": 432}
    # What chooses is the held-out part, what judges the text that is named.
    assert (plan.choose, plan.judge) == ([], [str(code)])
    assert not any("evaluate.text" in word for words in rates.arm_settings().values() for word in words)
    for words in arms.arm_settings().values():
        assert any(word.startswith("evaluate.text=") and str(code) in word for word in words)
        assert any(word.startswith("train.lr=") for word in words)
    assert Plan.from_dict(json.loads(json.dumps(plan.to_dict()))) == plan


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("inherit.layers=keep=0,99", "layer"),
        ("inherit.layers=learned", "together with neurons"),
        ("inherit.top=4", "no distillation"),
    ],
)
def test_arms_that_could_not_inherit_are_refused_before_any_training(
    code: Path, store: Store, tmp_path: Path, word: str, message: str
) -> None:
    with pytest.raises(ConfigError, match=message), known_folder(tmp_path):
        Settling(asked(code, word), tmp_path, store, torch.device("cpu")).plan()


def test_a_folder_that_holds_something_else_is_left_alone(code: Path, store: Store, tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(ConfigError, match="no ladder"):
        run_ladder(asked(code), tmp_path, store)
    with pytest.raises(ConfigError, match="file of that name"):
        run_ladder(asked(code), tmp_path / "mine.txt", store)


def test_too_little_text_is_refused_before_any_training(code: Path, tmp_path: Path, store: Store) -> None:
    few = tmp_path / "few.jsonl"
    few.write_text("".join(code.read_text().splitlines(keepends=True)[:60]))
    for _ in range(2):  # what a refused ladder leaves is in nobody's way
        with pytest.raises(CorpusError):
            run_ladder(asked(few), tmp_path / "few", store)
    alike = write_text(tmp_path / "alike.jsonl", 0, documents=600)
    with pytest.raises(CorpusError, match="two tokenizers"):
        run_ladder(asked(alike), tmp_path / "alike", store)


def test_the_study_is_one_that_others_can_run(ladder: dict[str, Any]) -> None:
    study = yaml.safe_load(Path(ladder["folder"], "study.yaml").read_text())
    assert [claim["kind"] for claim in study["claims"]] == ["non-inferiority"] * 4 + ["superiority"]
    assert {claim["delta"] for claim in study["claims"]} == {0.005, 0.0}
    assert study["baseline"] == "base"
    assert study["notes"].startswith("Made by `lilliput ladder tiny")

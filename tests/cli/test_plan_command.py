"""`lilliput plan` as people call it: tables, JSON, a plan that `make` takes, and requests that cannot be met."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lilliput.cli.main import run
from lilliput.model.decoder import Decoder
from lilliput.plan import calibration
from lilliput.plan.probes import Probes
from lilliput.plan.proposal import shape_of
from lilliput.plan.search import derive_shape
from lilliput.recipe import load_recipe


def test_plans_keep_the_budget_and_are_exact(lilliput) -> None:
    ran = lilliput("plan", "--params", "600k", "--no-speed", "--json")
    assert ran.code == 0, ran.err
    plans = ran.json["plans"]
    assert len(plans) >= 5
    for plan in plans:
        assert plan["parameters"] <= 600_000
        assert sum(p.numel() for p in Decoder(shape_of(plan)).parameters()) == plan["parameters"]
        assert plan["weight_bytes"]["16"] == plan["bytes"]
        assert plan["tokens_per_second"] is None
    changes = [plan["expected"]["value"] for plan in plans]
    assert changes == sorted(changes)
    assert changes[0] == 0
    assert len({(plan["depth"], plan["width"]) for plan in plans}) == len(plans)


def test_bytes_at_four_bits(lilliput) -> None:
    ran = lilliput("plan", "--bytes", "2MB", "--bits", "4", "--no-speed", "--json")
    assert ran.code == 0, ran.err
    assert all(plan["weight_bytes"]["4"] == plan["bytes"] <= 2_000_000 for plan in ran.json["plans"])


def test_what_is_fixed_stays(lilliput) -> None:
    ran = lilliput(
        "plan", "--params", "2M", "--depth", 8, "--width", 96, "--heads", 6, "--kv-heads", 2, "--vocab", 1024,
        "--context", 128, "--untied", "--family", "pangu", "--no-speed", "--json",
    )  # fmt: skip
    assert ran.code == 0, ran.err
    for plan in ran.json["plans"]:
        named = ("depth", "width", "heads", "kv_heads", "vocab", "context", "tied", "family")
        assert [plan[name] for name in named] == [8, 96, 6, 2, 1024, 128, False, "pangu"]


def test_the_plan_is_a_recipe_with_that_shape(lilliput, tmp_path: Path) -> None:
    ran = lilliput("plan", "--params", "300k", "--no-speed", "--choose", 2, "--out", "p", "--explain", "--json")
    assert ran.code == 0, ran.err
    files = ran.json["files"]
    assert files["plan"] == str(tmp_path / "p" / "plan.yaml")
    recipe = load_recipe(files["plan"])
    shape, chosen = derive_shape(recipe), shape_of(ran.json["plans"][1])
    assert shape == chosen
    page = Path(files["page"]).read_text(encoding="utf-8")
    assert "Why plan 1 is as it is" in page
    assert "What the order rests on" in page
    kept = json.loads(Path(files["data"]).read_text(encoding="utf-8"))
    assert kept["plans"] == ran.json["plans"]


def test_make_takes_a_plan(lilliput, tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text("the cat sat on the mat and the dog sat on the log\n" * 400, encoding="utf-8")
    planned = lilliput("plan", "--params", "60k", "--vocab", 320, "--context", 32, "--no-speed", "--out", "p", "--json")
    assert planned.code == 0, planned.err
    words = ("corpus=text.txt", "train.tokens=4k", "train.compile=false", "--out", "run", "--json", "--quiet")
    made = lilliput("make", "p/plan.yaml", *words)
    assert made.code == 0, made.err
    config = json.loads((Path(made.json["model"]) / "config.json").read_text(encoding="utf-8"))
    plan = planned.json["plans"][0]
    assert (config["num_hidden_layers"], config["hidden_size"]) == (plan["depth"], plan["width"])


def test_people_see_tables_and_reasons(lilliput) -> None:
    ran = lilliput("plan", "--params", "1M", "--no-speed", "--explain", "--count", 3)
    assert ran.code == 0, ran.err
    said = ("depth × width", "16 bits", "why plan 1 is as it is", "§2.2, Table 2", "before any run", "groups of runs")
    for words in said:
        assert words in ran.out


def test_a_users_runs_count(lilliput, tmp_path: Path) -> None:
    """Two runs of the user's own that differ in depth alone are a group of their own."""
    text = "the cat sat on the mat and the dog sat on the log\n" * 400
    (tmp_path / "text.txt").write_text(text, encoding="utf-8")
    common = ("corpus=text.txt", "train.tokens=4k", "train.compile=false", "model.context=32", "model.width=32")
    for depth in (1, 2):
        sizes = (f"model.depth={depth}", "model.expansion=2", "tokenizer.vocab_size=320", "budget.params=200k")
        made = lilliput("make", "tiny", *common, *sizes, "--out", f"runs/d{depth}", "--quiet")
        assert made.code == 0, made.err
    ran = lilliput("plan", "--params", "100k", "--no-speed", "--evidence", "runs", "--explain", "--json")
    assert ran.code == 0, ran.err
    mine = [group for group in ran.json["evidence"]["groups"] if group["studies"] == ["d1", "d2"]]
    assert [row["depth"] for row in mine[0]["shapes"]] == [1, 2]


def test_measured_speeds_stand_beside_the_predicted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd) -> None:
    """A calibration of next to nothing, and the real protocol on a model of next to nothing."""
    few = Probes(((1, 32, 2, 1, 48, 300),), ((1, 32, 2, 48, 64, 1), (1, 32, 2, 48, 64, 2)), point=0.0, step=0.0)
    monkeypatch.setattr(calibration, "usual_probes", lambda device: few)
    monkeypatch.setenv("LILLIPUT_STORE", str(tmp_path / "store"))
    words = ("--params", "20k", "--vocab", "320", "--context", "16", "--depth", "1", "--count", "1", "--measure")
    assert run(["plan", *words, "--json", "--quiet"]) == 0
    told = json.loads(capfd.readouterr().out)
    (plan,) = told["plans"]
    assert plan["measured_tokens_per_second"] > 0
    assert plan["tokens_per_second"] > 0
    assert plan["training"]["hours"] > 0
    assert isinstance(told["provisional"], bool)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--params", "8X"), "budget.params"),
        (("--bits", "8"), "budget.bytes"),
        (("--bytes", "1MB", "--bits", "5"), "budget.bits"),
        (("--params", "1M", "--width", "512"), "3156250"),
        (("--params", "1M", "--family", "mamba"), "model.family"),
        (("--params", "1M", "--width", "100", "--heads", "3"), "model.heads"),
        (("--params", "1M", "--vocab", "1024", "--tokenizer", "x.model"), "own size"),
        (("--params", "1M", "--tokenizer", "nowhere.model"), "nowhere.model"),
        (("--params", "1M", "--choose", "9", "--count", "3"), "--choose"),
        (("--params", "1M", "--measure"), "--no-speed"),
        (("--params", "1M", "--expansion", "0.01"), "model.expansion=2.77 is usual, 0.25 the least"),
        (("--params", "1M", "--evidence", "nowhere"), "no finished run"),
        (("--params", "1M", "--evidence", "damaged"), "damaged JSON"),
    ],
)
def test_mistakes_are_told(lilliput, tmp_path: Path, words: tuple[str, ...], said: str) -> None:
    (tmp_path / "damaged" / "cells").mkdir(parents=True)
    (tmp_path / "damaged" / "cells" / "a.json").write_text("{")
    ran = lilliput("plan", *words, "--no-speed")
    assert ran.code == 2, ran.err
    assert said in ran.err
    assert "Traceback" not in ran.err

"""The answer of `plan` as text and page: every plan, its costs, the front and the reasons are there."""

from __future__ import annotations

import re
from xml.etree import ElementTree

import pytest

from lilliput.plan.explain import explanation
from lilliput.plan.latency import PRICES, Calibration
from lilliput.plan.prior import shipped_prior
from lilliput.plan.proposal import propose
from lilliput.recipe import build_recipe
from lilliput.report.plan_page import plan_page
from lilliput.report.plan_text import front_table, plan_text, size

# A machine that is known: 20 microseconds a layer, 10 GB/s.
PRICE = {name: 1e-10 if "weight byte" in name else 0.0 for name in PRICES} | {"layer": 2e-5, "fixed": 1e-5}
MACHINE = Calibration("fp32", PRICE, 1e-4, (64.0, 512.0), (2e10, 6e10), {})


@pytest.fixture(scope="module")
def data() -> dict:
    recipe = build_recipe({"budget": {"params": "1M", "speed": 1000}}, where="test")
    found = propose(recipe, None, shipped_prior(), MACHINE, 6)
    return {**found, "budget": recipe.budget.model_dump(), "files": None, "evidence": explanation(shipped_prior())}


def test_the_front_is_what_none_beats(data: dict) -> None:
    points = data["front"]
    best = [point for point in points if point["best_at_its_speed"]]
    assert len(best) >= 3
    for point in best:
        others = [other for other in points if other is not point]
        faster = [other for other in others if other["tokens_per_second"] > point["tokens_per_second"]]
        assert all(other["expected"] > point["expected"] for other in faster)
    assert any(plan["front"] for plan in data["plans"])
    assert all(plan["tokens_per_second"] >= 1000 for plan in data["plans"])
    assert all(plan["training"]["hours"] > 0 for plan in data["plans"])


def test_the_page_shows_every_plan_and_the_picture(data: dict) -> None:
    page = plan_page(data)
    svg = re.search(r"<svg.*?</svg>", page, re.DOTALL)
    assert svg is not None
    ElementTree.fromstring(svg[0])
    for plan in data["plans"]:
        assert f"{plan['depth']} × {plan['width']}" in page
        assert f"{plan['parameters']:,}" in page
    assert "Within 1,000,000 parameters, 1,000 tokens a second" in page


def test_the_text_shows_the_same(data: dict) -> None:
    text = plan_text(data)
    for plan in data["plans"]:
        assert f"{plan['depth']} × {plan['width']}" in text
    assert "speed against quality" in text
    assert "groups of runs" in text
    rows = front_table(data["front"])
    assert rows is not None
    assert 3 <= len(rows[1]) <= 10


def test_a_provisional_timing_is_told(data: dict) -> None:
    assert "provisional" not in plan_text(data)
    told = {**data, "provisional": True}
    for shown in (plan_text(told), plan_page(told)):
        assert "Speeds and hours are provisional" in shown
        assert "--measure measures them" in shown
    assert "--measure measures them" not in plan_text({**told, "budget": {**data["budget"], "speed": None}})


def test_a_budget_that_stays_unused_is_told() -> None:
    recipe = build_recipe({"budget": {"params": "1M"}, "model": {"depth": 4, "width": 96}}, where="test")
    bare = {**propose(recipe, None, shipped_prior(), None, 3), "budget": recipe.budget.model_dump(), "files": None}
    for shown in (plan_text(bare), plan_page(bare)):
        assert "Plan 1 uses 79% of the budget" in shown


def test_without_speeds_their_columns_are_left_out(data: dict) -> None:
    recipe = build_recipe({"budget": {"params": "300k"}}, where="test")
    bare = {**propose(recipe, None, shipped_prior(), None, 3), "budget": recipe.budget.model_dump(), "files": None}
    assert "tokens/s" not in plan_text(bare)
    assert "<svg" not in plan_page(bare)
    assert front_table(bare["front"]) is None


def test_sizes_read_well() -> None:
    assert [size(value) for value in (12, 3_990_000, 819_200, 2.5e9)] == ["12 B", "3.99 MB", "819 kB", "2.5 GB"]

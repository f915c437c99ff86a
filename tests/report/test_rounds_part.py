"""The rounds' part of a run's page: there where there were rounds, escaped, silent about what is absent."""

from typing import Any

from page_support import read

from lilliput.report.look import html_page
from lilliput.report.page import run_page
from lilliput.report.rounds_part import rounds_cards

RESULTS: dict[str, Any] = {
    "cost": {"scoring": {"tokens": 133_120, "flops": 4e10, "seconds": 5.0}},
    "rounds": {
        "steps": [104, 52],
        "forgetting": [
            {"part": 1, "windows": 65, "first": 4.0, "last": 3.9, "error": 0.006},
            {"part": 2, "windows": 65, "first": 3.9, "last": 3.85, "error": None},
            {"part": 3, "windows": 0},
        ],
        "drawn": {
            "unit": "batch",
            "units": 104,
            "rounds": [{"round": 2, "drawn": 52, "loss_drawn": 3.95, "loss_left": 3.94, "evenness": 0.998}],
            "most": [{"part": 3, "times": 1, "loss": 4.4, "text": "<b>12 ⏎ 34</b>"}],
        },
    },
}


def page_of(results: dict[str, Any]) -> str:
    return read(html_page("run", "", [rounds_cards(results)]))


def test_it_shows_what_was_forgotten_and_what_was_drawn() -> None:
    text = page_of(RESULTS)
    expected = ("after the first round", "under the final model", "52 of 104", "0.998", "<b>12", "133,120")
    for said in expected:
        assert said in text, said


def test_what_is_absent_is_left_out() -> None:
    assert rounds_cards({}) == ""
    assert rounds_cards({"rounds": {"forgetting": [], "drawn": None}}) == ""
    without = {"rounds": {**RESULTS["rounds"], "drawn": None}}
    assert "read again" not in page_of(without)
    plain = {**RESULTS["rounds"]["drawn"], "rounds": [{"round": 2, "drawn": 52}], "most": []}
    assert "Evenness" not in page_of({"rounds": {"drawn": plain}})


def test_a_runs_page_holds_it() -> None:
    assert "What was read again" in run_page(RESULTS, [])

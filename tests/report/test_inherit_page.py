"""The page of an inheritance: whole, self-contained, escaped, and silent about what is absent."""

from __future__ import annotations

import copy
import json
import math
from typing import Any

import page_support
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lilliput.inherit.layers import LayerScores
from lilliput.model import ModelConfig
from lilliput.report.inherit_page import inherit_page
from lilliput.report.inherit_strip import strip

TEACHER = ModelConfig(
    vocab_size=4096, depth=8, width=256, heads=8, kv_heads=4, head_dim=32, ffn=704, bos_id=0, eos_id=1
)
CHILD = ModelConfig(vocab_size=4096, depth=4, width=128, heads=4, kv_heads=2, head_dim=32, ffn=352, bos_id=0, eos_id=1)
SCORES = LayerScores(
    base={"bits_per_byte": 1.5},
    skips={"bits_per_byte": {k: tuple(1.5 + k / (i + 1) for i in range(9 - k)) for k in (1, 2, 3)}},
    influence=tuple(0.3 / (i + 1) for i in range(8)),
    angular={k: tuple(0.1 * k / (i + 1) for i in range(9 - k)) for k in (1, 2, 3)},
)


def mask_rows(steps: int) -> list[dict[str, Any]]:
    spaces = {"hidden": (256, 128), "ffn": (704, 352), "kv_head": (4, 2), "layers": (8, 4)}
    rows = []
    for step in range(1, steps + 1):
        done = min(1.0, step / steps * 2)
        size = {space: whole - (whole - left) * done for space, (whole, left) in spaces.items()}
        sizes = {"size": size, "target": size, "lambda1": dict.fromkeys(spaces, 0.1 * step), "lambda2": size}
        rows.append({"step": step, "loss": 2.0, "penalty": 0.1, "temperature": 2 / 3, **sizes})
    return rows


REPORT: dict[str, Any] = {
    "teacher": {"place": "/models/big <one>", "parameters": TEACHER.parameters(), "shape": TEACHER.identity()},
    "child": {"place": "/models/small & fine", "parameters": CHILD.parameters(), "shape": CHILD.identity()},
    "layers": {"how": "importance", "kept": [0, 1, 4, 7], "scores": SCORES.to_dict()},
    "neurons": {
        "how": "learned",
        "kept": {"hidden": 128, "ffn": 352, "kv_heads": 2},
        "hidden": list(range(0, 256, 2)),
        "heads": [[0, 1], [0, 3], [1, 2], [2, 3]],
    },
    "masks": {"rows": mask_rows(40)},
    "bits_per_byte": {
        "teacher": {"value": 1.5012, "low": 1.49, "high": 1.51},
        "child": {"value": 2.2534, "low": 2.24, "high": 2.27},
    },
    "held_out": {"documents": 120, "bytes": 500_000},
    "cost": {
        "seconds": {"layers": 61.0, "masks": 3600.0, "carve": 0.4, "evaluate": 20.0},
        "tokens": {"masks": 8_000_000, "calibration": 65_536},
        "flops": {"masks": 3.2e14},
    },
    "notes": ["8 key-value heads put together to 2 by mean <b>"],
}


def read(page: str) -> str:
    """The text of a page that is well-formed, fetches nothing and shows no value that is none."""
    assert "nan" not in page
    return page_support.read(page, absent=("None\n", "nan\n", "inf\n", "{}"))


def test_everything_is_shown() -> None:
    page = inherit_page(REPORT)
    text = read(page)
    for expected in (
        "small & fine", "Carved out of big <one>", "8 layers × width 256 → 4 layers × width 128", "2.2534",
        "the teacher's 1.5012", "layers of 8", "120 documents and 500k bytes", "what leaving each out costs",
        "learned masks", "50.0 %", "all of them", "3 layers left out", "the whole teacher", "Block influence",
        "Angular distance", "dropped", "layer 2", "1, 2", "+1.0000", "temperature β is 0.667", "Multipliers",
        "Penalty", "Loss of the text", "leaving layers out", "1h00m", "1h01m", "8M", "3.2e+14", "mean <b>",
    ):  # fmt: skip
        assert expected in text, expected
    assert page.count("<svg") == 10
    assert "prefers-color-scheme:dark" in page
    assert len(page) < 150_000


def test_the_curves_are_the_papers_figure_5() -> None:
    """One line each for 1, 2 and 3 layers, at every place where so many can be left out."""
    page = inherit_page({"layers": REPORT["layers"]})
    for name, places in (("1 layer left out", 8), ("2 layers left out", 7), ("3 layers left out", 6)):
        assert page.count(f"<title>{name} at ") == places
    assert page.count("<title>block influence at ") == 8
    assert page.count("<title>2 layers at ") == 7


def test_tasks_are_drawn_beside_bits_per_byte() -> None:
    layers = copy.deepcopy(REPORT["layers"])
    layers["scores"]["skips"]["pets & co"] = {"1": [0.5] * 8, "2": [0.25] * 7}
    layers["scores"]["base"]["pets & co"] = 0.75
    layers["how"] = "importance=pets & co"
    page = inherit_page({**REPORT, "layers": layers})
    text = read(page)
    assert "The task pets & co" in text
    assert "the task pets & co" in text
    assert page.count("<title>2 layers left out at ") == 7 + 7
    assert page.count("<svg") == 11


def test_a_layer_without_which_nothing_works_does_not_hide_the_others() -> None:
    """Then the axis is logarithmic: the others are still apart."""
    layers = copy.deepcopy(REPORT["layers"])
    layers["scores"]["skips"]["bits_per_byte"]["1"] = [90.0, 1.6, 1.7, 1.55, 1.6, 1.7, 1.6, 1.9]
    page = inherit_page({"layers": layers})
    heights = [
        float(part.split('cy="')[1].split('"')[0])
        for part in page.split("<circle")[1:9]
        if "1 layer left out" in part
    ]
    assert max(heights[1:]) - min(heights[1:]) > 10


def test_nothing_at_all_still_gives_a_page() -> None:
    text = read(inherit_page({}))
    assert "A child" in text


@pytest.mark.parametrize("key", list(REPORT))
def test_what_is_absent_empty_or_null_is_left_out(key: str) -> None:
    read(inherit_page({name: value for name, value in REPORT.items() if name != key}))
    read(inherit_page({**REPORT, key: None}))
    read(inherit_page({**REPORT, key: type(REPORT[key])()}))
    inside = REPORT[key]
    for name in inside if isinstance(inside, dict) else ():
        read(inherit_page({**REPORT, key: {**inside, name: None}}))
        read(inherit_page({**REPORT, key: {other: value for other, value in inside.items() if other != name}}))


def test_scores_in_part_are_enough() -> None:
    for name in SCORES.to_dict():
        some = {other: value for other, value in SCORES.to_dict().items() if other != name}
        read(inherit_page({**REPORT, "layers": {**REPORT["layers"], "scores": some}}))


def test_it_survives_json_and_long_logs_stay_small() -> None:
    report = {**REPORT, "masks": {"rows": mask_rows(20_000)}}
    page = inherit_page(json.loads(json.dumps(report)))
    read(page)
    assert len(page) < 250_000


def test_figures_that_are_no_numbers_are_left_out() -> None:
    report = copy.deepcopy(REPORT)
    report["masks"]["rows"][3]["loss"] = math.nan
    report["layers"]["scores"]["skips"]["bits_per_byte"]["2"][0] = math.inf
    report["bits_per_byte"]["child"] |= {"low": None, "high": None}
    assert "No interval" in inherit_page(report)


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 400), st.data())
def test_a_strip_colours_what_was_kept(total: int, data: st.DataObject) -> None:
    kept = sorted(data.draw(st.sets(st.integers(0, total - 1), min_size=1)))
    svg = strip(kept, total, "hidden <channels>")
    coloured = [part for part in svg.split("<rect")[1:] if "var(--c0)" in part]
    cell = 760 / total
    gap = 2.0 if cell >= 14 else 0.0
    width = sum(float(part.split('width="')[1].split('"')[0]) for part in coloured)
    assert width == pytest.approx(len(kept) * (cell - gap), abs=0.01 * len(coloured))
    assert "&lt;channels&gt;" in svg
    assert f"{len(kept)} of {total}" in svg

"""Charts are well-formed SVG, place points where they belong and survive odd data."""

from __future__ import annotations

import math
import xml.etree.ElementTree as ET

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from lilliput.report.chart import Reference, Row, Series, dot_chart, line_chart
from lilliput.report.scale import linear_ticks, log_ticks, make_axis, thin, tick_text

SVG = "{http://www.w3.org/2000/svg}"
NUMBERS = st.floats(-1e12, 1e12, allow_nan=False)


def texts(svg: str) -> list[str]:
    return [element.text or "" for element in ET.fromstring(svg).iter(f"{SVG}text")]


def test_line_chart_is_well_formed_and_named() -> None:
    svg = line_chart(
        [
            Series("a <b> & c", [1, 2, 3], [3.0, 2.0, 1.0]),
            Series("points", [1, 2], [1.5, 2.5], low=[1.4, 2.0], high=[1.6, 3.0], style="points"),
            Series("raw", [1, 2], [1.0, 2.0], faint=True),
        ],
        title="Loss & more",
        x_label="tokens",
        y_label="nats",
        references=[Reference("xz -9", 2.2)],
    )
    found = texts(svg)
    assert {"a <b> & c", "points", "Loss & more", "tokens", "nats", "xz -9"} <= set(found)
    assert "raw" not in found
    assert len(list(ET.fromstring(svg).iter(f"{SVG}circle"))) + svg.count('<polygon class="dot"') == 3
    assert "http" not in svg.replace("http://www.w3.org/2000/svg", "")


def test_points_lie_on_their_axes() -> None:
    axis = make_axis([0.001, 10.0], 100, 300, log=True, pad=0)
    assert axis(0.001) == pytest.approx(100)
    assert axis(0.1) == pytest.approx(200)
    assert make_axis([0, 4], 300, 100, pad=0)(1) == pytest.approx(250)


@given(st.lists(st.one_of(NUMBERS, st.just(math.nan), st.just(math.inf)), max_size=20), st.booleans())
@example([1.0, 2.2e-311], True)
def test_any_data_gives_a_chart(values: list[float], log: bool) -> None:
    svg = line_chart([Series("s", list(range(len(values))), values, style="both")], log_y=log, log_x=log)
    ET.fromstring(svg)
    assert "nan" not in svg
    assert "inf" not in svg.replace("infinite", "")


@given(NUMBERS, st.floats(1e-9, 1e12))
def test_linear_ticks_are_round_and_inside(low: float, length: float) -> None:
    high = low + length
    if (high - low) < 1e-9 * max(abs(low), abs(high)) or high - low < 1e-9:
        return
    ticks = linear_ticks(low, high)
    assert 2 <= len(ticks) <= 13
    slack = 1e-6 * (high - low)
    assert all(low - slack <= tick <= high + slack for tick in ticks)


@given(st.floats(1e-9, 1e9), st.floats(1.05, 1e9))
def test_log_ticks_are_inside(low: float, ratio: float) -> None:
    high = low * ratio
    ticks = log_ticks(low, high)
    assert 1 <= len(ticks) <= 13
    assert all(low * 0.999 <= tick <= high * 1.001 for tick in ticks)


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (0.5, "0.5"), (1000, "1000"), (25_000, "25k"), (1.5e6, "1.5M"), (3e-4, "3e-4"), (2e9, "2B")],
)
def test_tick_text(value: float, text: str) -> None:
    assert tick_text(value) == text


def test_ticks_share_their_decimals() -> None:
    assert make_axis([1.0, 1.1], 0, 1, pad=0, wanted=4).labels() == ["1.000", "1.025", "1.050", "1.075", "1.100"]
    assert make_axis([1e-4, 3e-3], 0, 1, log=True).labels() == ["1e-4", "3e-4", "1e-3", "3e-3"]


def test_dot_chart_shows_rows_and_intervals() -> None:
    svg = dot_chart([Row("base", 1.5, 1.4, 1.6), Row("arm & co", 1.2)], x_label="bits per byte", zero=True)
    assert {"base", "arm & co", "1.5000", "1.2000", "0"} <= set(texts(svg))
    ET.fromstring(dot_chart([]))


def test_long_curves_are_thinned_to_means() -> None:
    x, y = thin([float(i) for i in range(10_000)], [1.0] * 5000 + [3.0] * 5000, 100)
    assert len(x) == len(y) == 100
    assert sum(y) / 100 == pytest.approx(2.0)
    assert thin([1.0], [2.0]) == ([1.0], [2.0])

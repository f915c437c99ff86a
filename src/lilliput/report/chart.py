"""Charts as self-contained SVG: no script, no font, no other package; light or dark as the reader prefers.

Series differ by colour (safe for the colour-blind), by marker and by dash, so none is told by colour alone.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Literal

from lilliput.report import marks
from lilliput.report.marks import COLOURS, label, segment
from lilliput.report.scale import Axis, make_axis, tick_text

_LINE, _CHAR = 17, 6.7  # a line's height and a character's width at 12 px, for placing text
_ROW = 34.0


@dataclass(frozen=True)
class Series:
    """One line, or a row of points. low, high: interval around y, drawn as a band (line) or bars (points).

    style: "line", "points" or "both". faint: drawn thin and left out of the legend. colour: index into the
    palette, by default the series' place.
    """

    name: str
    x: Sequence[float]
    y: Sequence[float]
    low: Sequence[float] | None = None
    high: Sequence[float] | None = None
    style: Literal["line", "points", "both"] = "line"
    faint: bool = False
    colour: int | None = None

    def extent(self) -> list[float]:
        """All values on the y axis."""
        return [value for part in (self.y, self.low, self.high) if part is not None for value in part]


@dataclass(frozen=True)
class Reference:
    """A level to compare with, drawn as a dashed line and named at its end."""

    name: str
    value: float


@dataclass(frozen=True)
class Row:
    """One named value of a dot chart with its interval."""

    name: str
    value: float
    low: float | None = None
    high: float | None = None
    colour: int = 0


def line_chart(
    series: Sequence[Series],
    *,
    title: str = "",
    x_label: str = "",
    y_label: str = "",
    log_x: bool = False,
    log_y: bool = False,
    references: Sequence[Reference] = (),
    width: int = 760,
    height: int = 400,
) -> str:
    """An SVG element with `series` on one pair of axes; points that are not finite are left out."""
    legend, legend_height = _legend(series, 66.0, width - 20.0, 44.0 if title else 18.0)
    top = (34 if title else 8) + legend_height + 8
    xs = [value for one in series for value in one.x]
    ys = [value for one in series for value in one.extent()] + [ref.value for ref in references]
    x = make_axis(xs, 66, width - 20, log=log_x, wanted=8, pad=0.03)
    y = make_axis(ys, height - 48, top, log=log_y, wanted=8)
    parts = [_frame(x, y, x_label, y_label)]
    for ref in references:
        at = y(ref.value)
        parts += [segment("ref", x.start, at, x.end, at), label(ref.name, x.end - 4, at - 5, "end")]
    several = sum(not one.faint for one in series) > 1
    for index, one in enumerate(series):
        parts.append(_series(one, index if one.colour is None else one.colour, x, y, dashed=several))
    return _document("".join([*parts, legend]), title, width, height)


def dot_chart(
    rows: Sequence[Row],
    *,
    title: str = "",
    x_label: str = "",
    references: Sequence[Reference] = (),
    zero: bool = False,
    width: int = 760,
) -> str:
    """An SVG element with one row a value: named things compared on one axis with their intervals.

    zero: the axis begins at zero and each value has a stem, so that lengths show ratios.
    """
    left = min(300.0, 24 + _CHAR * max((len(row.name) for row in rows), default=1))
    top = (40 if title else 10) + (14 if references else 0)
    bottom = top + _ROW * max(1, len(rows)) + 8
    values = [value for row in rows for value in (row.value, row.low, row.high) if value is not None]
    values += [ref.value for ref in references]
    x = make_axis([*values, *([0.0] if zero else [])], left, width - 70, wanted=7)
    parts = _x_grid(x, top, bottom)
    for ref in references:
        at = x(ref.value)
        parts += [segment("ref", at, top, at, bottom), label(ref.name, at, top - 5, "middle")]
    parts += [_row(row, x, top + _ROW * (index + 0.5) + 4, zero) for index, row in enumerate(rows)]
    parts.append(label(x_label, (left + width - 70) / 2, bottom + 40, "middle", soft=False))
    return _document("".join(parts), title, width, round(bottom + 50))


def compared_dots(
    names: Sequence[str],
    arms: Mapping[str, Sequence[float | None]],
    *,
    title: str = "",
    x_label: str = "",
    width: int = 760,
) -> str:
    """An SVG element with one row a name and on it one marker an arm, joined by a line: the same quantity of
    several things, compared in each of several places.

    arms: by name, a value for each of `names`, None where there is none. The axis begins at zero.
    """
    left = min(300.0, 24 + _CHAR * max(map(len, names), default=1))
    markers = [Series(arm, [], [], style="points") for arm in arms]
    legend, legend_height = _legend(markers, left, width - 40.0, 44.0 if title else 18.0)
    top = (34 if title else 8) + legend_height
    bottom = top + _ROW * max(1, len(names)) + 8
    found = [value for values in arms.values() for value in values if value is not None]
    x = make_axis([*found, 0.0], left, width - 40, wanted=7)
    parts = _x_grid(x, top, bottom)
    for index, name in enumerate(names):
        at = top + _ROW * (index + 0.5) + 4
        here = [(number, arm, values[index]) for number, (arm, values) in enumerate(arms.items())]
        met = [(number, arm, value) for number, arm, value in here if value is not None and math.isfinite(value)]
        parts.append(label(name, x.start - 12, at + 4, "end", soft=False))
        if len(met) > 1:
            parts.append(segment("axis", x(min(v for *_, v in met)), at, x(max(v for *_, v in met)), at))
        parts += [marks.marker(n, x(v), at, _hover(f"{arm}, {name}", v, None, None)) for n, arm, v in met]
    parts.append(label(x_label, (left + width - 40) / 2, bottom + 40, "middle", soft=False))
    return _document("".join([*parts, legend]), title, width, round(bottom + 50))


def _x_grid(x: Axis, top: float, bottom: float) -> list[str]:
    """The upright lines of a dot chart, with their values."""
    parts = []
    for tick, text in zip(x.ticks, x.labels(), strict=True):
        parts += [segment("grid", x(tick), top, x(tick), bottom), label(text, x(tick), bottom + 18, "middle")]
    return parts


def _row(row: Row, x: Axis, at: float, zero: bool) -> str:
    parts = [label(row.name, x.start - 12, at + 4, "end", soft=False)]
    place = end = x(row.value)
    if zero:
        parts.append(segment("stem", x(0), at, place, at, row.colour))
    if row.low is not None and row.high is not None:
        end = x(row.high)
        parts.append(marks.bar(x(row.low), at, end, at, row.colour))
    parts.append(marks.marker(row.colour, place, at, _hover(row.name, row.value, row.low, row.high)))
    parts.append(label(f"{row.value:.4f}", end + 10, at + 4))
    return "".join(parts)


def _document(body: str, title: str, width: int, height: int) -> str:
    head = f'<text class="title" x="16" y="24">{escape(title)}</text>' if title else ""
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" class="lc" viewBox="0 0 {width} {height}" '
        f'width="{width}" height="{height}" role="img" aria-label="{escape(title or "chart")}">'
        f"<style>{marks.STYLE}</style>"
        f'<rect width="100%" height="100%" fill="var(--bg)"/>{head}{body}</svg>'
    )


def _frame(x: Axis, y: Axis, x_label: str, y_label: str) -> str:
    parts = []
    for tick, text in zip(y.ticks, y.labels(), strict=True):
        at = y(tick)
        parts += [segment("grid", x.start, at, x.end, at), label(text, x.start - 8, at + 4, "end")]
    for tick, text in zip(x.ticks, x.labels(), strict=True):
        at = x(tick)
        parts += [segment("axis", at, y.start, at, y.start + 5), label(text, at, y.start + 19, "middle")]
    parts.append(segment("axis", x.start, y.start, x.end, y.start))
    parts.append(label(x_label, (x.start + x.end) / 2, y.start + 39, "middle", soft=False))
    parts.append(label(y_label, 16, (y.start + y.end) / 2, "middle", soft=False, upright=True))
    return "".join(parts)


def _series(one: Series, colour: int, x: Axis, y: Axis, *, dashed: bool) -> str:
    low = one.y if one.low is None else one.low
    high = one.y if one.high is None else one.high
    kept = [
        point
        for point in zip(one.x, one.y, low, high, strict=True)
        if all(map(math.isfinite, point)) and (point[0] > 0 or not x.log) and (min(point[1:]) > 0 or not y.log)
    ]
    parts = []
    paint = f"var(--c{colour % COLOURS})"
    if one.low is not None and one.style == "line" and len(kept) > 1:
        edge = [(x(a), y(hi)) for a, _, _, hi in kept] + [(x(a), y(lo)) for a, _, lo, _ in reversed(kept)]
        parts.append(f'<polygon class="band" fill="{paint}" points="{marks.path(edge)}"/>')
    if one.style != "points" and kept:
        dash = "" if one.faint or not dashed else f' stroke-dasharray="{marks.dash(colour)}"'
        line = marks.path([(x(a), y(b)) for a, b, _, _ in kept])
        kind = "line faint" if one.faint else "line"
        parts.append(f'<polyline class="{kind}" stroke="{paint}"{dash} points="{line}"/>')
    if one.style != "line" or len(kept) == 1:
        for a, b, lo, hi in kept:
            if one.low is not None:
                parts.append(marks.bar(x(a), y(lo), x(a), y(hi), colour))
            hover = _hover(f"{one.name} at {tick_text(a)}", b, None if one.low is None else lo, hi)
            parts.append(marks.marker(colour, x(a), y(b), hover))
    return "".join(parts)


def _hover(name: str, value: float, low: float | None, high: float | None) -> str:
    span = f" [{low:.4f}, {high:.4f}]" if low is not None and high is not None else ""
    return f"<title>{escape(name)}: {value:.4f}{span}</title>"


def _legend(series: Sequence[Series], left: float, right: float, top: float) -> tuple[str, float]:
    """The legend above the plot, broken into lines as needed, and its height; none for a single series."""
    named = [(i if s.colour is None else s.colour, s) for i, s in enumerate(series) if not s.faint and s.name]
    if len(named) < 2:
        return "", 0.0
    parts, x, y = [], left, top
    for colour, one in named:
        room = 40 + _CHAR * len(one.name)
        if x + room > right and x > left:
            x, y = left, y + _LINE
        if one.style != "points":
            parts.append(segment("line", x, y - 4, x + 24, y - 4, colour, dashed=True))
        if one.style != "line":
            parts.append(marks.marker(colour, x + 12, y - 4))
        parts.append(label(one.name, x + 30, y, soft=False))
        x += room + 10
    return "".join(parts), y - top + _LINE

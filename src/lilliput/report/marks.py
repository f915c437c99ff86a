"""What a chart is drawn with: the style, colours, lines, markers and text."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

_LIGHT = ("#0072B2", "#C75000", "#00805F", "#A34A86", "#8F6A00", "#5B5BD6")
_DARK = ("#5BB8F0", "#FF9A5C", "#35CC9F", "#E9A0CF", "#EBC14B", "#A9A9FF")
COLOURS = len(_LIGHT)
_DASHES = ("none", "7 4", "2 4", "10 4 2 4", "5 3", "1 3")


def _palette(colours: Sequence[str]) -> str:
    return ";".join(f"--c{index}:{colour}" for index, colour in enumerate(colours))


STYLE = f"""
.lc{{font:12px system-ui,-apple-system,"Segoe UI",Roboto,sans-serif;--bg:#fff;--ink:#1d2329;--soft:#5c6670;
--grid:#e3e7eb;--axis:#a9b2bb;{_palette(_LIGHT)}}}
@media(prefers-color-scheme:dark){{.lc{{--bg:#15191e;--ink:#e8ecf0;--soft:#a3adb8;--grid:#2b323a;
--axis:#5b6672;{_palette(_DARK)}}}}}
.lc text{{fill:var(--ink)}}.lc .soft{{fill:var(--soft)}}.lc .title{{font-size:15px;font-weight:600}}
.lc .grid{{stroke:var(--grid);stroke-width:1}}.lc .axis{{stroke:var(--axis);stroke-width:1}}
.lc .ref{{stroke:var(--soft);stroke-width:1.2;stroke-dasharray:4 4}}
.lc .line{{fill:none;stroke-width:2;stroke-linejoin:round;stroke-linecap:round}}
.lc .stem{{stroke-width:7;opacity:.3}}.lc .faint{{opacity:.35;stroke-width:1.2}}
.lc .band{{opacity:.16;stroke:none}}.lc .bar{{stroke-width:1.6}}.lc .dot{{stroke:var(--bg);stroke-width:1.2}}
"""


def dash(colour: int) -> str:
    """The dash pattern that goes with a colour."""
    return _DASHES[colour % len(_DASHES)]


def path(points: Sequence[tuple[float, float]]) -> str:
    """Points as SVG writes them."""
    return " ".join(f"{a:.1f},{b:.1f}" for a, b in points)


def segment(
    kind: str, x1: float, y1: float, x2: float, y2: float, colour: int | None = None, *, dashed: bool = False
) -> str:
    """A straight line of a CSS class, in a colour of the palette or the class's own."""
    paint = "" if colour is None else f' stroke="var(--c{colour % COLOURS})"'
    paint += f' stroke-dasharray="{dash(colour)}"' if dashed and colour is not None else ""
    return f'<line class="{kind}"{paint} x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"/>'


def bar(x1: float, y1: float, x2: float, y2: float, colour: int) -> str:
    """An error bar with end caps, upright or flat."""
    dx, dy = (0, 4) if y1 == y2 and x1 != x2 else (4, 0)
    caps = [segment("bar", a - dx, b - dy, a + dx, b + dy, colour) for a, b in ((x1, y1), (x2, y2))]
    return "".join([segment("bar", x1, y1, x2, y2, colour), *caps])


def marker(colour: int, x: float, y: float, inside: str = "") -> str:
    """Circle, square, triangle, diamond, then round again: the shape goes with the colour."""
    paint = f'class="dot" fill="var(--c{colour % COLOURS})"'
    shapes = (
        None,
        [(-4, -4), (4, -4), (4, 4), (-4, 4)],
        [(0, -5.5), (5, 4), (-5, 4)],
        [(0, -5.5), (5.5, 0), (0, 5.5), (-5.5, 0)],
    )
    shape = shapes[colour % len(shapes)]
    if shape is None:
        return f'<circle {paint} cx="{x:.1f}" cy="{y:.1f}" r="4.5">{inside}</circle>'
    return f'<polygon {paint} points="{path([(x + a, y + b) for a, b in shape])}">{inside}</polygon>'


def label(
    text: str, x: float, y: float, anchor: str = "start", *, soft: bool = True, upright: bool = False
) -> str:
    """Text at a point; upright: turned to read from bottom to top."""
    turn = f' transform="rotate(-90 {x:.1f} {y:.1f})"' if upright else ""
    kind = ' class="soft"' if soft else ""
    return f'<text{kind} x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{turn}>{escape(text)}</text>'

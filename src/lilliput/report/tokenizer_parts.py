"""What the pages about tokenizers share: curves, pieces and figures by language."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from lilliput.report.chart import Series, line_chart
from lilliput.report.look import note
from lilliput.report.text import amount
from lilliput.tokenizer.spelling import BYTE_LEVEL, piece_text

# Points of a curve: more would not be seen.
_POINTS, _MARKERS = 160, 24
# Series that differ in colour and dash; further ones need markers to be told apart.
_DISTINCT = 6


def percent(share: float | None) -> str:
    """`97.3 %`; more digits where the share is tiny or next to whole, `–` for None."""
    if share is None:
        return "–"
    value = 100 * share
    if 0 < value < 0.1 or 99.9 < value < 100:
        rounded = f"{value:.3f}".rstrip("0").rstrip(".")
        return {"0": "< 0.001 %", "100": "> 99.999 %"}.get(rounded, f"{rounded} %")
    return f"{value:.1f} %" if value not in (0, 100) else f"{value:.0f} %"


def per_token(bytes_: float, tokens: float) -> float | None:
    """Bytes per token; None without tokens."""
    return bytes_ / tokens if tokens else None


def figure(value: float | None) -> str:
    """A ratio with three decimals, `–` for None."""
    return "–" if value is None else f"{value:.3f}"


def change(before: float | None, after: float | None) -> str:
    """`−12.3 %`, of the value before."""
    if not before or after is None:
        return "–"
    value = 100 * (after / before - 1)
    sign = "" if abs(value) < 0.05 else "−" if value < 0 else "+"
    return f"{sign}{abs(value):.1f} %"


def coverage_chart(
    curves: Mapping[str, Mapping[str, Sequence[float]]], mark: tuple[str, float, float] | None = None
) -> str:
    """Accumulated frequency against the number of pieces, on a logarithmic axis (PanGu-π Pro, Fig. 2).

    curves: by name, `sizes` and `coverage` (shares). mark: a point to show: its name, size and coverage.
    """
    series = []
    for index, (name, curve) in enumerate(curves.items()):
        style: Any = "line" if index < _DISTINCT else "both"
        sizes, shares = spread(curve["sizes"], curve["coverage"], _POINTS if style == "line" else _MARKERS)
        series.append(Series(name, sizes, [100 * share for share in shares], style=style))
    if mark:
        name, size, share = mark
        series.append(Series(name, [size], [100 * share], style="points", colour=len(series)))
    if not any(one.x for one in series):
        return ""
    return line_chart(
        series, x_label="most frequent pieces kept", y_label="per cent of the tokens", log_x=True, height=380
    )


def spread(
    sizes: Sequence[float], shares: Sequence[float], points: int = _POINTS
) -> tuple[list[float], list[float]]:
    """The points of a curve that a logarithmic axis shows, about evenly spread over it, both ends among them."""
    if len(sizes) <= points:
        return list(sizes), list(shares)
    ratio = sizes[-1] / sizes[0]
    wanted = (sizes[0] * ratio ** (index / (points - 1)) for index in range(points))
    kept = sorted({0, len(sizes) - 1, *(min(bisect_left(sizes, size), len(sizes) - 1) for size in wanted)})
    return [sizes[at] for at in kept], [shares[at] for at in kept]


def pieces(found: Sequence[str] | Sequence[Sequence[Any]], kind: str, total: int | None = None) -> str:
    """Pieces side by side, with their counts where given; `total` says of how many they are examples."""
    if not found:
        return ""
    shown = []
    for entry in found:
        piece, count = (entry, None) if isinstance(entry, str) else (str(entry[0]), entry[1])
        beside = "" if count is None else f"<small>{amount(int(count), exact=True)}</small>"
        text = escape(piece_text(piece, byte_level=kind == BYTE_LEVEL))
        shown.append(f"<span><code>{text or '&nbsp;'}</code>{beside}</span>")
    if total is not None and total > len(found):
        shown.append(f"<span class='soft'>… and {amount(total - len(found), exact=True)} more</span>")
    return f"<p class='pieces'>{' '.join(shown)}</p>"


def folded(title: str, body: str) -> str:
    """HTML behind a line to click; nothing where there is nothing."""
    return f"<details><summary>{escape(title)}</summary>{body}</details>" if body else ""


def said_pieces(text: str, found: Sequence[Any], kind: str, total: int | None = None) -> str:
    """A sentence about pieces, and the pieces."""
    return note(text) + pieces(found, kind, total)

"""What leaving layers out of a model costs: bits per byte, tasks (Fig. 5 of PanGu-π Pro), and two distances, drawn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lilliput.report.chart import Reference, Series, line_chart

BITS = "bits_per_byte"
# Width and height of a chart, and of one of which two stand side by side.
_LARGE, _SMALL = (760, 400), (460, 320)
# A skip that costs more than this many times the whole model's figure is drawn on a logarithmic axis.
_STEEP = 3

Data = Mapping[str, Any]


def skip_chart(scores: Data, measure: str = BITS, *, title: str = "", small: bool = False) -> str:
    """An SVG element: a measure of the model against the first layer that is left out, a line for each number of
    layers; empty where that was not measured.

    scores: `LayerScores.to_dict`. measure: bits per byte, or the name of a task.
    """
    rows = by_span((scores.get("skips") or {}).get(measure) or {})
    if not rows:
        return ""
    base = (scores.get("base") or {}).get(measure)
    steep = measure == BITS and bool(base) and max(value for _, row in rows for value in row) > _STEEP * (base or 0)
    width, height = _SMALL if small else _LARGE
    return line_chart(
        [_line(f"{layers_said(span)} left out", row) for span, row in rows],
        title=title,
        x_label="first layer left out",
        y_label="bits per byte" if measure == BITS else measure,
        log_y=steep,
        references=[] if base is None else [Reference("the whole teacher", base)],
        width=width,
        height=height,
    )


def tasks_of(scores: Data) -> list[str]:
    """The measures beside bits per byte."""
    return [name for name in scores.get("skips") or {} if name != BITS]


def distance_charts(scores: Data) -> list[str]:
    """SVG elements: the block influence of every layer, and the angular distance over one to three."""
    drawn = []
    if influence := scores.get("influence"):
        one = _line("block influence", influence)
        drawn.append(small_chart([one], "Block influence: 1 − mean cosine", "layer", "1 − cos"))
    if angular := by_span(scores.get("angular") or {}):
        several = [_line(layers_said(span), row) for span, row in angular]
        drawn.append(small_chart(several, "Angular distance over neighbouring layers", "first layer", "angle / π"))
    return drawn


def by_span(rows: Mapping[str, Sequence[float]]) -> list[tuple[int, Sequence[float]]]:
    """By number of layers, the smallest first; keys of JSON are text."""
    return sorted((int(span), row) for span, row in rows.items() if row)


def layers_said(span: int) -> str:
    """A number of layers in words."""
    return "1 layer" if span == 1 else f"{span} layers"


def small_chart(series: Sequence[Series], title: str, x_label: str, y_label: str) -> str:
    """A chart of which two stand side by side."""
    width, height = _SMALL
    return line_chart(series, title=title, x_label=x_label, y_label=y_label, width=width, height=height)


def _line(name: str, row: Sequence[float]) -> Series:
    return Series(name, [float(layer) for layer in range(len(row))], list(row), style="both")

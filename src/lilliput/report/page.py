"""The page of one run: one HTML file that needs nothing else, light or dark as the reader prefers."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from lilliput.plan.rules import counted
from lilliput.progress import duration
from lilliput.report.chart import Row, Series, dot_chart, line_chart
from lilliput.report.look import bullets, card, html_page, note, tiles
from lilliput.report.rounds_part import rounds_cards
from lilliput.report.scale import thin
from lilliput.report.text import amount, bits_name, flatten, interval_text, load_lines, own_class


def run_page(results: Mapping[str, Any], metrics: Sequence[Mapping[str, Any]]) -> str:
    """The HTML page of a finished run.

    results: the run's results.json. metrics: the rows of its metrics.jsonl (training steps, and evaluations on
    the way). Every section is left out where its data are, so that an old or partial run still has a page.
    """
    name = str(results.get("name") or "run")
    sections = [
        _tiles(results),
        card("Held-out text", _held_out(results)),
        card("While it trained", _curves(metrics)),
        rounds_cards(results),
        card("What it writes", _samples(results)),
        card("Use it", _use(results)),
        details(results),
    ]
    return html_page(name, _subtitle(results), sections)


def _subtitle(results: Mapping[str, Any]) -> str:
    shape = results.get("shape") or {}
    parts = ["A tiny language model made by Lilliput"]
    if {"depth", "width", "heads"} <= set(shape):
        layers, heads = counted(shape["depth"], "layer"), counted(shape["heads"], "head")
        parts.append(f"{layers} × width {shape['width']}, {heads}")
    if shape.get("vocab_size"):
        parts.append(f"{amount(shape['vocab_size'])} pieces")
    if shape.get("context"):
        parts.append(f"context {amount(shape['context'])}")
    return " · ".join(parts)


def _tiles(results: Mapping[str, Any]) -> str:
    held, cost = results.get("held_out") or {}, results.get("cost") or {}
    found = []
    if (value := held.get("bits_per_byte")) is not None:
        found.append((f"{value:.4f}", f"{bits_name(held)}, held out {interval_text(held, brief=True)}".strip()))
    if (value := results.get("parameters")) is not None:
        found.append((amount(value), "parameters"))
    if (value := cost.get("tokens")) is not None:
        found.append((amount(value), "tokens seen"))
    if (value := cost.get("seconds")) is not None:
        found.append((duration(value), "of training"))
    return tiles(found)


def _held_out(results: Mapping[str, Any]) -> str:
    held = results.get("held_out") or {}
    value = held.get("bits_per_byte")
    if value is None:
        return ""
    rows = [Row("this model", value, held.get("low"), held.get("high"))]
    for label, level in _baselines(results):
        rows.append(Row(label, level, colour=1))
    scored = [f"{amount(held[key])} {key}" for key in ("documents", "bytes") if held.get(key)]
    said = f"Lower is better. {interval_text(held)}"
    if scored:
        said += f" Scored on {' and '.join(scored)} that the model never saw, each document alone."
    return note(said) + dot_chart(rows, x_label="bits per byte", zero=True)


def _baselines(results: Mapping[str, Any]) -> list[tuple[str, float]]:
    named = {"uniform": "uniform over bytes", "xz": "xz -9 on the same text"}
    found = results.get("baselines") or {}
    return [(named.get(key, key), float(level)) for key, level in found.items() if level is not None]


def _curves(metrics: Sequence[Mapping[str, Any]]) -> str:
    steps = [row for row in metrics if _finite(row.get("loss"))]
    charts = []
    if len(steps) > 1:
        x = [float(row.get("tokens", row.get("step", 0))) for row in steps]
        y = [float(row["loss"]) for row in steps]
        raw_x, raw_y = thin(x, y, 600)
        even_x, even_y = thin(x, smooth(y, max(1, len(y) // 40)), 300)
        unit = "tokens" if "tokens" in steps[0] else "step"
        charts.append(
            line_chart(
                [
                    Series("each step", raw_x, raw_y, faint=True, colour=0),
                    Series("smoothed", even_x, even_y, colour=0),
                ],
                title="Training loss",
                x_label=unit,
                y_label="nats per token",
                height=340,
            )
        )
    on_the_way = [row for row in metrics if _finite((row.get("evaluation") or {}).get("bits_per_byte"))]
    if len(on_the_way) > 1:
        x = [float(row.get("tokens", row.get("step", 0))) for row in on_the_way]
        y = [float(row["evaluation"]["bits_per_byte"]) for row in on_the_way]
        charts.append(
            line_chart(
                [Series("held out", x, y, style="both", colour=2)],
                title="Held-out bits per byte on the way (a small sample)",
                x_label="tokens" if "tokens" in on_the_way[0] else "step",
                y_label="bits per byte",
                height=300,
            )
        )
    return "".join(charts)


def _finite(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def smooth(values: Sequence[float], span: int) -> list[float]:
    """Running mean over `span` values on either side, shorter at the ends."""
    total = [0.0]
    for value in values:
        total.append(total[-1] + value)
    count = len(values)
    means = []
    for index in range(count):
        reach = min(span, index, count - 1 - index)
        a, b = index - reach, index + reach + 1
        means.append((total[b] - total[a]) / (b - a))
    return means


def _samples(results: Mapping[str, Any]) -> str:
    parts = []
    for sample in results.get("samples") or []:
        prompt, text = (sample.get("prompt", ""), sample.get("text", "")) if isinstance(sample, dict) else ("", sample)
        parts.append(f"<pre><mark>{escape(str(prompt))}</mark>{escape(str(text))}</pre>")
    if not parts:
        return ""
    return note("The coloured start was given; the rest is the model's.") + "".join(parts)


def _use(results: Mapping[str, Any]) -> str:
    path = results.get("model")
    if not path:
        return ""
    return "".join(
        f"{note(label)}<pre>{escape(code)}</pre>" for label, code in load_lines(str(path), own_class(results))
    )


_SECTIONS = (
    ("corpus", "Corpus"),
    ("tokenizer", "Tokenizer"),
    ("shape", "Shape"),
    ("cost", "Cost"),
    ("settled", "Training"),
    ("machine", "Machine"),
    ("versions", "Versions"),
)


def details(results: Mapping[str, Any]) -> str:
    """What was derived, measured and asked, as lists and tables."""
    cards = []
    notes = results.get("notes") or []
    if notes:
        cards.append(card("Derived values", bullets(map(str, notes))))
    cost = dict(results.get("cost") or {})
    results = {**results, "settled": cost.pop("config", None), "cost": cost}
    tables = [
        card(title, _table(flatten(results[key]))) for key, title in _SECTIONS if results.get(key)
    ]
    cards.append(f'<div class="grid">{"".join(tables)}</div>')
    if asked := results.get("recipe"):
        body = f"<details><summary>every key of the recipe</summary>{_table(flatten(asked))}</details>"
        cards.append(card("What was asked", body))
    return "".join(cards)


def _table(values: Mapping[str, Any]) -> str:
    rows = "".join(
        f"<tr><td>{escape(key)}</td><td>{escape(amount(value, exact=True))}</td></tr>"
        for key, value in values.items()
    )
    return f"<table>{rows}</table>"

"""The part of a run's page that tells of its rounds: what was forgotten, what was read again, and how it reads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from lilliput.report.chart import Series, line_chart
from lilliput.report.look import card, figures, note


def rounds_cards(results: Mapping[str, Any]) -> str:
    """HTML of the rounds of a run's results.json; nothing for a run without."""
    told = results.get("rounds") or {}
    drawn = told.get("drawn") or {}
    parts = [
        card("What later rounds did to the first one's text", _forgetting(told)),
        card("What was read again", _drawn(drawn, results)),
        card("What was drawn most", _texts(drawn.get("most") or [])),
    ]
    return "".join(parts)


def _forgetting(told: Mapping[str, Any]) -> str:
    rows = [row for row in told.get("forgetting") or [] if row.get("first") is not None and row.get("last") is not None]
    if not rows:
        return ""
    x = [float(row["part"]) for row in rows]
    said = (
        "The first round's text, in parts in the order it was read. Where the line of the first round falls, text read "
        "early was remembered less well than text read last. The same windows are scored under both models."
    )
    chart = line_chart(
        [
            Series("after the first round", x, [row["first"] for row in rows], style="both", colour=0),
            Series("under the final model", x, [row["last"] for row in rows], style="both", colour=2),
        ],
        title="Loss of what was read first",
        x_label="part of the first round",
        y_label="nats per token",
        height=320,
    )
    return note(said) + chart


def _drawn(drawn: Mapping[str, Any], results: Mapping[str, Any]) -> str:
    if not drawn:
        return ""
    unit = "batches" if drawn.get("unit") == "batch" else "windows"
    rows = [_row(found, drawn) for found in drawn.get("rounds") or []]
    table = figures(["", f"{unit} drawn", "their loss", "loss of the rest", "evenness"], rows)
    return note(_said(drawn, results)) + table


def _row(found: Mapping[str, Any], drawn: Mapping[str, Any]) -> list[str]:
    numbers = [found.get(name) for name in ("loss_drawn", "loss_left", "evenness")]
    return [
        f"round {found['round']}",
        f"{found['drawn']:,} of {drawn['units']:,}",
        *("" if number is None else f"{number:.3f}" for number in numbers),
    ]


def _said(drawn: Mapping[str, Any], results: Mapping[str, Any]) -> str:
    scoring = (results.get("cost") or {}).get("scoring") or {}
    said = "Losses in nats per token, under the model that the round began with."
    if any(found.get("evenness") is not None for found in drawn.get("rounds") or []):
        said += " Evenness is 1 where all had the same chance: then the draw hardly follows the loss."
    if scoring.get("tokens"):
        said += f" Scoring read {scoring['tokens']:,} tokens: {scoring['flops']:.2e} FLOPs."
    return said


def _texts(most: Sequence[Mapping[str, Any]]) -> str:
    if not most:
        return ""
    said = (
        "Drawn most often, then by the highest loss: look here for noise (tables, lists, another language, scraps). "
        "¶ begins a document, ⏎ a line; only the start of each window is shown."
    )
    shown = [
        f"<pre><mark>{escape(_times(row))}</mark>\n{escape(str(row.get('text', '')))}</pre>" for row in most
    ]
    return note(said) + "".join(shown)


def _times(row: Mapping[str, Any]) -> str:
    times = int(row.get("times", 1))
    often = "once" if times == 1 else f"{times} times"
    return f"part {row['part']}, drawn {often}, {row['loss']:.3f} nats per token"

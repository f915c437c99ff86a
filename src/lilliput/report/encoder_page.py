"""The page of one encoder's run, and its model card."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from lilliput.progress import duration
from lilliput.report.chart import Series, line_chart
from lilliput.report.look import card, html_page, note, tiles
from lilliput.report.page import details, smooth
from lilliput.report.scale import thin
from lilliput.report.text import amount


def encoder_page(results: Mapping[str, Any], metrics: Sequence[Mapping[str, Any]]) -> str:
    """The HTML page of a finished masked run. results: its results.json. metrics: the rows of its metrics.jsonl."""
    held, cost, shape = results["held_out"], results["cost"], results["shape"]
    figures = [
        (f"{held['value']:.3f}", f"nats a masked token, held out {_interval(held)}".strip()),
        (f"{held['accuracy']:.1%}", "of masked tokens guessed right"),
        (amount(results["parameters"]), "parameters"),
        (amount(cost["tokens"]), f"tokens seen, in {cost['epochs']:.1f} epochs"),
        (duration(cost["seconds"]), "of training"),
    ]
    subtitle = f"A tiny encoder made by Lilliput · {shape['depth']} × width {shape['width']}"
    sections = [
        tiles(figures),
        card("While it trained", _curves(metrics)),
        card("What it makes of hidden words", _guesses(results["guesses"])),
        card("Use it", _use(results["model"], shape)),
        details(results),
    ]
    return html_page(str(results["name"]), subtitle, sections)


def encoder_card(results: Mapping[str, Any]) -> str:
    """Markdown for the model directory: what the encoder is, what it was made from, how to load it."""
    held, cost, shape = results["held_out"], results["cost"], results["shape"]
    sources = ", ".join(f"`{Path(spec['source']).name}`" for spec in results["recipe"]["corpus"])
    lines = "\n\n".join(f"{said}\n\n```\n{code}\n```" for said, code in use(".", shape))
    front = f", {shape['conv']} convolutions of {shape['channels']} channels before" if shape["conv"] else ""
    loss = f"{held['value']:.3f} nats a masked token {_interval(held)}".strip()
    return f"""---
library_name: transformers
pipeline_tag: fill-mask
tags: [lilliput, tiny-language-model]
---

# {results["name"]}

An encoder of {results["parameters"]:,} parameters, made with Lilliput.

| | |
|---|---|
| shape | {shape["depth"]} × width {shape["width"]}, {shape["heads"]} heads, context {shape["context"]}{front} |
| trained on | {sources}: {cost["tokens"]:,} tokens, {cost["epochs"]:.2f} epochs |
| tokenizer | {results["tokenizer"]["vocab_size"]:,} pieces |
| masked loss, held out | {loss}, {held["accuracy"]:.1%} guessed right |

It fills in hidden words and is made to be fine-tuned; by itself it tells nothing of a text.

## Use

{lines}

`lilliput.json` holds the recipe, the hashes of the data, what was measured and the versions it was made with.
"""


def _use(path: str, shape: Mapping[str, Any]) -> str:
    return "".join(f"{note(said)}<pre>{escape(code)}</pre>" for said, code in use(path, shape))


def use(path: str, shape: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What for, and the lines to type."""
    trust = ", trust_remote_code=True" if shape["conv"] else ""
    return [
        ("Fine-tune it to tell labels", f"lilliput classify {shlex.quote(path)} --train FILE --test FILE"),
        (
            "Load it with transformers" + (", which runs the class that lies in the folder" if trust else ""),
            f'from transformers import pipeline\npipeline("fill-mask", model="{path}"{trust})("the [MASK] sat down")',
        ),
    ]


def _interval(held: Mapping[str, Any]) -> str:
    return "" if held.get("low") is None else f"[{held['low']:.3f}, {held['high']:.3f}]"


def _curves(metrics: Sequence[Mapping[str, Any]]) -> str:
    steps = [row for row in metrics if isinstance(row.get("loss"), int | float)]
    charts = []
    if len(steps) > 1:
        x, y = [float(row["step"]) for row in steps], [float(row["loss"]) for row in steps]
        series = [
            Series("each step", *thin(x, y, 600), faint=True, colour=0),
            Series("smoothed", *thin(x, smooth(y, max(1, len(y) // 40)), 300), colour=0),
        ]
        charts.append(
            line_chart(series, title="Training loss", x_label="step", y_label="nats a masked token", height=340)
        )
    scored = [row for row in metrics if "masked_loss" in (row.get("evaluation") or {})]
    if len(scored) > 1:
        x, y = [float(row["step"]) for row in scored], [float(row["evaluation"]["masked_loss"]) for row in scored]
        title = "Held-out loss on the way (a small sample)"
        held = [Series("held out", x, y, style="both", colour=2)]
        charts.append(line_chart(held, title=title, x_label="step", y_label="nats a masked token", height=300))
    return "".join(charts)


def _guesses(examples: Sequence[Mapping[str, Any]]) -> str:
    parts = []
    for one in examples:
        best = ", ".join(f"{escape(guess['piece'])} {guess['probability']:.0%}" for guess in one["guesses"])
        text = f"{escape(one['before'])} <mark>[{escape(one['hidden'])}]</mark> {escape(one['after'])}"
        parts.append(f"<pre>{text}</pre>{note(best)}")
    return "".join(parts)

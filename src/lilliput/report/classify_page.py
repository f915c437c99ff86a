"""The page of a classifier: how well it tells labels beside TF-IDF, which it takes for which, and how it learned."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from lilliput.plan.rules import counted
from lilliput.progress import duration
from lilliput.report.chart import Row, Series, dot_chart, line_chart
from lilliput.report.classifier_card import points
from lilliput.report.look import bullets, card, figures, html_page, note, tiles
from lilliput.report.page import details, smooth
from lilliput.report.scale import thin
from lilliput.report.text import amount

# Of more labels than this the commonest mistakes are listed in place of the whole table.
_WHOLE = 20
_LISTED = 15


def classify_page(results: Mapping[str, Any], metrics: Mapping[int, Sequence[Mapping[str, Any]]]) -> str:
    """The HTML page. results: `classify`'s results.json. metrics: by seed the rows of its metrics.jsonl."""
    began = "from scratch" if results["scratch"] else "pre-trained"
    rows, seeds = results["rows"], results["seeds"]
    gain, count = results["gain"], counted(rows["labels"], "label")
    shown = [
        (f"{results['accuracy']['value']:.2%}", f"accuracy, 95 % interval {_span(results['accuracy'])}"),
        (f"{100 * gain['value']:+.2f}", f"points over {results['baseline']['name']} {_span(gain)}"),
        (f"{results['macro_f1']['value']:.2%}", f"macro-F1 {_span(results['macro_f1'])}"),
        (amount(results["parameters"]), "parameters"),
        (duration(results["cost"]["seconds"]), f"of fine-tuning, {counted(len(seeds), 'seed')}"),
    ]
    subtitle = f"A classifier of {count}, {began}, made by Lilliput · {rows['test']:,} test rows"
    confused = _confused(results.get("confusion"))
    sections = [
        tiles(shown),
        card("Accuracy", _accuracy(results, began)),
        card("What was odd", bullets(results["told"])),
        card("Label by label", _labels(results)),
        card("What it takes for what", confused),
        card("While it learned", _curves(metrics)),
        card("Use it", _use(results)),
        details({**results, "settled": None, "tokenizer": None, "cost": {**results["cost"], "config": None}}),
    ]
    return html_page(f"Labels of {results['data']}", subtitle, sections)


def _span(score: Mapping[str, float]) -> str:
    return f"[{100 * score['low']:.2f}, {100 * score['high']:.2f}]"


def _accuracy(results: Mapping[str, Any], began: str) -> str:
    """This way of making it and the baseline with their intervals, and each seed by itself."""

    def row(name: str, score: Mapping[str, float], colour: int) -> Row:
        return Row(name, 100 * score["value"], 100 * score["low"], 100 * score["high"], colour)

    base = results["baseline"]
    found = [row(f"this encoder, {began}", results["accuracy"], 0), row(base["name"], base["accuracy"], 1)]
    if len(results["per_seed"]) > 1:
        found += [Row(f"seed {one['seed']}", 100 * one["accuracy"]) for one in results["per_seed"]]
    said = "Per cent of the test rows that are told right after the last epoch; nothing was chosen by them. "
    if len(results["seeds"]) > 1:
        said += "Intervals cover seeds, the rows drawn for each, and the choice of test rows."
    else:
        said += "With one seed the intervals cover the choice of test rows alone."
    table = figures(
        ["", "accuracy", "macro-F1"],
        [[name, points(one["accuracy"]), points(one["macro_f1"])] for name, one in
         (("this encoder", results), (base["name"], base))],
    )  # fmt: skip
    return note(said) + dot_chart(found, x_label="accuracy, %") + table


def _labels(results: Mapping[str, Any]) -> str:
    """Each label, those that are told worst first."""
    rows = sorted(results["labels"], key=lambda row: (float(row["f1"]), str(row["label"])))
    head = ["label", "test rows", "found", "F1"]
    said = "Found: the share of a label's rows that are told right. Of the first seed, the lowest F1 first."
    cells = [[row["label"], f"{row['rows']:,}", f"{row['found']:.1%}", f"{row['f1']:.1%}"] for row in rows]
    return note(said) + figures(head, cells)


def _confused(confusion: Mapping[str, Any] | None) -> str:
    """The table of truth and guesses, or where there are many labels the commonest mistakes."""
    if confusion is None:
        return ""
    names, table = confusion["labels"], confusion["rows"]
    if len(names) > _WHOLE:
        mistakes = [
            (number, names[truth], names[guess])
            for truth, row in enumerate(table)
            for guess, number in enumerate(row)
            if truth != guess and number
        ]
        mistakes.sort(key=lambda one: -one[0])
        cells = [[truth, guess, str(number)] for number, truth, guess in mistakes[:_LISTED]]
        return note("The commonest mistakes of the first seed.") + figures(["is", "taken for", "rows"], cells)
    head = "".join(f"<th>{escape(name)}</th>" for name in names)
    body = "".join(f"<tr><td>{escape(name)}</td>{_shades(row)}</tr>" for name, row in zip(names, table, strict=True))
    said = "A row for each label as it is, a column for each as it is told, by the first seed; darker is more of a row."
    return note(said) + f'<table class="figures"><tr><th></th>{head}</tr>{body}</table>'


def _shades(row: Sequence[int]) -> str:
    total = max(1, sum(row))
    return "".join(
        f'<td style="background:rgba(0,114,178,{0.6 * number / total:.3f})">{number}</td>' for number in row
    )


def _curves(metrics: Mapping[int, Sequence[Mapping[str, Any]]]) -> str:
    """The training loss of every seed."""
    series = []
    for seed, rows in metrics.items():
        steps = [row for row in rows if isinstance(row.get("loss"), int | float)]
        if len(steps) > 1:
            x, y = [float(row["step"]) for row in steps], [float(row["loss"]) for row in steps]
            series.append(Series(f"seed {seed}", *thin(x, smooth(y, max(1, len(y) // 40)), 300)))
    if not series:
        return ""
    return line_chart(series, title="Training loss, smoothed", x_label="step", y_label="nats a row", height=320)


def _use(results: Mapping[str, Any]) -> str:
    model = results["model"]
    trust = ", trust_remote_code=True" if results["shape"]["family"] != "bert" else ""
    told = [
        ("Tell the labels of a file's texts", f"lilliput classify {shlex.quote(model)} --predict FILE"),
        (
            "Load it with transformers",
            f'from transformers import pipeline\npipeline("text-classification", model="{model}"{trust})("a text")',
        ),
        ("As ONNX, for other runtimes", f"lilliput export {shlex.quote(model)} --to onnx"),
    ]
    return "".join(f"{note(said)}<pre>{escape(code)}</pre>" for said, code in told)

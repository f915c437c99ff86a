"""A study's tables as Markdown, columns aligned so that they can be read in a terminal too."""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any

from lilliput.lab.metrics import BITS, MASKED, Metric, metric_of
from lilliput.lab.spec import TAGS
from lilliput.progress import count, duration


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table, every column as wide as its widest cell."""
    lines = [[cell.replace("|", "\\|") for cell in line] for line in (head, *rows)]
    widths = [max(3, *(_width(line[at]) for line in lines)) for at in range(len(head))]

    def row(line: Sequence[str]) -> str:
        padded = (cell + " " * (width - _width(cell)) for cell, width in zip(line, widths, strict=True))
        return f"| {' | '.join(padded)} |"

    return "\n".join([row(lines[0]), row(["-" * width for width in widths]), *map(row, lines[1:])])


def _width(text: str) -> int:
    """Columns on a terminal: East Asian characters take two."""
    return sum(2 if unicodedata.east_asian_width(character) in "WF" else 1 for character in text)


def table(summary: Mapping[str, Any]) -> str:
    """The arms by the study's metric, with the gain over the baseline, its 95 % interval and what that says."""
    base, alone, metric = summary["baseline"], len(summary["arms"]) == 1, main_metric(summary)
    head = ["arm", heading(metric)] + ([] if alone else [f"gain over {base}", "95 % interval", "outcome"])
    head += ["seeds", "parameters", "tokens", "time a cell"]
    batches = sorted({batch for arm in summary["arms"] for batch in arm.get("speed", {})}, key=int)
    encoders = metric.measure == MASKED or any("loss" in arm for arm in summary["arms"])
    head += [f"{'ms' if encoders else 'tokens/s'}, batch {batch}" for batch in batches]
    losses = any(arm.get("loss") is not None for arm in summary["arms"])
    head += ["masked loss"] if losses else []
    inherited = any(arm.get("start") is not None for arm in summary["arms"])
    head += ["right after carving"] if inherited else []
    rows = []
    for arm in summary["arms"]:
        if not arm["seeds"]:
            said = "would not train" if arm["failed"] else "not measured yet"
            rows.append([arm["name"], said, *[""] * (len(head) - 2)])
            continue
        rows.append([
            arm["name"],
            (level_cell(metric, arm) if "mean" in arm else "not measured yet") + " (pseudo)" * bool(arm.get("pseudo")),
            *([] if alone else gain_cells(metric, arm.get("gain"), arm["name"] == base)),
            str(arm["seeds"]),
            f"{arm['parameters']:,}",
            count(arm["tokens"]),
            duration(arm["seconds"]),
            *(f"{arm['speed'][batch]:.1f}" if batch in arm["speed"] else "" for batch in batches),
            *([_number(arm["loss"])] if losses else []),
            *([_number(arm["start"])] if inherited else []),
        ])  # fmt: skip
    return markdown(head, rows) + "\n"


def main_metric(summary: Mapping[str, Any]) -> Metric:
    """What a study's table shows first."""
    return metric_of(summary["metric"], [task["task"] for task in summary["tasks"]]) or Metric(None, BITS)


def heading(metric: Metric) -> str:
    """A metric at the head of a column: which set it is of, and in what."""
    if metric.task is None:
        return metric.words
    return f"{metric.words} at {metric.task}" + (", %" if metric.unit[0] == 100 else "")


def gain_cells(metric: Metric, gain: Mapping[str, Any] | None, base: bool) -> tuple[str, str, str]:
    """(gain, interval, outcome) as text. base: whether this is the arm that the others are held against."""
    if gain is None:
        return "–", "–", "baseline" if base else "not comparable"
    low, high = metric.difference(gain["low"]), metric.difference(gain["high"])
    return metric.difference(gain["gain"]), f"{low} to {high}", str(gain["outcome"])


def task_tables(tasks: Sequence[Mapping[str, Any]], base: str) -> str:
    """A heading and a table for each task: every measure's level, and its gain with what that says."""
    parts = [part for task in tasks for part in (_title(task), _task_table(task, base) if task["measures"] else "")]
    return "\n\n".join(part for part in parts if part)


def _title(task: Mapping[str, Any]) -> str:
    if task["items"] is None:
        return f"### {task['task']}\n\nnot measured yet"
    said = [f"{task['items']:,} items"]
    if task["groups"]:
        said.append(f"the mean of {task['groups']} groups")
    # Encoders are fine-tuned, and so have no examples before them.
    shots = "" if task["shots"] is None else f"; {_shots(task['shots'])}"
    return f"### {task['task']}\n\n{', '.join(said)}{shots}."


def _shots(shots: int) -> str:
    return "no shots" if not shots else f"{shots} shots" if shots > 1 else "one shot"


def _task_table(task: Mapping[str, Any], base: str) -> str:
    head, metrics = ["arm"], [Metric(task["task"], row["measure"]) for row in task["measures"]]
    for metric in metrics:
        scale, unit = metric.unit
        head += [metric.words + (", %" if scale == 100 else ""), f"gain, {unit}", "95 % interval", "outcome"]
    rows = []
    for arm in task["arms"]:
        row = [arm]
        for metric, measure in zip(metrics, task["measures"], strict=True):
            found = measure["arms"].get(arm)
            if found is None:
                row += ["not measured yet", "", "", ""]
            else:
                row += [level_cell(metric, found), *gain_cells(metric, found["gain"], arm == base)]
        rows.append(row)
    if beside := task.get("baseline"):
        rows.append([beside["name"], f"{100 * beside['mean']:.2f}", *[""] * (len(head) - 2)])
    return markdown(head, rows)


def level_cell(metric: Metric, found: Mapping[str, Any]) -> str:
    """An arm's level, ± the spread over its seeds."""
    if metric.measure == "perplexity":
        return f"{math.exp(min(found['mean'], 700)):,.1f}"
    scale, digits = metric.unit[0], 2 if metric.unit[0] == 100 else 4
    spread = "" if found["sd"] is None else f" ± {scale * found['sd']:.{digits}f}"
    return f"{scale * found['mean']:.{digits}f}{spread}"


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"


def published(figures: Sequence[Mapping[str, Any]]) -> str:
    """Figures of others, each with where it is from."""
    rows = []
    for item in figures:
        origin = TAGS[item["tag"]] + (f", {item['source']}" if item["source"] else "")
        rows.append([item["label"], f"{item['value']} {item['unit']}".strip(), origin])
    return markdown(["figure", "value", "from"], rows)

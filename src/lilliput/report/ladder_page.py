"""The page of a ladder: what each component bought, on the way and at the end, and what it cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from lilliput.progress import duration
from lilliput.report.chart import Reference, Row, Series, dot_chart, line_chart
from lilliput.report.ladder_text import (
    cost_table,
    outcome_words,
    rate_table,
    rung_table,
    shown,
    size_table,
    task_table,
    whole_line,
)
from lilliput.report.look import bullets, card, figures, html_page, note, tiles
from lilliput.report.text import amount

Data = Mapping[str, Any]
_CLAIMED = 0.005


def ladder_page(ladder: Data) -> str:
    """The HTML page of a ladder's answer (`lab.ladder.sum.answer`)."""
    sections = [
        _tiles(ladder),
        card("The ladder", _levels(ladder)),
        card("What each rung bought", _gains(ladder)),
        card("While they trained", _curves(ladder)),
        card("Tasks", _tasks(ladder)),
        card("On the device", _sizes(ladder)),
        card("What they write", _samples(ladder)),
        card("What it cost", _costs(ladder)),
        card("Learning rates", _rates(ladder)),
        card("How it was measured", bullets(_how(ladder))),
    ]
    return html_page(f"Ladder: {ladder['recipe']}", str(ladder["question"]), sections)


def _tiles(ladder: Data) -> str:
    rungs, whole = ladder["rungs"], ladder.get("whole")
    found = []
    if whole is not None:
        change = f"{-whole['share']['value']:+.1%}".replace("-", "−")
        found.append((change, "bits per byte, last rung against the base"))
    found += [(f"{rung['bits_per_byte']:.4f}", f"bits per byte, {rung['name']}") for rung in (rungs[0], rungs[-1])]
    found.append((amount(rungs[0]["parameters"]), f"parameters each, {amount(ladder['bytes'])}B of text each"))
    return tiles(found)


def _wide(chart: str) -> str:
    """A wide chart that a narrow screen scrolls, since its letters would be too small there."""
    return f'<div style="min-width:560px">{chart}</div>'


def _levels(ladder: Data) -> str:
    rows = [
        Row(rung["name"], rung["bits_per_byte"], rung["low"], rung["high"], place)
        for place, rung in enumerate(shown(ladder))
        if rung["bits_per_byte"] is not None
    ]
    planner = ladder["planner"]
    same = f"The planner's best shape without inheritance and rounds is the arm {planner['arm']}." if (
        "parameters" not in planner
    ) else ""  # fmt: skip
    said = f"Lower is better. {whole_line(ladder)}. {same}".replace("..", ".")
    return note(said) + _wide(dot_chart(rows, x_label="bits per byte, 95 % interval of each arm's own level"))


def _gains(ladder: Data) -> str:
    rungs = [rung for rung in ladder["rungs"][1:] if rung["gain"] is not None]
    rows = [
        Row(rung["name"], rung["gain"]["value"], rung["gain"]["low"], rung["gain"]["high"], place)
        for place, rung in enumerate(rungs, 1)
    ]
    one = len(ladder["seeds"]) == 1
    said = "Gain over the rung below, positive is better; paired by document and seed. "
    said += f"{outcome_words(ladder['rungs'])}."
    said += " With one seed the interval is over documents alone: nothing is shown for certain." if one else ""
    chart = dot_chart(rows, x_label="bits per byte", references=[Reference("", -_CLAIMED), Reference("0", 0.0)])
    verdicts = [
        f"{rung['name']} is not worse than the rung below by {_CLAIMED:g} or more: {rung['verdict']}"
        for rung in rungs
        if rung["verdict"]
    ]
    head, table = rung_table(ladder)
    paper = f"The paper's: {ladder['paper']['source']}. Other models on other tasks: only the order is comparable."
    below = figures(head, table) + "<br>" + note(paper) + bullets(verdicts)
    return note(said) + (_wide(chart) if rows else "") + below


def _curves(ladder: Data) -> str:
    series = []
    for place, rung in enumerate(shown(ladder)):
        runs = list(ladder["curves"].get(rung["arm"], {}).values())
        for number, points in enumerate(runs):
            if len(points) > 1:
                x, y = ([float(point[axis]) for point in points] for axis in (0, 1))
                name = rung["name"] if number == 0 else ""
                series.append(Series(name, x, y, colour=place, faint=number > 0))
    if not series:
        return ""
    chart = line_chart(series, x_label="bytes of text trained on", y_label="bits per byte", log_x=False)
    said = (
        "Held-out bits per byte on the way, of a small sample; replayed text counts as read. What carving and the "
        "teacher read before is not on this axis, but in the table of costs."
    )
    return note(said) + _wide(chart)


def _sizes(ladder: Data) -> str:
    said = (
        "Bytes of the weights as llama.cpp's F16, Q8_0 and Q4_K_M files hold them. Tokens a second: random weights, "
        "2 tokens read, 510 written, greedy, the median of five runs after two; arms of one shape share a measurement."
    )
    return note(said) + figures(*size_table(ladder))


def _tasks(ladder: Data) -> str:
    table = task_table(ladder)
    said = "Gains are over the base, paired by item and seed, with their 95 % interval, in percentage points."
    return note(said) + figures(*table) if table else ""


def _samples(ladder: Data) -> str:
    parts = []
    for rung in ladder["rungs"]:
        if rung["samples"]:
            sample = rung["samples"][0]
            text = f"<pre><mark>{escape(sample['prompt'])}</mark>{escape(sample['text'])}</pre>"
            parts.append(note(rung["name"]) + text)
    return note("The coloured start was given to all; the rest is each model's.") + "".join(parts) if parts else ""


def _costs(ladder: Data) -> str:
    head, rows = cost_table(ladder)
    teacher = ladder["teacher"]
    said = f"Teacher: {teacher['shape']['summary']}, {amount(teacher['tokens'])} tokens, trained once for all seeds. "
    if teacher.get("bits_per_byte") is not None:
        said += f"It reaches {teacher['bits_per_byte']:.4f} bits per byte. "
    spent = ladder["cost"]
    parts = ", ".join(f"{name} {duration(cost['seconds'])}" for name, cost in spent.items() if cost["seconds"])
    return note(f"{said}All training: {parts}.") + figures(head, rows)


def _rates(ladder: Data) -> str:
    table = rate_table(ladder)
    if table is None:
        return ""
    said = "Every arm was tried at the same shares of its rule's rate, with one seed, on text that no arm is judged by."
    return note(said) + figures(*table)


def _how(ladder: Data) -> Sequence[str]:
    lines = [f"command: {ladder['command']}", f"seeds: {', '.join(map(str, ladder['seeds']))}"]
    lines.append(f"judged on: {ladder['evaluated_on']}")
    if ladder["seed_sd"] is not None:
        lines.append(f"noise of one run beside its seed's own effect: {ladder['seed_sd']:.4f} bits per byte")
    lines += [str(line) for line in ladder["notes"]]
    for machine in ladder["machines"]:
        gpu = f", {machine['gpu']}" if machine.get("gpu") else ""
        lines.append(f"machine: {machine['cpu']}, {machine['cores']} cores, {machine['memory_gb']} GB{gpu}")
    for versions in ladder["versions"]:
        lines.append("versions: " + ", ".join(f"{name} {version}" for name, version in versions.items()))
    return lines

"""A study's pictures: the arms on one scale, a scatter of the arms for each correlation, what rounds forget."""

from __future__ import annotations

import re
from typing import Any

from lilliput.lab.correlate import in_words
from lilliput.lab.fields import SPEEDS
from lilliput.lab.metrics import BITS, MASKED
from lilliput.lab.spec import Study
from lilliput.lab.tables import heading, main_metric
from lilliput.recipe import parse_size
from lilliput.report.chart import Reference, Row, Series, dot_chart, line_chart

# An axis whose ends differ by more than this factor is drawn on a logarithmic scale.
_LOG_RATIO = 6


def figure(study: Study, summary: dict[str, Any]) -> str:
    """The study's metric by arm with 95 % intervals: along the axis where it is of numbers, else a row an arm."""
    metric = main_metric(summary)
    done = [_scaled(arm, metric.unit[0]) for arm in summary["arms"] if arm["seeds"] and "mean" in arm]
    label = f"{heading(metric)} ({'lower' if metric.lower else 'higher'} is better)"
    references = [
        Reference(item["label"], float(item["value"]))
        for item in summary["published"]
        if item["unit"] == metric.unit[1] and isinstance(item["value"], int | float)
    ]
    numbers = _numbers(study)
    if numbers is None:
        rows = [Row(arm["name"], arm["mean"], arm["low"], arm["high"], index) for index, arm in enumerate(done)]
        return dot_chart(rows, title=study.name, x_label=label, references=references)
    placed = sorted((numbers[arm["name"]], arm["mean"], arm["low"], arm["high"]) for arm in done)
    x, y, low, high = ([point[i] for point in placed] for i in range(4))
    line = Series(heading(metric), x, y, low, high, style="both")
    return line_chart(
        [line],
        title=study.name,
        x_label=study.axis.key if study.axis else "",
        y_label=label,
        log_x=_log(x),
        references=references,
    )


def _scaled(arm: dict[str, Any], scale: float) -> dict[str, Any]:
    """An arm's level and interval as they are shown: shares as per cent."""
    return {**arm, **{name: scale * arm[name] for name in ("mean", "low", "high")}}


def _log(x: list[float]) -> bool:
    return len(x) > 1 and min(x) > 0 and max(x) / min(x) >= _LOG_RATIO


def _numbers(study: Study) -> dict[str, float] | None:
    """The axis' values as numbers by arm; None where the arms do not lie on an axis of numbers."""
    if study.axis is None:
        return None
    values = [parse_size(value) for value in study.axis.values]
    try:
        numbers = [float(str(value)) for value in values]
    except ValueError:
        return None
    return dict(zip(study.arm_settings(), numbers, strict=True))


def scatters(summary: dict[str, Any]) -> dict[str, str]:
    """File name and picture of each pair of quantities that the study correlates, the pairs' widest choice of arms."""
    widest: dict[tuple[str, str], dict[str, Any]] = {}
    for row in summary["correlations"]:
        pair = (row["x"], row["y"])
        if row["points"] and len(row["points"]) > len(widest.get(pair, {"points": []})["points"]):
            widest[pair] = row
    return {f"{_slug(x)}-{_slug(y)}.svg": _scatter(row, summary) for (x, y), row in widest.items()}


def forgetting(summary: dict[str, Any]) -> dict[str, str]:
    """File name and picture, where arms train in rounds: how well each part of the first round's text was known when
    that had ended (PanGu-π Pro Fig. 9), and what the later rounds did to it."""
    told = {arm["name"]: arm["forgetting"] for arm in summary["arms"] if arm.get("forgetting")}
    if not told:
        return {}

    def picture(values: dict[str, list[float]], title: str, y_label: str) -> str:
        lines = [Series(name, list(range(1, len(y) + 1)), y, style="both") for name, y in values.items()]
        return line_chart(lines, title=title, x_label="part of the first round, in the order read", y_label=y_label)

    first = {name: found["first"] for name, found in told.items()}
    change = {
        name: [last - first for first, last in zip(found["first"], found["last"], strict=True)]
        for name, found in told.items()
    }
    title = f"{summary['study']}: loss of each part"
    return {
        "forgetting.svg": picture(first, f"{title} when the first round had ended", "nats a token"),
        "remembering.svg": picture(change, f"{title}, what later rounds did to it", "change in nats a token"),
    }


def _slug(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "_", name.lower())


def _scatter(row: dict[str, Any], summary: dict[str, Any]) -> str:
    arms = {arm["name"]: arm for arm in summary["arms"]}
    points = sorted(row["points"], key=lambda point: float(point["x"]))
    scale, unit = (1, "") if row["y"] in (BITS, MASKED, *SPEEDS) else (100, ", %")
    x, y = [float(point["x"]) for point in points], [scale * float(point["y"]) for point in points]
    half = None
    if row["y"] == summary["metric"] and all("low" in arms[point["arm"]] for point in points):
        half = [scale * (arms[point["arm"]]["high"] - arms[point["arm"]]["low"]) / 2 for point in points]
    low = None if half is None else [value - part for value, part in zip(y, half, strict=True)]
    high = None if half is None else [value + part for value, part in zip(y, half, strict=True)]
    said = in_words(row["y"])
    series = Series(said, x, y, low, high, style="points")
    title = f"{summary['study']}: {said} by {row['x']}"
    return line_chart([series], title=title, x_label=row["x"], y_label=said + unit, log_x=_log(x))

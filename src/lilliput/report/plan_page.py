"""The page of `lilliput plan`: the plans, the front of speed against quality, and what the order rests on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lilliput.report.chart import Series, line_chart
from lilliput.report.look import bullets, card, figures, html_page, note, tiles
from lilliput.report.plan_text import (
    EXPECTED,
    cost_table,
    explain_parts,
    fallback_lines,
    plan_table,
    provisional_lines,
    run_table,
    size,
    term_table,
    unused_lines,
)
from lilliput.report.text import amount

_BUDGET = {"params": "parameters", "bytes": "bytes", "bits": "bits a weight", "speed": "tokens a second"}


def plan_page(data: Mapping[str, Any]) -> str:
    """The HTML page of an answer of `lilliput plan`."""
    plans, best = data["plans"], data["plans"][0]
    speed = best["tokens_per_second"]
    shown = [
        (f"{best['depth']} × {best['width']}", "layers × width of plan 1"),
        (amount(best["parameters"]), "parameters"),
        (size(best["bytes"]), f"of weights at {best['bits']} bits"),
        *([(amount(round(speed)), "tokens a second here")] if speed else []),
    ]
    sections = [
        tiles(shown),
        card("Plans", figures(*plan_table(plans)) + "".join(map(note, [*unused_lines(data), EXPECTED]))),
        card("What they cost", figures(*cost_table(plans)) + "".join(map(note, provisional_lines(data)))),
        card("Speed against quality", front_chart(data["front"], plans)),
        card("Why plan 1 is as it is", bullets([*best["rules"], *fallback_lines(best)])),
        *_evidence(data.get("evidence")),
    ]
    return html_page("Plan", _subtitle(data["budget"]), sections)


def _subtitle(budget: Mapping[str, Any]) -> str:
    said = [f"{amount(value, exact=True)} {_BUDGET[name]}" for name, value in budget.items() if value is not None]
    return f"Within {', '.join(said)}" if said else "No budget given"


def front_chart(front: Sequence[Mapping[str, Any]], plans: Sequence[Mapping[str, Any]]) -> str:
    """Every shape looked at, the front among them, and the plans shown; nothing where no speed is known."""
    if not front:
        return ""

    def points(kept: Sequence[Mapping[str, Any]]) -> tuple[list[float], list[float]]:
        return [point["tokens_per_second"] for point in kept], [100 * point["expected"] for point in kept]

    best = [point for point in front if point["best_at_its_speed"]]
    other = [point for point in front if not point["best_at_its_speed"]]
    shown = [{**plan, "expected": plan["expected"]["value"]} for plan in plans]
    series = [
        Series("looked at", *points(other), style="points"),
        Series("best at its speed", *points(best), style="line"),
        Series("the plans above", *points(shown), style="points"),
    ]
    return line_chart(
        series, x_label="tokens a second here", y_label="expected bits per byte against plan 1, %", log_x=True
    )


def _evidence(evidence: Mapping[str, Any] | None) -> list[str]:
    if evidence is None:
        return []
    head = "Change of ln(bits per byte) for a change of each term by one, before any run and after."
    parts = [card("What the order rests on", note(head) + figures(*term_table(evidence)))]
    for group in evidence["groups"]:
        parts.append(card(f"Runs of {', '.join(group['studies'])}", figures(*run_table(group))))
    return [*parts, note(explain_parts(evidence)[-1])]

"""A ladder as tables of words and figures, for the terminal and the page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lilliput.progress import duration
from lilliput.report.plan_text import size
from lilliput.report.text import aligned, amount

Data = Mapping[str, Any]
Table = tuple[list[str], list[list[str]]]


def rung_table(ladder: Data) -> Table:
    """One row a rung: bits per byte, what it gained over the one below, and the paper's figures."""
    head = ["", "bits per byte", "gain", "95 % interval", "", "paper: accuracy", "gain"]
    rows, below = [], None
    for rung in shown(ladder):
        paper = rung.get("paper")
        gained = "" if below is None or paper is None else f"{paper - below:+.2f}"
        rows.append(
            [
                rung["name"],
                "–" if rung.get("bits_per_byte") is None else f"{rung['bits_per_byte']:.4f}",
                *gain_cells(rung),
                "" if paper is None else f"{paper:.2f}",
                gained,
            ]
        )
        below = paper
    return head, rows


def shown(ladder: Data) -> list[Data]:
    """The rungs, then the planner's best where it is an arm of its own."""
    planner = ladder.get("planner") or {}
    return [*ladder["rungs"], *([planner] if "parameters" in planner else [])]


def gain_cells(rung: Data) -> list[str]:
    """Gain over the rung below, its interval, and the outcome in words; the planner's best is set against the base."""
    gain, outcome = rung.get("gain"), rung.get("outcome")
    if gain is None and rung.get("over_base"):
        gain, outcome = rung["over_base"], "against the base"
    if gain is None or (outcome is None and not gain["value"]):
        return ["", "", ""]
    return [f"{gain['value']:+.4f}", f"{gain['low']:+.4f} to {gain['high']:+.4f}", outcome or ""]


def task_table(ladder: Data) -> Table | None:
    """One row a rung and task: its accuracies in per cent, and what they gained over the base; None without tasks."""
    measures = (("acc", "accuracy"), ("acc_norm", "normalised"))
    rows = []
    for name in dict.fromkeys(name for rung in shown(ladder) for name in rung["tasks"]):
        for rung in shown(ladder):
            row, found = [f"{name}: {rung['name']}"], rung["tasks"].get(name, {})
            for measure, _ in measures:
                level = found.get(measure)
                gain = level and level["gain"]
                row.append(f"{abs(100 * level['value']):.2f}" if level else "–")
                row.append(f"{100 * gain['low']:+.2f} to {100 * gain['high']:+.2f}" if gain else "")
                row.append(level["outcome"] or "" if level else "")
            rows.append(row)
    head = ["in per cent", *(cell for _, words in measures for cell in (words, "gain over the base", ""))]
    return (head, rows) if rows else None


def size_table(ladder: Data) -> Table:
    """One row a rung: parameters, the tables' share, bytes on the device, how fast it writes."""
    batches = sorted({row["batch"] for rung in shown(ladder) for row in rung["speed"]})
    head = ["", "parameters", "tables", "depth × width", "vocabulary", "16 bits", "8 bits", "4 bits"]
    head += ["tokens/s" if batch == 1 else f"tokens/s, {batch} at once" for batch in batches]
    rows = []
    for rung in shown(ladder):
        speeds = {row["batch"]: row["per_sequence"] for row in rung["speed"]}
        rows.append(
            [
                rung["name"],
                f"{rung['parameters']:,}",
                f"{rung['share']:.0%}",
                f"{rung['shape']['depth']} × {rung['shape']['width']}",
                f"{rung['shape']['vocab_size']:,}",
                *(size(rung["weight_bytes"][bits]) for bits in ("16", "8", "4")),
                *(amount(round(speeds[batch])) if batch in speeds else "–" for batch in batches),
            ]
        )
    return head, rows


def cost_table(ladder: Data) -> Table:
    """One row a rung: its own training, and what it rests on."""
    head = ["of one seed", "own training", "FLOPs", "carving", "teacher", "in all", "FLOPs in all"]
    rows = []
    for rung in shown(ladder):
        cost = rung["cost"]
        if not cost:
            continue
        rests = cost["teacher"]["flops"] > 0
        rows.append(
            [
                rung["name"],
                duration(cost["seconds"]),
                f"{cost['flops']:.2e}",
                duration(cost["carving"]["seconds"]) if rests else "–",
                duration(cost["teacher"]["seconds"]) if rests else "–",
                duration(cost["in_all"]["seconds"]),
                f"{cost['in_all']['flops']:.2e}",
            ]
        )
    return head, rows


def rate_table(ladder: Data) -> Table | None:
    """One row an arm: bits per byte at every share of the rule's rate, the best marked; None where none was chosen."""
    tried = ladder.get("rates") or []
    if not tried:
        return None
    shares = sorted({row["share"] for row in tried})
    names = {rung["arm"]: rung for rung in shown(ladder)}
    head = ["", *(f"{share:g} times the rule's" for share in shares), "taken"]
    rows = []
    for arm, rung in names.items():
        own = {row["share"]: row["bits_per_byte"] for row in tried if row["arm"] == arm}
        cells = ["–" if own.get(share) is None else f"{own[share]:.4f}" for share in shares]
        rows.append([rung["name"], *cells, f"{rung['lr']:.3g}"])
    return head, rows


def whole_line(ladder: Data) -> str:
    """What all rungs together gained, with the verdict on the claim."""
    whole = ladder.get("whole")
    if whole is None:
        return ""
    gain, share = whole["gain"], whole["share"]
    return (
        f"The whole: {gain['value']:+.4f} bits per byte ({gain['low']:+.4f} to {gain['high']:+.4f}), "
        f"{share['value']:+.1%} of the base's; at least {whole['claimed']:.0%} was claimed: {whole['verdict']}"
    )


def ladder_text(ladder: Data) -> str:
    """The answer of `lilliput ladder` for people."""
    head, rows = rung_table(ladder)
    sizes, fast = size_table(ladder)
    (gains,) = aligned([head, *rows])
    (device,) = aligned([sizes, *fast])
    lines = ["", gains, "", whole_line(ladder), "", device]
    if tasks := task_table(ladder):
        lines += ["", *aligned([tasks[0], *tasks[1]])]
    teacher = ladder["teacher"]
    if teacher.get("seconds") is not None:
        lines += ["", f"teacher: {teacher['parameters']:,} parameters, trained in {duration(teacher['seconds'])} "
                      f"({teacher['flops']:.2e} FLOPs); {teacher['bits_per_byte']:.4f} bits per byte"]  # fmt: skip
    lines += ["", *(f"{line[:1].upper()}{line[1:]}." for line in ladder["notes"])]
    lines += _sample_lines(ladder)
    return "\n".join([*lines, "", f"report: {ladder['report']}"])


def _sample_lines(ladder: Data) -> list[str]:
    """What each rung writes after the same words: one line each."""
    rungs = [rung for rung in ladder["rungs"] if rung["samples"]]
    if not rungs:
        return []
    prompt = rungs[0]["samples"][0]["prompt"]
    lines = ["", f"After {_one_line(prompt, 60)!r}:"]
    width = max(len(rung["name"]) for rung in rungs)
    return lines + [f"  {rung['name']:<{width}}  {_one_line(rung['samples'][0]['text'], 70)}" for rung in rungs]


def _one_line(text: str, length: int) -> str:
    line = " ".join(text.split())
    return line if len(line) <= length else f"{line[: length - 1]}…"


def outcome_words(rungs: Sequence[Data]) -> str:
    """`4 rungs: 3 better, 1 no difference shown`."""
    found = [rung["outcome"] for rung in rungs if rung.get("outcome")]
    told = [f"{found.count(word)} {word}" for word in dict.fromkeys(found)]
    return f"{len(found)} rungs: {', '.join(told)}" if found else ""

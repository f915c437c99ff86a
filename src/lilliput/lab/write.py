"""What a study leaves in `results/NAME/`: table (Markdown and JSON), picture, README with the verdicts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lilliput.lab.spec import TAGS, Study
from lilliput.progress import count, duration
from lilliput.recipe import parse_size
from lilliput.report.chart import Reference, Row, Series, dot_chart, line_chart
from lilliput.store import write_atomic, write_json

# An axis whose ends differ by more than this factor is drawn on a logarithmic scale.
_LOG_RATIO = 6


def write_results(study: Study, summary: dict[str, Any], folder: Path) -> None:
    """Write every file that follows from the finished cells; the same cells give the same files."""
    write_json(folder / "table.json", summary)
    write_atomic(folder / "table.md", table(summary))
    write_atomic(folder / "figure.svg", figure(study, summary) + "\n")
    write_atomic(folder / "README.md", readme(summary))


def table(summary: dict[str, Any]) -> str:
    """The arms as a Markdown table, with the gain over the baseline and its 95 % interval."""
    base = summary["baseline"]
    head = ["arm", "bits per byte", f"gain over {base}", "95 % interval", "seeds"]
    head += ["parameters", "tokens", "time a cell"]
    lines = [_line(head), _line(["---"] * len(head))]
    for arm in summary["arms"]:
        if not arm["seeds"]:
            said = "would not train" if arm["failed"] else "not measured yet"
            lines.append(_line([arm["name"], said, *[""] * (len(head) - 2)]))
            continue
        gain = arm["gain"]
        spread = "" if arm["sd"] is None else f" ± {arm['sd']:.4f}"
        lines.append(
            _line(
                [
                    arm["name"],
                    f"{arm['mean']:.4f}{spread}",
                    "–" if gain is None else f"{gain['gain']:+.4f}",
                    "–" if gain is None else f"{gain['low']:+.4f} to {gain['high']:+.4f}",
                    str(arm["seeds"]),
                    f"{arm['parameters']:,}",
                    count(arm["tokens"]),
                    duration(arm["seconds"]),
                ]
            )
        )
    return "\n".join(lines) + "\n"


def _line(cells: list[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def verdict_lines(summary: dict[str, Any]) -> list[str]:
    """One sentence for each claim, the verdict first."""
    lines = []
    for claim in summary["claims"]:
        effect = claim["effect"]
        if effect is None:
            lines.append(f"**not measured**: {claim['text']} ({claim['why']})")
            continue
        seeds = f"{effect['seeds']} seed{'s' if effect['seeds'] > 1 else ''}"
        lines.append(
            f"**{claim['verdict']}**: {claim['text']} ({claim['kind']}, δ = {claim['delta']:g}; gain "
            f"{effect['gain']:+.4f}, 95 % interval {effect['low']:+.4f} to {effect['high']:+.4f}, {seeds})"
        )
    return lines


def figure(study: Study, summary: dict[str, Any]) -> str:
    """Bits per byte by arm with 95 % intervals: along the axis where it is of numbers, else a row an arm."""
    done = [arm for arm in summary["arms"] if arm["seeds"]]
    references = [
        Reference(item["label"], float(item["value"]))
        for item in summary["published"]
        if item["unit"] == "bits per byte" and isinstance(item["value"], int | float)
    ]
    numbers = _numbers(study)
    if numbers is None:
        rows = [Row(arm["name"], arm["mean"], arm["low"], arm["high"], index) for index, arm in enumerate(done)]
        return dot_chart(rows, title=study.name, x_label="bits per byte (lower is better)", references=references)
    placed = sorted((numbers[arm["name"]], arm["mean"], arm["low"], arm["high"]) for arm in done)
    x, y, low, high = ([point[i] for point in placed] for i in range(4))
    positive = [value for value in x if value > 0]
    log = len(positive) == len(x) > 1 and max(x) / min(x) >= _LOG_RATIO
    line = Series("bits per byte", x, y, low, high, style="both")
    return line_chart(
        [line],
        title=study.name,
        x_label=study.axis.key if study.axis else "",
        y_label="bits per byte (lower is better)",
        log_x=log,
        references=references,
    )


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


def readme(summary: dict[str, Any]) -> str:
    """Question, verdicts, table, picture, how it was measured and how to measure it again."""
    done, total = summary["cells"]["done"], summary["cells"]["total"]
    parts = [f"# {summary['study']}", summary["question"]]
    if done < total:
        parts.append(f"**Unfinished**: {done} of {total} cells are measured.")
    if summary["failures"]:
        lines = [f"- {item['arm']}, seed {item['seed']}: {item['reason']}" for item in summary["failures"]]
        parts.append("**Would not train**:\n\n" + "\n".join(lines))
    if lines := verdict_lines(summary):
        parts += ["## Verdict", "\n".join(f"- {line}" for line in lines)]
    parts += ["## Result", table(summary).rstrip(), "![bits per byte by arm](figure.svg)"]
    parts.append(
        "Lower bits per byte are better; a positive gain means that the arm is better. ± is the standard "
        "deviation over seeds. Intervals cover seeds (pooled over the arms) and the choice of documents; "
        "see docs/evaluate.md."
    )
    if summary["published"]:
        parts += ["## Published beside", _published(summary["published"])]
    parts += ["## How", _how(summary)]
    if summary["notes"]:
        parts += ["## Notes", summary["notes"].strip()]
    return "\n\n".join(parts) + "\n"


def _published(figures: list[dict[str, Any]]) -> str:
    lines = [_line(["figure", "value", "from"]), _line(["---"] * 3)]
    for item in figures:
        origin = TAGS[item["tag"]] + (f", {item['source']}" if item["source"] else "")
        lines.append(_line([item["label"], f"{item['value']} {item['unit']}".strip(), origin]))
    return "\n".join(lines)


def _how(summary: dict[str, Any]) -> str:
    seeds = ", ".join(map(str, summary["seeds"]))
    common = " ".join(summary["settings"])
    lines = [
        f"- command: `lilliput study run {summary['study']}` (`study.yaml` here is what it ran)",
        f"- recipe: `{summary['recipe']}`" + (f" with `{common}`" if common else ""),
        f"- seeds: {seeds}; the same seed shares initialisation and data order between arms",
        f"- measured on: {', '.join(summary['evaluated_on'])}",
    ]
    if summary["seed_sd"] is not None:
        lines.append(
            f"- noise of one run beside its seed's own effect: {summary['seed_sd']:.4f} bits per byte "
            f"({summary['dof']} degree{'s' if summary['dof'] > 1 else ''} of freedom)"
        )
    for machine in summary["machines"]:
        gpu = f", {machine['gpu']}" if machine.get("gpu") else ""
        lines.append(f"- machine: {machine['cpu']}, {machine['cores']} cores, {machine['memory_gb']} GB{gpu}")
    for versions in summary["versions"]:
        lines.append("- versions: " + ", ".join(f"{name} {version}" for name, version in versions.items()))
    spent = sum(arm["seconds"] * arm["seeds"] for arm in summary["arms"] if arm["seeds"])
    lines.append(f"- training time in all: {duration(spent)}")
    return "\n".join(lines)

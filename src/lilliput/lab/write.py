"""What a study leaves in `results/NAME/`: table (Markdown and JSON), picture, README with the verdicts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lilliput.lab.figures import figure, scatters
from lilliput.lab.spec import TAGS, Study
from lilliput.progress import count, duration
from lilliput.store import write_atomic, write_json

_ABOUT_CORRELATIONS = (
    "ρ is Spearman's over the arms, the seeds of an arm averaged; its interval is a bootstrap over arms, p the share "
    "of random orders with a |ρ| as large. Arms of fixed size differ in several things at once: ρ says what goes "
    "together, not what causes it."
)
_ABOUT_SPEED = (
    "Tokens a second are those of one text: random weights, 2 tokens read, 510 written, greedy, the median of five "
    "runs after two, in a process of its own (docs/speed.md)."
)


def write_results(study: Study, summary: dict[str, Any], folder: Path) -> None:
    """Write every file that follows from the finished cells; the same cells give the same files."""
    write_json(folder / "table.json", summary)
    write_atomic(folder / "table.md", table(summary))
    write_atomic(folder / "figure.svg", figure(study, summary) + "\n")
    pictures = scatters(summary)
    for name, picture in pictures.items():
        write_atomic(folder / name, picture + "\n")
    write_atomic(folder / "README.md", readme(summary, list(pictures)))


def table(summary: dict[str, Any]) -> str:
    """The arms as a Markdown table, with the gain over the baseline and its 95 % interval."""
    base = summary["baseline"]
    head = ["arm", "bits per byte", f"gain over {base}", "95 % interval", "seeds"]
    head += ["parameters", "tokens", "time a cell"]
    batches = sorted({batch for arm in summary["arms"] for batch in arm.get("speed", {})}, key=int)
    head += [f"tokens/s, batch {batch}" for batch in batches]
    inherited = any(arm.get("start") is not None for arm in summary["arms"])
    head += ["right after carving"] if inherited else []
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
                    *(f"{arm['speed'][batch]:.1f}" if batch in arm["speed"] else "" for batch in batches),
                    *([_number(arm["start"])] if inherited else []),
                ]
            )
        )
    return "\n".join(lines) + "\n"


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"


def _line(cells: list[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def verdict_lines(summary: dict[str, Any]) -> list[str]:
    """One sentence for each claim and each correlation, the verdict first."""
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
    lines += [_correlation_line(row) for row in summary["correlations"]]
    return lines + [_reach_line(row) for row in summary["reaches"]]


def _correlation_line(row: dict[str, Any]) -> str:
    rho = row["rho"]
    if rho is None:
        return f"**not measured**: {row['text']} ({row['why']})"
    found = f"ρ = {rho['rho']:+.2f}, 95 % interval {rho['low']:+.2f} to {rho['high']:+.2f}, p = {rho['p']:.2g}"
    claim = row["claim"]
    bound = "" if claim is None else f"{claim['kind'].replace('_', ' ')} {claim['bound']:g}; "
    return f"**{row['verdict'] or 'no claim'}**: {row['text']} ({bound}{found}, {rho['count']} arms)"


def _reach_line(row: dict[str, Any]) -> str:
    if not row["seeds"]:
        return f"**not measured**: {row['text']}"
    ratio, bound = row["ratio"], "" if row["at_least"] is None else f"at least {row['at_least']:g} times; "
    if ratio is None:
        never = [one for one in row["seeds"] if one["ratio"] is None]
        found = f"not reached with {len(never)} of {len(row['seeds'])} seeds"
    else:
        interval = "" if ratio["low"] is None else f", 95 % interval {ratio['low']:.2f} to {ratio['high']:.2f}"
        charged = [_mean([one["charged"][name] for one in row["seeds"]]) for name in ("choice", "choice and teacher")]
        found = f"{ratio['value']:.2f} times fewer tokens{interval}; in FLOPs {charged[0]:.2f} with what choosing cost"
        found += f", {charged[1]:.2f} with the teacher too"
    seeds = f"{len(row['seeds'])} seed{'s' if len(row['seeds']) > 1 else ''}"
    return f"**{row['verdict'] or 'no claim'}**: {row['text']} ({bound}{found}; {seeds})"


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def readme(summary: dict[str, Any], pictures: Sequence[str] = ()) -> str:
    """Question, verdicts, table, pictures, how it was measured and how to measure it again.

    pictures: files of the scatters beside `figure.svg`.
    """
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
    parts += [f"![{name.removesuffix('.svg')}]({name})" for name in pictures]
    parts.append(
        "Lower bits per byte are better; a positive gain means that the arm is better. ± is the standard "
        "deviation over seeds. Intervals cover seeds (pooled over the arms) and the choice of documents; "
        "see docs/evaluate.md."
        + (" Arms with fewer seeds are shown as at the average seed." if summary["more_seeds"] else "")
    )
    if any(arm.get("start") is not None for arm in summary["arms"]):
        parts.append("Right after carving: on the held-out part of the corpus; the rest on the text named below.")
    if summary["correlations"]:
        parts.append(_ABOUT_CORRELATIONS)
    if any(arm.get("speed") for arm in summary["arms"]):
        parts.append(_ABOUT_SPEED)
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
    more: dict[str, list[str]] = {}
    for arm, own in summary["more_seeds"].items():
        more.setdefault(", ".join(map(str, own)), []).append(arm)
    seeds += "".join(f"; also {own} for {', '.join(arms)}" for own, arms in more.items())
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

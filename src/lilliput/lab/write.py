"""What a study leaves in `results/NAME/`: tables (Markdown and JSON), picture, README with the verdicts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lilliput.lab.compared import way
from lilliput.lab.fields import SPEEDS
from lilliput.lab.figures import figure, forgetting, scatters
from lilliput.lab.metrics import BITS, MASKED, Metric
from lilliput.lab.spec import Study
from lilliput.lab.tables import heading, main_metric, published, table, task_tables
from lilliput.progress import duration
from lilliput.store import write_atomic, write_json

_ABOUT_CORRELATIONS = (
    "ρ is Spearman's over the arms, the seeds of an arm averaged; its interval is a bootstrap over arms, p the share "
    "of random orders with a |ρ| as large. Arms of fixed size differ in several things at once: ρ says what goes "
    "together, not what causes it."
)
_ABOUT_TASKS = (
    "A positive gain means that the arm is better; intervals cover seeds and the choice of items, drawn within each "
    "group where the accuracy is the mean of groups. By bytes: each choice's log-probability over its UTF-8 bytes."
)
_ABOUT_SPEED = (
    "Tokens a second are those of one text: random weights, 2 tokens read, 510 written, greedy, the median of five "
    "runs after two, in a process of its own (docs/speed.md)."
)


_ABOUT_LATENCY = (
    "ms: how long a batch takes on the CPU, the median of twenty after three; random weights, texts of the context's "
    "length; a committee's members one after another (docs/encoders.md)."
)


def write_results(study: Study, summary: dict[str, Any], folder: Path) -> None:
    """Write every file that follows from the finished cells; the same cells give the same files."""
    write_json(folder / "table.json", summary)
    write_atomic(folder / "table.md", table(summary))
    write_atomic(folder / "figure.svg", figure(study, summary) + "\n")
    pictures = scatters(summary) | forgetting(summary)
    for name, picture in pictures.items():
        write_atomic(folder / name, picture + "\n")
    write_atomic(folder / "README.md", readme(summary, list(pictures)))


def verdict_lines(summary: dict[str, Any]) -> list[str]:
    """One sentence for each claim and each correlation, the verdict first."""
    lines = []
    for claim in summary["claims"]:
        effect = claim["effect"]
        if effect is None:
            lines.append(f"**not measured**: {claim['text']} ({claim['why']})")
            continue
        lines.append(f"**{claim['verdict']}**: {claim['text']} ({_evidence(claim, effect)})")
    lines += [_correlation_line(row) for row in summary["correlations"]]
    return lines + [_reach_line(row) for row in summary["reaches"]]


def _evidence(claim: dict[str, Any], effect: dict[str, Any]) -> str:
    """What a verdict follows from."""
    metric = Metric(claim["task"], claim["measure"])
    scale, unit = metric.unit
    gain, low, high = (metric.difference(effect[name]) for name in ("gain", "low", "high"))
    seeds = f"{effect['seeds']} seed{'s' if effect['seeds'] > 1 else ''}"
    against = way(claim["part"], claim["versus"], claim["to"]) if "to" in claim else claim["versus"]
    said = f"{claim['kind']}, δ = {scale * claim['delta']:g}; {claim['arm']} over {against}: gain {gain}"
    return f"{said}, 95 % interval {low} to {high}" + (f" {unit}" if metric.task else "") + f", {seeds}"


def _correlation_line(row: dict[str, Any]) -> str:
    rho = row["rho"]
    if rho is None:
        return f"**not measured**: {row['text']} ({row['why']})"
    found = f"ρ = {rho['rho']:+.2f}, 95 % interval {rho['low']:+.2f} to {rho['high']:+.2f}, p = {rho['p']:.2g}"
    if slope := row.get("slope"):
        # Of accuracies, points.
        scale = 1 if row["y"] in (BITS, MASKED, *SPEEDS) else 100
        value, low, high = (scale * slope[name] for name in ("value", "low", "high"))
        found += f"; slope {value:+.3g} [{low:+.3g}, {high:+.3g}] for each {slope['per']} of {row['x']}"
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

    pictures: files beside `figure.svg`.
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
    parts += ["## Result", table(summary).rstrip(), f"![{heading(main_metric(summary))} by arm](figure.svg)"]
    parts += [f"![{name.removesuffix('.svg')}]({name})" for name in pictures]
    parts.append(_about(summary))
    if any(arm.get("start") is not None for arm in summary["arms"]):
        parts.append("Right after carving: on the held-out part of the corpus; the rest on the text named below.")
    if summary["correlations"]:
        parts.append(_ABOUT_CORRELATIONS)
    if any(arm.get("speed") for arm in summary["arms"]):
        encoders = any("loss" in arm for arm in summary["arms"]) or summary["metric"] == MASKED
        parts.append(_ABOUT_LATENCY if encoders else _ABOUT_SPEED)
    if summary["tasks"]:
        parts += ["## Tasks", task_tables(summary["tasks"], summary["baseline"]), _ABOUT_TASKS]
    if summary["published"]:
        parts += ["## Figures of others", published(summary["published"])]
    parts += ["## How", _how(summary)]
    if summary["notes"]:
        parts += ["## Notes", summary["notes"].strip()]
    return "\n\n".join(parts) + "\n"


def _about(summary: dict[str, Any]) -> str:
    """How to read the table of arms."""
    metric = main_metric(summary)
    best = f"A higher {metric.words} is better"
    if metric.lower:
        best = "Lower bits per byte are better" if metric.measure == BITS else f"A lower {metric.words} is better"
    if len(summary["arms"]) == 1:
        return f"{best}."
    said = (
        f"{best}; a positive gain means that the arm is better. ± is the standard deviation "
        "over seeds. "
    )
    if summary["dof"]:
        said += "Intervals cover seeds (pooled over the arms) and the choice of documents; see docs/evaluate.md."
    else:
        said += (
            "No arm was repeated, so intervals cover the choice of documents alone: the outcomes are of these very "
            "models, and another seed may turn them; see docs/evaluate.md."
        )
    said += (
        " The picture's intervals are those of each arm's own level, which all arms share for the most part: compare "
        "arms by their gains, not by whether these overlap."
    )
    return said + (" Arms with fewer seeds are shown as at the average seed." if summary["more_seeds"] else "")


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
        metric = main_metric(summary)
        lines.append(
            f"- noise of one run beside its seed's own effect: "
            f"{metric.difference(summary['seed_sd'], sign=True).lstrip('+')} {metric.unit[1]} "
            f"({summary['dof']} degree{'s' if summary['dof'] > 1 else ''} of freedom)"
        )
    for machine in summary["machines"]:
        gpu = f", {machine['gpu']}" if machine.get("gpu") else ""
        lines.append(f"- machine: {machine['cpu']}, {_cores(machine['cores'])}, {machine['memory_gb']} GB{gpu}")
    for versions in summary["versions"]:
        lines.append("- versions: " + ", ".join(f"{name} {version}" for name, version in versions.items()))
    spent = sum(arm["seconds"] * arm["seeds"] for arm in summary["arms"] if arm["seeds"])
    lines.append(f"- training time in all: {duration(spent)}")
    return "\n".join(lines)


def _cores(count: int) -> str:
    return f"{count} core{'s' if count > 1 else ''}"

"""One page of evidence: bench/evidence.yaml and results/ → docs/evidence.md.

python bench/write_evidence.py            (again after every finished study; a test compares the two)

First the tables of every study under results/ are brought up to date with its cells.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from lilliput.lab.grid import cells_of
from lilliput.lab.metrics import BITS, Metric
from lilliput.lab.session import bring_up_to_date
from lilliput.lab.spec import TAGS, read_study
from lilliput.lab.tables import gain_cells, level_cell, markdown
from lilliput.lab.write import verdict_lines
from lilliput.plan.rules import share
from lilliput.store import write_atomic

ROOT = Path(__file__).resolve().parents[1]
DECLARED = ROOT / "bench" / "evidence.yaml"
PAGE = ROOT / "docs" / "evidence.md"
NOT_YET = "not measured yet"
# What is said of figures that are not from a paper's text.
_ORIGINS = {"R": " (Figures of the reference repository.)", "S": " (Figures from secondary texts.)"}
_FORMATS = {"text": "{}", "percent": "{:.2%}", "bits": "{:.4f}", "count": "{:,.0f}", "two": "{:.2f}"}
_HEAD = """# Evidence

Every table and figure of the papers, what this project measured beside it, the verdict, and the command that repeats
it. Written by `python bench/write_evidence.py` from `results/`; do not edit.

A verdict is on a claim that was declared before the runs, from its 95 % interval over seeds and documents:
*supported*, *not supported* or *inconclusive* ([how](evaluate.md#comparing-gain-interval-verdict)). A gain is in bits
per byte, positive where the arm is better than the study's baseline. Figures of others are from the text of the paper
unless it says otherwise.
"""


class Results:
    """What lies under results/."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def file(self, name: str) -> Any:
        """A JSON file's content; None where it is not there."""
        path = self.folder / name
        return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None

    def study(self, name: str) -> dict[str, Any] | None:
        """A study's summary; None where it has no finished cell."""
        found = self.file(f"{name}/table.json")
        return found if found is not None and found["cells"]["done"] else None

    def value(self, asked: Any) -> str:
        """A value of ours as text: as it stands, {get: FILE#KEY.KEY, as: FORMAT} or {share: [V, row, body]}."""
        if not isinstance(asked, Mapping):
            return str(asked)
        if "share" in asked:
            return f"{100 * share(*map(int, asked['share'])):.2f}"
        file, _, keys = asked["get"].partition("#")
        found = self.file(file)
        if found is None:
            return NOT_YET
        for key in keys.split("."):
            found = found[int(key)] if isinstance(found, list) else found[key]
        shown = _FORMATS[asked["as"]].format(found)
        return shown.removesuffix("%")


def page(told: Mapping[str, Any], results: Results) -> str:
    """The whole page. told: what bench/evidence.yaml says."""
    sections, contents = [], []
    for section in told["sections"]:
        parts = [f"## {section['title']}"] + ([section["about"].strip()] if "about" in section else [])
        for entry in section.get("entries", ()):
            lines = _verdicts(entry, results)
            parts += _entry(entry, results, lines)
            contents.append([_link(entry["title"]), _counted(lines) or _state(entry, results), _where(entry, results)])
        if "planned" in section:
            parts.append(_planned(section["planned"]))
            contents.append([_link(section["title"]), NOT_YET, ""])
        sections.append("\n\n".join(parts))
    return "\n\n".join([_HEAD.strip(), markdown(["what", "verdicts", "results"], contents), *sections]) + "\n"


def _link(title: str) -> str:
    anchor = "".join(one for one in title.lower() if one.isalnum() or one in "-_ ").strip().replace(" ", "-")
    return f"[{title}](#{anchor})"


def _folder(entry: Mapping[str, Any]) -> str:
    return str(entry.get("study") or entry.get("folder") or entry.get("file", ""))


def _measured(entry: Mapping[str, Any], results: Results) -> bool:
    if "study" in entry:
        return results.study(entry["study"]) is not None
    return "file" not in entry or results.file(entry["file"]) is not None


def _state(entry: Mapping[str, Any], results: Results) -> str:
    """What stands in place of verdicts where there are none."""
    if not _measured(entry, results):
        return NOT_YET
    return "no claim" if "study" in entry or "our_columns" in entry else "not repeated here"


def _where(entry: Mapping[str, Any], results: Results) -> str:
    place = _folder(entry)
    if not place or not _measured(entry, results):
        return ""
    if "study" not in entry and "/" in place:
        place = place.partition("/")[0]
    page = results.folder / place / "README.md"
    return f"[{place}](../results/{place}{'/README.md' if page.is_file() else ''})"


def _command(entry: Mapping[str, Any]) -> str | None:
    return entry.get("command") or (f"lilliput study run {entry['study']}" if "study" in entry else None)


def _entry(entry: Mapping[str, Any], results: Results, lines: list[str]) -> list[str]:
    """Title, what the paper shows, what is asked, the table, the verdicts, the command."""
    parts = [f"### {entry['title']}", entry["shows"].strip() + _ORIGINS.get(_tag(entry), "")]
    if "works" in entry:
        parts.append(f"**Asked here**: {entry['works'].strip()}")
    done = _measured(entry, results)
    if table := _table(entry, results):
        parts.append(table)
    if not done:
        parts.append(f"**{NOT_YET}**")
    unfinished = results.study(entry["study"]) if "study" in entry else None
    if unfinished and unfinished["cells"]["done"] < unfinished["cells"]["total"]:
        parts.append(f"**Unfinished**: {unfinished['cells']['done']} of {unfinished['cells']['total']} cells.")
    if lines:
        parts.append("\n".join(f"- {line}" for line in lines))
    parts += _pictures(entry, results) if done else []
    told = [_beside(name, results) for name in entry.get("beside", ())]
    said = [f"Beside it: {', '.join(told)}."] if told else []
    said += [entry["note"].strip()] if "note" in entry and (done or "study" not in entry) else []
    said += [f"Command: `{command}`."] if (command := _command(entry)) else []
    where = _where(entry, results)
    said += [f"Results: {where}."] if where else []
    return [*parts, " ".join(said)]


def _beside(name: str, results: Results) -> str:
    """A further study, its verdicts counted."""
    found = results.study(name)
    if found is None:
        return f"{name} ({NOT_YET})"
    counted = _counted(verdict_lines(found))
    return f"[{name}](../results/{name}/README.md)" + (f" ({counted})" if counted else "")


def _tag(entry: Mapping[str, Any]) -> str:
    """Where the paper's figures are from. Raises ValueError for those that nobody has checked."""
    if entry["tag"] not in TAGS or entry["tag"] == "M":
        raise ValueError(f"{entry['title']}: figures with the tag {entry['tag']} are not shown")
    return str(entry["tag"])


def _pictures(entry: Mapping[str, Any], results: Results) -> list[str]:
    folder = results.folder / _folder(entry)
    if "study" not in entry:
        folder = results.folder / str(entry.get("folder", ""))
    if folder == results.folder or not folder.is_dir():
        return []
    files = sorted(folder.glob("*.svg"))
    return [f"![{folder.name}: {file.stem}](../results/{folder.name}/{file.name})" for file in files]


def _table(entry: Mapping[str, Any], results: Results) -> str:
    """The paper's rows with ours beside them."""
    columns, rows = list(entry.get("columns", ())), list(entry.get("rows", ()))
    if "study" in entry:
        return _study_table(columns, rows, results.study(entry["study"]))
    if not columns and not _measured(entry, results):
        return ""
    head = [*columns, *entry.get("our_columns", ())]
    lines = [[*map(str, row.get("theirs", ())), *map(results.value, row.get("ours", ()))] for row in rows]
    return markdown(head, lines) if head else ""


def _study_table(columns: list[str], rows: list[Mapping[str, Any]], found: Mapping[str, Any] | None) -> str:
    """The paper's rows, the arms of ours beside them, and then the arms that no row names."""
    if found is None:
        return markdown([*columns, "ours"], [[*map(str, row["theirs"]), NOT_YET] for row in rows]) if rows else ""
    arms = {arm["name"]: arm for arm in found["arms"]}
    batches = sorted({batch for arm in found["arms"] for batch in arm.get("speed", {})}, key=int)
    asked = found.get("tasks", ())
    tasks = [(Metric(task["task"], row["measure"]), row) for task in asked for row in task["measures"]]
    alone = len(arms) == 1
    head = ["our arm", "bits per byte"]
    head += [] if alone else [f"gain over {found['baseline']}", "95 % interval", "outcome"]
    head += [f"tokens/s, batch {batch}" for batch in batches]
    inherited = any(arm.get("start") is not None for arm in found["arms"])
    head += ["right after carving"] if inherited else []
    head += [f"{metric.task}, {metric.words}" for metric, _ in tasks]

    def ours(name: str) -> list[str]:
        arm = arms[name]
        if not arm["seeds"]:
            return [name, "would not train" if arm["failed"] else NOT_YET, *[""] * (len(head) - 2)]
        cells = [name, level_cell(Metric(None, BITS), arm)]
        cells += [] if alone else gain_cells(Metric(None, BITS), arm["gain"], name == found["baseline"])
        cells += [f"{arm['speed'][batch]:.1f}" if batch in arm["speed"] else "" for batch in batches]
        cells += [("" if arm["start"] is None else f"{arm['start']:.4f}")] if inherited else []
        return cells + [level_cell(metric, row["arms"][name]) if name in row["arms"] else "" for metric, row in tasks]

    lines, named = [], [str(row["arm"]) for row in rows if "arm" in row]
    for row in rows:
        beside = ours(str(row["arm"])) if "arm" in row else ["–", *[""] * (len(head) - 1)]
        lines.append([*map(str, row["theirs"]), *beside])
    nothing = ["–" if at == 0 else "" for at in range(len(columns))]
    lines += [[*nothing, *ours(name)] for name in arms if name not in named]
    return markdown([*columns, *head], lines)


def _verdicts(entry: Mapping[str, Any], results: Results) -> list[str]:
    """A line for each claim that was measured."""
    if "study" in entry and (found := results.study(entry["study"])) is not None:
        return verdict_lines(found)
    if "verdicts" not in entry:
        return []
    file, _, key = entry["verdicts"].partition("#")
    changes = (results.file(file) or {}).get(key, ())
    return [
        f"**{one['verdict']}**: {one['claim']} ({one['percent']['change']:+.2f} %, 95 % interval "
        f"{one['percent']['low']:+.2f} to {one['percent']['high']:+.2f} %)"
        for one in changes
        if "claim" in one
    ]


def _counted(lines: list[str]) -> str:
    """`2 supported, 1 inconclusive`."""
    words = Counter(line.split("**")[1] for line in lines if line.startswith("**"))
    order = ("supported", "not supported", "inconclusive", "not measured")
    return ", ".join(f"{words[word]} {word}" for word in order if words[word])


def _planned(rows: list[Mapping[str, Any]]) -> str:
    lines = []
    for row in rows:
        theirs = f"{row['theirs']} ({TAGS[row['tag']]})" if row["theirs"] else "–"
        lines.append([row["what"], theirs, row["works"], NOT_YET])
    return markdown(["what", "theirs", "asked here", "ours"], lines)


def declared() -> dict[str, Any]:
    """bench/evidence.yaml, every figure as it is written there: 40.40 stays 40.40."""
    # BaseLoader makes text, lists and mappings, nothing else.
    return dict(yaml.load(DECLARED.read_text(encoding="utf-8"), Loader=yaml.BaseLoader))  # noqa: S506


def main() -> None:
    """Bring the studies' tables up to date, then write the page."""
    for file in sorted((ROOT / "results").glob("*/study.yaml")):
        study = read_study(file)
        bring_up_to_date(study, cells_of(study, file.parent), file.parent)
        print(f"results/{file.parent.name}: up to date with its cells")
    write_atomic(PAGE, page(declared(), Results(ROOT / "results")))
    print(f"→ {PAGE.relative_to(ROOT)}")


if __name__ == "__main__":
    main()

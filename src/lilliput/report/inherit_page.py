"""The page of an inheritance: what a small model kept of a bigger one, why, and what it is worth right after."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from lilliput.progress import duration
from lilliput.report.chart import Row, Series, dot_chart, line_chart
from lilliput.report.inherit_layers import (
    by_span,
    distance_charts,
    layers_said,
    skip_chart,
    small_chart,
    tasks_of,
)
from lilliput.report.inherit_strip import strip
from lilliput.report.look import bullets, card, figures, html_page, note, tiles
from lilliput.report.scale import thin
from lilliput.report.text import amount, interval_text
from lilliput.report.tokenizer_parts import folded, percent

Data = Mapping[str, Any]
# Of a curve: more would not be seen.
_POINTS = 240
# What is chosen by name: the key of a shape, and whether layers or neurons are chosen with it.
_SPACES = (
    ("layers", "depth", "layers"),
    ("hidden channels", "width", "neurons"),
    ("FFN neurons of a layer", "ffn", "neurons"),
    ("heads of a layer", "heads", "neurons"),
    ("key-value heads of a layer", "kv_heads", "neurons"),
    ("pieces", "vocab_size", ""),
)
_MASKED = {"layers": "depth", "hidden": "width", "ffn": "ffn", "kv_head": "kv_heads"}
_HOW = {
    "importance": "what leaving each out costs",
    "ends": "the first two and the last, the rest thinned",
    "uniform": "evenly spread",
    "first": "the first ones",
    "random": "at random",
    "l1": "sum of |w|",
    "l2": "sum of w²",
    "taylor": "Taylor scores",
    "learned": "learned masks",
}
_PARTS = {
    "layers": "leaving layers out", "scores": "scoring neurons, heads and channels", "masks": "learning masks",
    "carve": "carving", "evaluate": "bits per byte of teacher and child", "calibration": "calibration",
}  # fmt: skip
_MASK_CURVES = (
    ("penalty", "Penalty", "nats per token"),
    ("loss", "Loss of the text alone", "nats per token"),
    ("temperature", "Temperature of the gates", "β"),
)


def inherit_page(report: Data) -> str:
    """The HTML page of an inheritance.

    report: `teacher` and `child` {`place`, `parameters`, `shape` (fields of ModelConfig)}; `layers` {`how`, `kept`
    [number], `scores` (`LayerScores.to_dict`) or null}; `neurons` {`how`, `kept` {`hidden`, `ffn`, `kv_heads`},
    `hidden` [number], `heads` [[number] for each kept layer]}; `masks` null or {`rows` (`lagrangian.log_rows`)};
    `bits_per_byte` {`teacher`, `child`: {`value`, `low`, `high`}}; `held_out` {`documents`, `bytes`}; `cost`
    {`seconds`, `tokens`, `flops`: by part}; `notes` [text]. Any may be absent or null.
    """
    since = "with masks and weights learned" if report.get("masks") else "before any training"
    sections = [
        _tiles(report),
        card(f"Right after, {since}", _bits(report)),
        card("What was kept", _kept(report)),
        card("Which layers matter", _layer_charts(report)),
        card("Layer by layer", _layer_table(report)),
        card("How the masks settled", _masks(report)),
        card("What it cost", _cost(report)),
        card("Notes", bullets(map(str, report.get("notes") or []))),
    ]
    return html_page(_name(report, "child") or "A child", _subtitle(report), sections)


def _part(report: Data, *names: str) -> Any:
    """What lies under these names; an empty mapping where it is absent or null."""
    found: Any = report
    for name in names:
        found = (found or {}).get(name) if isinstance(found, Mapping) else None
    return {} if found is None else found


def _name(report: Data, which: str) -> str:
    place = _part(report, which, "place")
    return Path(str(place)).name if place else ""


def _subtitle(report: Data) -> str:
    said = [f"Carved out of {_name(report, 'teacher') or 'a bigger model'}"]
    shapes = [_part(report, which, "shape") for which in ("teacher", "child")]
    if all({"depth", "width"} <= set(shape) for shape in shapes):
        was, now = (f"{shape['depth']} layers × width {shape['width']}" for shape in shapes)
        said.append(f"{was} → {now}")
    return " · ".join(said)


def _tiles(report: Data) -> str:
    shown = []
    if bits := _part(report, "bits_per_byte", "child"):
        teacher = _part(report, "bits_per_byte", "teacher")
        of = f", the teacher's {teacher['value']:.4f}" if teacher else ""
        shown.append((f"{bits['value']:.4f}", f"bits per byte right after{of}"))
    sizes = [_part(report, which, "parameters") for which in ("child", "teacher")]
    if sizes[0]:
        of = f", {percent(sizes[0] / sizes[1])} of the teacher's" if sizes[1] else ""
        shown.append((amount(sizes[0]), f"parameters{of}"))
    if kept := _part(report, "layers", "kept"):
        depth = _part(report, "teacher", "shape", "depth")
        shown.append((f"{len(kept)}", f"layers{f' of {depth}' if depth else ''}"))
    if seconds := _part(report, "cost", "seconds"):
        shown.append((duration(sum(seconds.values())), "of work"))
    return tiles(shown)


def _bits(report: Data) -> str:
    found = [(which, _part(report, "bits_per_byte", which)) for which in ("teacher", "child")]
    rows = [
        Row(f"the {which}", bits["value"], bits.get("low"), bits.get("high"), colour=index)
        for index, (which, bits) in enumerate(found)
        if bits
    ]
    if not rows:
        return ""
    held = _part(report, "held_out")
    scored = " and ".join(f"{amount(held[key])} {key}" for key in ("documents", "bytes") if held.get(key))
    child = found[1][1]
    said = f"Lower is better. {interval_text(child)}" if child else "Lower is better."
    if scored:
        said += f" Scored on {scored} that nothing was chosen by, each document alone."
    return note(said) + _legible(dot_chart(rows, x_label="bits per byte", zero=True))


def _kept(report: Data) -> str:
    teacher, child = (_part(report, which, "shape") for which in ("teacher", "child"))
    rows = []
    for words, key, chosen in _SPACES:
        was, now = teacher.get(key), child.get(key)
        if was is None or now is None:
            continue
        how = "all of them" if was == now else _how(_part(report, chosen, "how")) if chosen else "tokenizer compaction"
        rows.append([words, amount(was, exact=True), amount(now, exact=True), percent(now / was), how])
    body = figures(["", "teacher", "child", "kept", "chosen by"], rows)
    for words, key, kept in (
        ("The teacher's layers; coloured ones were kept:", "depth", _part(report, "layers", "kept")),
        ("Its hidden channels:", "width", _part(report, "neurons", "hidden")),
    ):
        if kept and teacher.get(key, 0) > max(kept):
            body += f"<br>{note(words)}{strip(kept, teacher[key], words)}"
    return body


def _how(how: Any) -> str:
    if str(how).startswith("keep="):
        return "named"
    if str(how).startswith("importance="):
        return f"what leaving each out costs of the task {str(how).removeprefix('importance=')}"
    return _HOW.get(str(how), str(how)) if how else "–"


def _layer_charts(report: Data) -> str:
    """Fig. 5 of PanGu-π Pro: bits per byte against the layer left out; tasks and the two distances beside it."""
    scores, body = _part(report, "layers", "scores"), ""
    if chart := skip_chart(scores):
        said = "Bits per byte with layers replaced by the identity: at each place, those from there on are left out."
        body += note(said) + _legible(chart)
    tasks = [skip_chart(scores, task, title=f"The task {task}", small=True) for task in tasks_of(scores)]
    return body + _beside([*tasks, *distance_charts(scores)])


def _layer_table(report: Data) -> str:
    scores, kept = _part(report, "layers", "scores"), list(_part(report, "layers", "kept"))
    heads = _part(report, "neurons", "heads")
    depth = _part(report, "teacher", "shape", "depth") or max(kept, default=-1) + 1
    skips, base = dict(by_span(_part(scores, "skips", "bits_per_byte"))), _part(scores, "base", "bits_per_byte")
    distances = [("block influence", _part(scores, "influence")), ("angular distance", _part(scores, "angular", "1"))]
    head, columns = ["layer", "in the child"], []
    if heads and len(heads) == len(kept):
        head.append("key-value heads kept")
        of = dict(zip(kept, heads, strict=True))
        columns.append([", ".join(map(str, of[layer])) if layer in of else "–" for layer in range(depth)])
    for span, row in skips.items() if base else ():
        head.append(f"{layers_said(span)} left out from here")
        columns.append([f"+{value - base:.4f}".replace("+-", "−") for value in row])
    for name, row in distances:
        if row:
            head.append(name)
            columns.append([f"{value:.4f}" for value in row])
    places = [f"layer {kept.index(layer)}" if layer in kept else "dropped" for layer in range(depth)]
    rows = [
        [str(layer), places[layer], *(cells[layer] if layer < len(cells) else "–" for cells in columns)]
        for layer in range(depth)
    ]
    said = note("Bits per byte are those added by leaving layers out.") if skips and base else ""
    return folded(f"{depth} layers of the teacher", said + figures(head, rows)) if kept and columns else ""


def _masks(report: Data) -> str:
    rows = _part(report, "masks", "rows")
    if not rows:
        return ""
    full = _part(report, "teacher", "shape")
    spaces = [space for space in _MASKED if space in (rows[0].get("size") or {})]
    sizes = []
    for colour, space in enumerate(spaces):
        whole = full.get(_MASKED[space]) or rows[0]["size"][space]
        for key in ("size", "target"):
            x, y = _curve(rows, key, space)
            shares = [100 * value / whole for value in y]
            sizes.append(Series(space, x, shares, colour=colour, faint=key == "target"))
    said = "How much of each space is expected to stay; thin: how much should by then."
    body = note(said) + _legible(line_chart(sizes, x_label="step", y_label="per cent of the teacher's"))
    temperatures = {row["temperature"] for row in rows if row.get("temperature") is not None}
    if len(temperatures) == 1:
        body += note(f"The gates' temperature β is {min(temperatures):.3g} throughout.")
    lambdas = [Series(space, *_curve(rows, "lambda1", space)) for space in spaces]
    drawn = [small_chart(lambdas, "Multipliers λ1", "step", "λ1")]
    for key, title, unit in _MASK_CURVES:
        if key != "temperature" or len(temperatures) > 1:
            drawn.append(small_chart([Series(title, *_curve(rows, key))], title, "step", unit))
    return body + _beside(drawn)


def _curve(rows: Sequence[Data], key: str, space: str | None = None) -> tuple[list[float], list[float]]:
    """One figure of the rows against the step."""
    found = [row.get(key) if space is None else (row.get(key) or {}).get(space) for row in rows]
    values = [math.nan if value is None else float(value) for value in found]
    return thin([float(row["step"]) for row in rows], values, _POINTS)


def _legible(chart: str) -> str:
    """A wide chart that a narrow screen scrolls, since its letters would be too small there."""
    return f'<div style="min-width:560px">{chart}</div>'


def _beside(charts: Sequence[str]) -> str:
    return f'<div class="grid">{"".join(f"<div>{one}</div>" for one in charts)}</div>' if charts else ""


def _cost(report: Data) -> str:
    cost = _part(report, "cost")
    parts = dict.fromkeys(name for kind in ("seconds", "tokens", "flops") for name in cost.get(kind) or {})
    cells: dict[str, Callable[[str], str]] = {
        "time": lambda name: _given(cost, "seconds", name, duration),
        "tokens": lambda name: _given(cost, "tokens", name, amount),
        "FLOPs": lambda name: _given(cost, "flops", name, lambda value: f"{value:.3g}"),
    }
    shown = {head: cell for head, cell in cells.items() if any(cell(name) != "–" for name in parts)}
    rows = [[_PARTS.get(name, name), *(cell(name) for cell in shown.values())] for name in parts]
    if seconds := cost.get("seconds"):
        rows.append(["in all", *(duration(sum(seconds.values())) if head == "time" else "" for head in shown)])
    return figures(["", *shown], rows)


def _given(cost: Data, kind: str, name: str, said: Callable[[Any], str]) -> str:
    value = (cost.get(kind) or {}).get(name)
    return "–" if value is None else said(value)

"""The answer of `lilliput plan` as text and tables; the page shows the same."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lilliput.progress import duration
from lilliput.report.text import aligned, amount

Table = tuple[list[str], list[list[str]]]
_FRONT = 10
# Below this share of the budget a person may wonder.
_USED = 0.85
EXPECTED = (
    "Expected: bits per byte against plan 1, lower is better, with the 95 % interval of what runs have shown so far. "
    "Training each plan on the same text would tell."
)


def plan_text(data: Mapping[str, Any]) -> str:
    """Tables of the plans, why the first is as it is, and what was written."""
    plans = data["plans"]
    parts = [_text(plan_table(plans)), *unused_lines(data), EXPECTED, _text(cost_table(plans))]
    parts += provisional_lines(data)
    best = plans[0]
    parts.append("why plan 1 is as it is\n" + "\n".join(f"  {line}" for line in best["rules"]))
    if falls := fallback_lines(best):
        parts.append("quantised\n" + "\n".join(f"  {line}" for line in falls))
    if front := front_table(data["front"]):
        parts.append("speed against quality: the best at each speed\n" + _text(front))
    if "evidence" in data:
        parts += explain_parts(data["evidence"])
    else:
        parts.append("what the order rests on: --explain")
    if data["files"]:
        parts.append("\n".join(f"{name:<5} {path}" for name, path in data["files"].items()))
    return "\n\n".join(parts)


def unused_lines(data: Mapping[str, Any]) -> list[str]:
    """Said where what is fixed leaves a good part of the budget unused."""
    best, budget = data["plans"][0], data["budget"]
    used = [best[name] / budget[key] for key, name in (("params", "parameters"), ("bytes", "bytes")) if budget[key]]
    if not used or budget["speed"] or max(used) >= _USED:
        return []
    return [
        f"Plan 1 uses {max(used):.0%} of the budget: what is fixed, and expansions of 2 to 4, leave no larger shape; "
        "--expansion takes others."
    ]


def provisional_lines(data: Mapping[str, Any]) -> list[str]:
    """What to think of speeds that were predicted from the timing of a busy machine."""
    if not data["provisional"]:
        return []
    line = "Speeds and hours are provisional: this machine was busy when it was timed."
    if data["budget"]["speed"]:
        line += " So is whether the plans keep the speed asked for; --measure measures them."
    return [line]


def plan_table(plans: Sequence[Mapping[str, Any]]) -> Table:
    """One row a plan: its shape, and what is expected of it."""
    head = ["plan", "depth × width", "heads", "FFN", "vocabulary", "share", "parameters", "expected"]
    rows = []
    for place, plan in enumerate(plans, 1):
        rows.append([
            str(place),
            f"{plan['depth']} × {plan['width']}",
            _heads(plan),
            f"{plan['ffn']:,} ({plan['expansion']:.2f})",
            f"{plan['vocab']:,}{'' if plan['tied'] else ' untied'}",
            f"{plan['share']:.0%}",
            f"{plan['parameters']:,}",
            "the base" if place == 1 else _change(plan["expected"]),
        ])  # fmt: skip
    return head, rows


def cost_table(plans: Sequence[Mapping[str, Any]]) -> Table:
    """One row a plan: bytes, cache, arithmetic, speed and training."""
    measured = any(plan["measured_tokens_per_second"] for plan in plans)
    timed = plans[0]["tokens_per_second"] is not None
    # A speed budget leaves models of several sizes, and small ones have shorter contexts.
    contexts = sorted({plan["context"] for plan in plans})
    cache = f"cache of {' or '.join(f'{context:,}' for context in contexts)}"
    head = ["plan", "16 bits", "8 bits", "4 bits", cache, "FLOPs a token"]
    head += ["tokens/s"] if timed else []
    head += ["measured"] if measured else []
    head += ["training tokens", "memory"] + (["time here"] if timed else [])
    rows = []
    for place, plan in enumerate(plans, 1):
        row = [str(place), *(size(plan["weight_bytes"][bits]) for bits in ("16", "8", "4"))]
        positions = f" ({plan['context']:,})" if len(contexts) > 1 else ""
        row += [size(plan["kv_cache_bytes"]) + positions, amount(round(plan["flops_per_token"]))]
        row += [amount(round(plan["tokens_per_second"]))] if timed else []
        row += [amount(round(plan["measured_tokens_per_second"] or 0))] if measured else []
        row += [amount(plan["training"]["tokens"]), size(plan["training"]["memory_bytes"])]
        row += [duration(3600 * plan["training"]["hours"])] if timed else []
        rows.append(row)
    return head, rows


def front_table(front: Sequence[Mapping[str, Any]]) -> Table | None:
    """The shapes that none beats in speed and expected quality at once, at most ten of them."""
    best = [point for point in front if point["best_at_its_speed"]]
    if not best:
        return None
    shown = [best[round(step * (len(best) - 1) / (_FRONT - 1))] for step in range(_FRONT)]
    kept = [point for place, point in enumerate(shown) if point not in shown[:place]]
    head = ["depth × width", "heads", "FFN", "vocabulary", "parameters", "tokens/s", "expected against plan 1"]
    rows = [
        [
            f"{point['depth']} × {point['width']}",
            _heads(point),
            f"{point['ffn']:,}",
            f"{point['vocab']:,}",
            f"{point['parameters']:,}",
            amount(round(point["tokens_per_second"])),
            f"{100 * point['expected']:+.1f} %",
        ]
        for point in kept
    ]
    return head, rows


def fallback_lines(plan: Mapping[str, Any]) -> list[str]:
    """What the quantiser cannot store as asked, and what that costs."""
    alike: dict[tuple[str, ...], list[Mapping[str, Any]]] = {}
    notes: dict[str, None] = {}
    for bits, falls in plan["fallbacks"].items():
        for fall in falls:
            if fall["tensor"] == "*":
                notes[fall["why"]] = None
                continue
            alike.setdefault((bits, fall["taken"], fall["wanted"], fall["why"]), []).append(fall)
    lines = list(notes)
    for (bits, taken, wanted, why), falls in alike.items():
        names = ", ".join(fall["tensor"].removesuffix(".weight").rpartition(".")[2] for fall in falls)
        extra = size(sum(fall["extra_bytes"] for fall in falls))
        lines.append(f"{bits} bits: {names}: {taken} for {wanted}, {extra} more; {why}")
    return lines


def explain_parts(evidence: Mapping[str, Any]) -> list[str]:
    """The coefficients before and after the runs, and the runs."""
    parts = ["what the order rests on: change of ln(bits per byte)\n" + _text(term_table(evidence))]
    for group in evidence["groups"]:
        parts.append(f"runs of {', '.join(group['studies'])}\n" + _text(run_table(group)))
    residual = evidence["residual"]
    noise = f"noise between seeds: {100 * evidence['noise']:.2f} %"
    misses = f"the fit misses its own runs by {100 * residual:.2f} % (one standard deviation); " if residual else ""
    return [*parts, misses + noise]


def term_table(evidence: Mapping[str, Any]) -> Table:
    """One row a coefficient."""
    head = ["term", "before any run", "now", "groups of runs", "what it is"]
    rows = [
        [
            term["name"],
            f"{term['start']:+.3f} ± {term['start_sd']:.3f}",
            f"{term['value']:+.4f} ± {term['sd']:.4f}",
            str(term["groups"]),
            term["why"],
        ]
        for term in evidence["terms"]
    ]
    return head, rows


def run_table(group: Mapping[str, Any]) -> Table:
    """One row a shape of a group of comparable runs."""
    head = ["arm", "depth × width", "expansion", "head", "vocabulary", "parameters", "seeds", "bits per byte", "fitted"]
    rows = [
        [
            row["arm"],
            f"{row['depth']} × {row['width']}",
            f"{row['expansion']:.2f}",
            str(row["head_dim"]),
            f"{row['vocab']:,}",
            f"{row['parameters']:,}",
            str(row["seeds"]),
            f"{row['bits_per_byte']:.4f}",
            f"{row['fitted']:.4f}",
        ]
        for row in group["shapes"]
    ]
    return head, rows


def size(count: float) -> str:
    """Bytes for people: `7.9 MB`."""
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if abs(count) >= factor:
            return f"{count / factor:.3g} {unit}"
    return f"{count:.0f} B"


def _text(table: Table) -> str:
    """A table as text; its last column may be of words."""
    head, rows = table
    (text,) = aligned([head, *rows], words=head[-1] == "what it is")
    return text


def _heads(plan: Mapping[str, Any]) -> str:
    grouped = f" ({plan['kv_heads']} kv)" if plan["kv_heads"] != plan["heads"] else ""
    return f"{plan['heads']} × {plan['head_dim']}{grouped}"


def _change(expected: Mapping[str, float]) -> str:
    return f"{100 * expected['value']:+.1f} % ({100 * expected['low']:+.1f} to {100 * expected['high']:+.1f})"

"""Words and numbers that the page of a run and its model card share."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from typing import Any


def amount(value: Any, *, exact: bool = False) -> str:
    """A value for people: `1.02M` for 1,017,856, or with `exact` all its digits; `–` for None."""
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list | tuple):
        return ", ".join(amount(item, exact=exact) for item in value) or "–"
    if isinstance(value, int) or (isinstance(value, float) and value.is_integer() and abs(value) < 1e15):
        if not exact and abs(value) >= 10_000:
            return _short(float(value))
        return f"{int(value):,}"
    if isinstance(value, float):
        return _short(value) if abs(value) >= 1e6 else f"{value:.4g}"
    return str(value)


def _short(value: float) -> str:
    for size, letter in ((1e15, "P"), (1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:.3g}{letter}"
    return f"{value:.4g}"


def flatten(values: Any, prefix: str = "") -> dict[str, Any]:
    """Nested mappings as dotted keys; lists of mappings get numbers."""
    if isinstance(values, Mapping):
        pairs = [(str(key), value) for key, value in values.items()]
    elif isinstance(values, list) and any(isinstance(item, Mapping) for item in values):
        pairs = [(str(index), value) for index, value in enumerate(values)]
    else:
        return {prefix.rstrip(".") or "value": values}
    flat: dict[str, Any] = {}
    for key, value in pairs:
        flat |= flatten(value, f"{prefix}{key}.")
    return flat


def interval_text(held: Mapping[str, Any], *, brief: bool = False) -> str:
    """The 95 % interval in words; empty where it cannot be estimated (fewer than two documents)."""
    low, high = held.get("low"), held.get("high")
    if low is None or high is None:
        return "" if brief else "No interval: it takes two documents or more."
    if brief:
        return f"[{low:.4f}, {high:.4f}]"
    return f"95 % interval over documents: {low:.4f} to {high:.4f}."


def bits_name(held: Mapping[str, Any]) -> str:
    """What a score on held-out text is called."""
    return "pseudo bits per byte" if held.get("pseudo") else "bits per byte"


def own_class(results: Mapping[str, Any]) -> bool:
    """Whether the model of these results is of a family that `transformers` does not know, and brings its class."""
    return str((results.get("shape") or {}).get("family", "llama")) != "llama"


def load_lines(path: str, own: bool = False) -> list[tuple[str, str]]:
    """How to use the model directory `path`: what for, and the lines to type. own: as `own_class` says."""
    quoted = shlex.quote(path)
    trust = ", trust_remote_code=True" if own else ""
    return [
        ("Write with it", f'lilliput generate {quoted} --prompt "Once"'),
        ("Measure it on other text", f"lilliput evaluate {quoted} --text FILE"),
        ("Train it further", f"lilliput make from={quoted} corpus=FILE"),
        (
            "Load it with transformers" + (", which runs the class that lies in the folder" if own else ""),
            "from transformers import AutoModelForCausalLM, AutoTokenizer\n"
            f'model = AutoModelForCausalLM.from_pretrained("{path}"{trust})\n'
            f'tokenizer = AutoTokenizer.from_pretrained("{path}"{trust})',
        ),
    ]


def aligned(*tables: Sequence[Sequence[str]], words: bool = False) -> list[str]:
    """Tables as text: names to the left, figures to the right, columns alike in all tables. A row may end early.

    words: the last column is text and stands as it comes.
    """
    lines = [line for table in tables for line in table]
    widths = [max(len(line[at]) for line in lines if at < len(line)) for at in range(max(map(len, lines)))]

    def row(line: Sequence[str]) -> str:
        figures = [cell.rjust(width) for cell, width in zip(line[1:], widths[1:], strict=False)]
        if words and len(line) == len(widths):
            figures[-1] = line[-1]
        return "  ".join([line[0].ljust(widths[0]), *figures]).rstrip()

    return ["\n".join(map(row, table)) for table in tables]

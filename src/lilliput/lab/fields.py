"""Quantities of a finished cell by the names that a study writes: its shape, what follows from it, its settings."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Mapping
from typing import Any

from lilliput.errors import nearest
from lilliput.recipe import known_keys

_Shape = Mapping[str, Any]


def _share(shape: _Shape, parameters: int) -> float:
    """Embedding and head over all parameters."""
    tables = 1 if shape.get("tied", True) else 2  # an encoder's is always tied
    return float(shape["vocab_size"] * shape["width"] * tables / parameters)


_DIMENSIONS = ("depth", "width", "heads", "kv_heads", "head_dim", "ffn", "vocab_size", "context")
_DERIVED: dict[str, Callable[[_Shape, int], float]] = {
    "expansion": lambda shape, _: float(shape["ffn"] / shape["width"]),
    "width/depth": lambda shape, _: float(shape["width"] / shape["depth"]),
    "parameters": lambda _, parameters: float(parameters),
    "share": _share,
}
# Of the text an encoder learned from, with the set it is tested on (corpus/overlap.py).
OVERLAPS = {"overlap": "types", "overlap_weighted": "weighted"}
FIELDS = (*_DIMENSIONS, *_DERIVED, *OVERLAPS)
# What else a correlation may be about: tokens a second by batch.
SPEEDS = {"tokens_per_second": 1, "tokens_per_second_at_20": 20}
_OPERATORS: dict[str, Callable[[float, float], bool]] = {
    "<=": operator.le, ">=": operator.ge, "<": operator.lt, ">": operator.gt, "=": operator.eq,
}  # fmt: skip
_TERM = re.compile(r"\s*([\w./]+)\s*(<=|>=|<|>|=)\s*(-?[\d.]+(?:[eE][+-]?\d+)?)\s*")


def value_of(cell: Mapping[str, Any], name: str) -> float | None:
    """The number that a finished cell has for a field; None where it has none.

    A setting that the recipe leaves to be derived (`train.lr`) is taken as it was derived.
    """
    if name in OVERLAPS:
        known = [answers["overlap"] for answers in cell.get("tasks", {}).values() if answers.get("overlap")]
        return float(known[0][OVERLAPS[name]]) if known else None
    if name in _DIMENSIONS:
        size = cell["shape"].get(name)
        return None if size is None else float(size)
    if name in _DERIVED:
        return _DERIVED[name](cell["shape"], cell["parameters"])
    value: Any = cell["recipe"]
    for part in name.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    if value is None and name.startswith("train."):
        value = cell["cost"].get("config", {}).get(name.removeprefix("train."))
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def check_field(name: str) -> str:
    """`name` if a cell can have it; ValueError that names the nearest."""
    known = [*FIELDS, *known_keys()]
    if name not in known:
        close = nearest(name, known)
        raise ValueError(f"no field called {name!r}; " + (f"did you mean {close}?" if close else ", ".join(FIELDS)))
    return name


def _terms(condition: str) -> list[tuple[str, str, float]]:
    terms = []
    for term in re.split(r"\band\b", condition):
        match = _TERM.fullmatch(term)
        if match is None:
            raise ValueError(f"{term.strip()!r} is no condition; write for example `depth <= 16 and width > 64`")
        terms.append((check_field(match[1]), match[2], float(match[3])))
    return terms


def check_condition(condition: str) -> str:
    """`condition` if it can be read; empty stands for no condition."""
    if condition.strip():
        _terms(condition)
    return condition.strip()


def holds(condition: str, cell: Mapping[str, Any]) -> bool:
    """Whether a finished cell meets a condition such as `depth <= 16 and expansion >= 2`."""
    if not condition:
        return True
    found = [(value_of(cell, name), sign, bound) for name, sign, bound in _terms(condition)]
    return all(value is not None and _OPERATORS[sign](value, bound) for value, sign, bound in found)

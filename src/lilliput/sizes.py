"""How people write sizes: `300k` parameters, `8MB` of weights, a tokenizer cut to `97%`, layers `2-5`."""

from __future__ import annotations

import math
import re
from typing import Annotated

from pydantic import AfterValidator, BeforeValidator

_SIZE = re.compile(r"^\s*([0-9]+(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?)\s*([kKmMgGbBtT]?)\s*$")
_BYTES = re.compile(r"^\s*([0-9]+(?:\.[0-9]+)?)\s*([kKMG]?)(B|iB)\s*$")
SPAN = r"^(all|interior|\d{1,4}-\d{1,4})$"  # some of the layers, both ends included, the first being 0
_FACTOR = {"": 1, "k": 1_000, "m": 1_000_000, "g": 10**9, "b": 10**9, "t": 10**12}


def parse_size(value: object) -> object:
    """`300k`, `8M`, `1.5B`, `2e6` → an integer; anything else is left for the type check to refuse."""
    if isinstance(value, str) and (match := _SIZE.match(value)):
        size = float(match[1]) * _FACTOR[match[2].lower()]
        return round(size) if math.isfinite(size) else value
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value


Size = Annotated[int, BeforeValidator(parse_size)]


def parse_bytes(value: object) -> object:
    """`8MB`, `8M` → 8,000,000 and `8MiB` → 8,388,608; anything else is left for the type check to refuse."""
    if isinstance(value, str) and (match := _BYTES.match(value)):
        power = " kmg".index((match[2] or " ").lower())
        return round(float(match[1]) * (1024 if match[3] == "iB" else 1000) ** power)
    return parse_size(value)


Bytes = Annotated[int, BeforeValidator(parse_bytes)]


def parse_compact(value: object) -> object:
    """`rule`, a number of pieces (`4096`, `16k`: int) or a coverage (`0.97`, `97%`: float up to 1)."""
    if isinstance(value, bool):
        return str(value)
    if isinstance(value, str) and value.strip().endswith("%"):
        try:
            value = float(value.strip()[:-1]) / 100
        except ValueError:
            return value
    elif isinstance(value, str) and re.fullmatch(r"\s*0?\.\d+\s*", value):
        value = float(value)
    if isinstance(value, float) and 0 < value <= 1:
        return value
    return parse_size(value)


def _check_compact(value: int | float | str | None) -> int | float | str | None:
    number = isinstance(value, int) and value >= 2
    if value in (None, "rule") or number or (isinstance(value, float) and 0 < value <= 1):
        return value
    raise ValueError("give a number of pieces, a coverage up to 1 (0.97 or 97%), or rule")


Compact = Annotated[int | float | str | None, BeforeValidator(parse_compact), AfterValidator(_check_compact)]

"""Examples before an item: the first ones of its part, in the order of their file, as `lm-eval` takes them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from lilliput.errors import UserError

_BETWEEN = "\n\n"


@dataclass(frozen=True)
class Example:
    """An item, with the part and, where its row names one, the category it belongs to."""

    item: Any
    part: str
    category: str | None = None


def befores(
    parts: Sequence[str], examples: Sequence[Example], shots: int, description: Callable[[str], str], delimiter: str
) -> list[str]:
    """Of each item, by its part, what stands before it: the part's description and its first `shots` examples with
    their answers, an empty line after each. Raises UserError where a part has fewer."""
    held: dict[str, list[str]] = {}
    for example in examples:
        held.setdefault(example.part, []).append(example.item.example(delimiter))
    found = {}
    for part in dict.fromkeys(parts):
        own = held.get(part, [])
        if len(own) < shots:
            message = f"{shots} examples are asked, and {part or 'the data'} has {len(own)}"
            raise UserError(message, where="--shots", mend=f"ask for at most {len(own)}")
        found[part] = description(part) + "".join(text + _BETWEEN for text in own[:shots])
    return [found[part] for part in parts]

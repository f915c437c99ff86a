"""One row of a task's data, and what its fields must be."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from lilliput.errors import UserError

# No number of a choice has so many digits; longer ones Python would refuse to read.
_DIGITS = 10


@dataclass(frozen=True)
class Row:
    """One row. where: its file and line, for messages. part: the name of its file, without endings."""

    fields: dict[str, Any]
    where: str
    part: str

    def text(self, field: str, *, empty: bool = True) -> str:
        """The field, which is text; UserError where it is not, or, without `empty`, where it holds none."""
        value = self.fields.get(field)
        if not isinstance(value, str):
            raise self.wrong(f"{field} is {shown(value)}, not text")
        if not empty and not value.strip():
            raise self.wrong(f"{field} is empty")
        return self._valid(field, value)

    def texts(self, field: str) -> tuple[str, ...]:
        """The field, a list of two texts or more, none empty; UserError where it is something else."""
        value = self.fields.get(field)
        if not isinstance(value, list | tuple) or not all(isinstance(text, str) for text in value):
            raise self.wrong(f"{field} is {shown(value)}, not a list of texts")
        if len(value) < 2:
            raise self.wrong(f"{field} holds {len(value)} of the two or more texts to choose from")
        if not all(text.strip() for text in value):
            raise self.wrong(f"{field} holds an empty text")
        return tuple(self._valid(field, text) for text in value)

    def right(self, field: str, choices: tuple[str, ...]) -> tuple[int, ...]:
        """The numbers of the right choices, of which most rows have one: the field is a number from 0, its digits, a
        letter from A, the choice's own text, or a list of these; UserError where it is not."""
        value = self.fields.get(field)
        if isinstance(value, list | tuple) and value:
            return tuple(dict.fromkeys(self._index(field, one, choices) for one in value))
        return (self._index(field, value, choices),)

    def _index(self, field: str, value: Any, choices: tuple[str, ...]) -> int:
        number: Any = value
        if isinstance(value, str):
            read = _place(value.strip())
            same = [at for at, choice in enumerate(choices) if choice.strip() == value.strip()]
            if len(same) == 1 and read is not None and read != same[0] and read < len(choices):
                raise self.wrong(f"{field} is {value!r}, which is the text of one choice and the place of another")
            number = same[0] if len(same) == 1 else read
        if not isinstance(number, int) or isinstance(number, bool):
            raise self.wrong(f"{field} is {shown(value)}, not the number, letter or text of the right choice")
        if not 0 <= number < len(choices):
            raise self.wrong(f"{field} is {shown(value)}, with choices 0 to {len(choices) - 1}")
        return number

    def _valid(self, field: str, text: str) -> str:
        if not text.isascii() and any("\ud800" <= character <= "\udfff" for character in text):
            raise self.wrong(f"{field} holds lone surrogates, which are no characters")
        return text

    def wrong(self, what: str) -> UserError:
        """The error that names this row."""
        return UserError(what, where=self.where, mend="mend or remove this row")


def _place(text: str) -> int | None:
    """The place that digits, from 0, or a letter, from A, name; None where the text is neither."""
    if text.isascii() and text.isdecimal() and len(text) < _DIGITS:
        return int(text)
    return ord(text) - ord("A") if len(text) == 1 and "A" <= text <= "Z" else None


def shown(value: Any) -> str:
    """A value as a message names it."""
    if value is None:
        return "absent"
    text = repr(value) if isinstance(value, str | int | float) else f"a {type(value).__name__}"
    return text if len(text) <= 80 else f"{text[:77]}…"

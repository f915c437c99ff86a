"""How a benchmark's rows become queries, choices and answers: declared in the task's file, as Jinja, not in code.

A layout gives, for each field of the task's kind, how it is made of the row's own: a text by a template (`query:
"Question: {{ question }}"`), a list by a list of templates or an expression (`choices: choices.text`), and the right
answer by an expression (`gold: answer`). `part` is the name of the row's part.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from jinja2 import StrictUndefined, TemplateError, Undefined, meta
from jinja2.sandbox import ImmutableSandboxedEnvironment

from lilliput.errors import UserError
from lilliput.evaluate.row import Row, shown

# What a template, or an expression, may use beside the row's fields.
_PART = "part"


class _NotText(Exception):  # noqa: N818 (it carries what stood in a text's place)
    def __init__(self, value: Any) -> None:
        super().__init__(shown(value))
        self.value = value


def _printed(value: Any) -> Any:
    """A value that a template puts into a text: a text or a whole number, nothing else."""
    if isinstance(value, str | Undefined) or (isinstance(value, int) and not isinstance(value, bool)):
        return value
    raise _NotText(value)


_JINJA = ImmutableSandboxedEnvironment(undefined=StrictUndefined, finalize=_printed, keep_trailing_newline=True)


def template(source: str) -> Callable[..., str]:
    """The function of a row's fields that a template is."""
    return partial(_JINJA.from_string(source).render)


def _maker(source: Any, is_text: bool) -> Callable[..., Any]:
    """The function of a row's fields that makes a field of the kind."""
    if isinstance(source, list):
        every = [template(str(one)) for one in source]
        return lambda **fields: [one(**fields) for one in every]
    return template(source) if is_text else partial(_JINJA.compile_expression(source, undefined_to_none=False))


def _uses(source: Any, is_text: bool) -> set[str]:
    texts = source if isinstance(source, list) else [source if is_text else f"{{{{ {source} }}}}"]
    return {name for text in texts for name in meta.find_undeclared_variables(_JINJA.parse(str(text)))} - {_PART}


class Layout:
    """One layout. fields: those a row must have for it."""

    def __init__(self, made: Mapping[str, Any], texts: Sequence[str]) -> None:
        """made: by the kind's fields, as in the task's file. texts: those of them that are texts."""
        self.fields = sorted(set().union(*(_uses(source, name in texts) for name, source in made.items())))
        self._makers = {name: _maker(source, name in texts) for name, source in made.items()}

    def fits(self, row: Row) -> bool:
        """Whether the row has all the fields."""
        return all(name in row.fields for name in self.fields)

    def apply(self, row: Row) -> Row:
        """The row with the kind's fields. Raises UserError where one cannot be made of it."""
        held = {name: row.fields[name] for name in self.fields}
        return Row({name: self._make(name, row, held) for name in self._makers}, row.where, row.part)

    def _make(self, name: str, row: Row, held: dict[str, Any]) -> Any:
        try:
            made = self._makers[name](**held, **{_PART: row.part})
            if isinstance(made, Undefined):
                str(made)  # tells what is not there
            return made
        except _NotText as error:
            field = next((field for field, value in held.items() if value is error.value), name)
            raise row.wrong(f"{field} is {shown(error.value)}, not text") from None
        # What an expression does with a value of another type than the benchmark's may raise anything of these.
        except (TemplateError, ValueError, TypeError, LookupError, AttributeError, ArithmeticError) as error:
            raise row.wrong(f"its fields give no {name}: {error}") from None


def laid_out(row: Row, layouts: Sequence[Layout], own: Sequence[Sequence[str]]) -> Row:
    """The row by the first layout it has the fields for; as it stands where it has a set of the kind's `own` fields.

    Raises UserError, with the fields it could have, where there is none.
    """
    if any(all(name in row.fields for name in names) for names in own):
        return row
    for layout in layouts:
        if layout.fits(row):
            return layout.apply(row)
    sets = " | ".join(", ".join(names) for names in (*own, *(layout.fields for layout in layouts)))
    what = f"the row's fields make no item: {', '.join(row.fields) or 'none'}"
    raise UserError(what, where=row.where, mend=f"rows of this task have one of these sets of fields: {sets}")


def truth(source: str) -> Callable[[Row], bool]:
    """The function that says whether an expression, of a row's fields and `part`, is true of a row. It is true of one
    that lacks such a field, which no layout will fit."""
    expression, used = _JINJA.compile_expression(source), _uses(source, False)

    def holds(row: Row) -> bool:
        return not used <= row.fields.keys() or bool(expression(**{**row.fields, _PART: row.part}))

    return holds

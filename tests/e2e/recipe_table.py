"""The tables of docs/recipes.md, from the code: `python tests/e2e/recipe_table.py` prints them."""

from typing import Any, Literal, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from lilliput.recipe import Recipe, Size, load_recipe, shipped


def _default(field: FieldInfo) -> str:
    value = field.get_default(call_default_factory=True)
    if value is None:
        return "none" if "text" in _kind(field) else "derived"
    if isinstance(value, list) and value and isinstance(value[0], BaseModel):
        return f"`{value[0].source}`"
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    if isinstance(value, float) and value >= 1000:
        return f"`{value:g}`"
    if isinstance(value, int) and not isinstance(value, bool):
        return f"`{_short(value)}`"
    return f"`{value}`" if value != [] else "none"


def _leaves(annotation: Any) -> list[Any]:
    arguments = [part for part in get_args(annotation) if part is not type(None)]
    if get_origin(annotation) is Literal:
        return [annotation]
    return [leaf for part in arguments for leaf in _leaves(part)] if arguments else [annotation]


def _kind(field: FieldInfo) -> str:
    if str(Size.__metadata__[0]) in str(field.annotation) + str(field.metadata):
        return "size"
    if get_origin(field.annotation) is list:
        return "list of text"
    names = []
    for leaf in _leaves(field.annotation):
        if get_origin(leaf) is Literal:
            names += [f"`{choice}`" for choice in get_args(leaf)]
        elif leaf is bool:
            names += ["`true`", "`false`"]
        elif isinstance(leaf, type) and issubclass(leaf, BaseModel):
            names.append("source or list")
        elif isinstance(leaf, type):
            names.append({"int": "integer", "float": "number", "str": "text"}.get(leaf.__name__, leaf.__name__))
    return ", ".join(dict.fromkeys(names))


def _range(field: FieldInfo) -> str:
    signs = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<"}
    parts = []
    for constraint in field.metadata:
        for name, sign in signs.items():
            value = getattr(constraint, name, None)
            if value is not None:
                parts.append(f"{sign} {value:,}".removesuffix(".0"))
    return ", ".join(parts)


def rows(model: type[BaseModel] = Recipe, prefix: str = "") -> list[str]:
    """One table row for each dotted key."""
    found: list[str] = []
    for name, field in model.model_fields.items():
        key = prefix + (field.alias or name)
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            found += rows(kind, f"{key}.")
        else:
            values = " ".join(part for part in (_kind(field), _range(field)) if part)
            found.append(f"| `{key}` | {field.description} | {values} | {_default(field)} |")
    return found


def table() -> str:
    """The tables as docs/recipes.md holds them."""
    lines = ["| recipe | corpus | settings |", "|---|---|---|"]
    for name, file in shipped().items():
        recipe = load_recipe(name)
        plain = Recipe().to_dict() | {"name": name}
        given = _changed(recipe.to_dict(), plain)
        corpus = ", ".join(spec.source for spec in recipe.corpus)
        lines.append(f"| `{file.stem}` | `{corpus}` | {', '.join(f'`{part}`' for part in given)} |")
    return "\n".join([*lines, "", "| key | what | values | default |", "|---|---|---|---|", *rows()])


def _changed(values: dict[str, Any], plain: dict[str, Any], prefix: str = "") -> list[str]:
    found: list[str] = []
    for key, value in values.items():
        if isinstance(value, dict):
            found += _changed(value, plain[key], f"{prefix}{key}.")
        elif value != plain.get(key):
            found.append(f"{prefix}{key}={_short(value) if isinstance(value, int) else value}")
    return found


def _short(value: int) -> str:
    for size, letter in ((10**9, "B"), (10**6, "M"), (10**3, "k")):
        if value >= size and value % size == 0:
            return f"{value // size}{letter}"
    return str(value)


if __name__ == "__main__":
    print(table())

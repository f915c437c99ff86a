"""What a study is: a question, the arms that differ, the seeds, and the claims declared before any run.

A study is a YAML file (docs/studies.md). Its paths may hold environment variables, which are filled in only
when a cell runs, so that a cell's hash is the same on every machine.
"""

from __future__ import annotations

import json
import os
import re
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from lilliput.errors import ConfigError, nearest
from lilliput.evaluate.statistics import Kind
from lilliput.recipe import Recipe, load_recipe, shipped
from lilliput.store import canonical_hash

# Raised when what a cell measures changes for the same settings.
CELL_FORMAT = 1
# Keys that change what is written and when, never what is measured.
_FREE = {"train": ("save_every", "eval_every", "tensorboard"), "evaluate": ("prompts", "during")}
_VARIABLE = re.compile(r"\$(?:\{(\w+)\}|(\w+))")


def _as_settings(value: object) -> object:
    """`{train.lr: 0.001}` → `["train.lr=0.001"]`; a list of `key=value` stays."""
    if isinstance(value, dict):
        return [setting(str(key), given) for key, given in value.items()]
    return value


def setting(key: str, value: object) -> str:
    """One dotted setting as people write it; JSON is valid YAML, so any value survives."""
    plain = isinstance(value, str) and re.fullmatch(r"[\w$][\w./:{}$+-]*", value) and yaml.safe_load(value) == value
    return f"{key}={value if plain else json.dumps(value)}"


def _as_seeds(value: object) -> object:
    """`3` → `[0, 1, 2]`."""
    return list(range(value)) if isinstance(value, int) and not isinstance(value, bool) else value


def _as_text(value: object) -> object:
    """Arms may be named by a number, as an axis writes them."""
    return value if isinstance(value, str) or value is None else json.dumps(value)


Settings = Annotated[list[str], BeforeValidator(_as_settings)]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
ArmName = Annotated[str, BeforeValidator(_as_text)]
TAGS = {
    "P": "paper",
    "R": "reference repository",
    "S": "secondary text",
    "M": "recalled, unverified",
    "D": "derived by us",
}


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Axis(_Part):
    """One recipe key and the values it takes: an arm each."""

    key: str
    values: list[Any] = Field(min_length=1)


class Claim(_Part):
    """What is expected, declared before the runs. gain = versus − arm in bits per byte; delta ≥ 0."""

    kind: Kind
    arm: ArmName
    versus: ArmName
    delta: float = Field(ge=0)
    text: str = ""


class Published(_Part):
    """A figure to stand beside ours, with where it is from."""

    label: str
    value: float | str
    unit: str = "bits per byte"
    tag: Literal["P", "R", "S", "M", "D"]
    source: str = ""


class Study(_Part):
    """A study as its file says it."""

    name: Name
    question: str = Field(min_length=1)
    recipe: str = "tiny"
    settings: Settings = []
    axis: Axis | None = None
    arms: dict[ArmName, Settings] | None = None
    baseline: ArmName | None = None
    seeds: Annotated[list[int], BeforeValidator(_as_seeds)] = Field([0], min_length=1)
    metric: Literal["bits_per_byte"] = "bits_per_byte"
    evaluate: list[str] = []
    published: list[Published] = []
    claims: list[Claim] = []
    notes: str = ""

    def arm_settings(self) -> dict[str, list[str]]:
        """Every arm's name and its settings."""
        if self.axis is not None:
            last = self.axis.key.rpartition(".")[2]
            return {f"{last}={_short(value)}": [setting(self.axis.key, value)] for value in self.axis.values}
        return {name: list(settings) for name, settings in (self.arms or {}).items()}

    def arm(self, named: str) -> str:
        """The arm that a claim names: by its name, or on an axis by its value."""
        arms = self.arm_settings()
        if named in arms:
            return named
        if self.axis is not None:
            last = self.axis.key.rpartition(".")[2]
            same = [f"{last}={_short(value)}" for value in self.axis.values if _same(value, named)]
            if same:
                return same[0]
        close = nearest(named, list(arms))
        raise ConfigError(
            f"no arm called {named!r}",
            where=f"study {self.name}",
            mend=f"did you mean {close}?" if close else f"the arms are {', '.join(arms)}",
        )

    def base_arm(self) -> str:
        """The arm that the others are shown against: `baseline`, else the first."""
        return self.arm(self.baseline) if self.baseline else next(iter(self.arm_settings()))


def _short(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _same(value: object, named: str) -> bool:
    try:
        return float(str(value)) == float(named)
    except ValueError:
        return _short(value) == named


@dataclass(frozen=True)
class Cell:
    """One arm with one seed. settings: what the arm sets. recipe: the whole, its variables not filled in."""

    arm: str
    seed: int
    settings: tuple[str, ...]
    recipe: Recipe
    hash: str

    @property
    def stem(self) -> str:
        """Names the cell's file."""
        return f"{re.sub(r'[^A-Za-z0-9._=+-]', '_', self.arm)}-seed{self.seed}"


def cells_of(study: Study, folder: Path | None = None) -> list[Cell]:
    """Every cell, all arms of a seed before the next seed, so that an unfinished study is already paired.

    folder: where the study's file lies; a recipe file is looked for there too. Raises ConfigError for a setting
    that the recipe refuses.
    """
    recipe = study.recipe
    if recipe not in shipped() and folder is not None and (folder / recipe).is_file():
        recipe = str(folder / recipe)
    common = [*study.settings]
    if study.evaluate:
        common.append(setting("evaluate.text", study.evaluate))
    cells = []
    for seed in study.seeds:
        for arm, own in study.arm_settings().items():
            filled = load_recipe(recipe, [*common, *own, f"seed={seed}"])
            cells.append(Cell(arm, seed, tuple(own), filled, cell_hash(filled.to_dict(), study.metric)))
    return cells


def cell_hash(recipe: dict[str, Any], metric: str) -> str:
    """What identifies a cell: everything its recipe (`Recipe.to_dict()`) asks that changes what is measured.

    What is not asked (null, or an empty list or mapping) is left out, so that a key which a later version of
    Lilliput adds to the recipe changes no cell that does not use it.
    """
    asked = {key: value for key, value in recipe.items() if key != "name"}
    for part, names in _FREE.items():
        asked[part] = {key: value for key, value in asked.get(part, {}).items() if key not in names}
    return canonical_hash({"format": CELL_FORMAT, "recipe": _asked(asked), "metric": metric})


def _asked(value: Any) -> Any:
    """`value` without the keys, at any depth, that hold nothing."""
    if isinstance(value, dict):
        kept = {key: _asked(inner) for key, inner in value.items()}
        return {key: inner for key, inner in kept.items() if inner is not None and inner != [] and inner != {}}
    return [_asked(item) for item in value] if isinstance(value, list) else value


def fill_in(recipe: Recipe, where: str) -> Recipe:
    """The recipe with environment variables in its paths filled in; ConfigError names one that is not set."""

    def fill(path: str) -> str:
        def value(match: re.Match[str]) -> str:
            name = match[1] or match[2]
            if name not in os.environ:
                raise ConfigError(
                    f"{path} needs the environment variable {name}", where=where, mend=f"export {name}=FOLDER"
                )
            return os.environ[name]

        return _VARIABLE.sub(value, path)

    values = recipe.to_dict()
    for spec in values["corpus"]:
        spec["source"] = fill(spec["source"])
    values["evaluate"]["text"] = [fill(path) for path in values["evaluate"]["text"]]
    for holder in (values, values["tokenizer"]):
        if holder["from"] is not None:
            holder["from"] = fill(holder["from"])
    return Recipe.model_validate(values)


def studies_shipped() -> dict[str, Path]:
    """Name and file of every study that ships."""
    folder = Path(str(resources.files("lilliput") / "lab" / "studies"))
    return {file.stem: file for file in sorted(folder.glob("*.yaml"))}


def find_study(name: str, results: Path) -> Path:
    """The file of a study: a path, one that ships, or one begun under `results`."""
    ships = studies_shipped()
    begun = {file.parent.name: file for file in sorted(results.glob("*/study.yaml"))}
    for found in (ships.get(name), begun.get(name), Path(name).expanduser()):
        if found is not None and found.is_file():
            return found
    known = [*ships, *(other for other in begun if other not in ships)]
    close = nearest(name, known)
    mend = f"did you mean {close}?" if close else f"studies here: {', '.join(known)}; or name a file"
    raise ConfigError(f"no study called {name!r}", where="NAME", mend=mend)


def read_study(path: Path) -> Study:
    """A study from its file. Raises ConfigError that names the key and the nearest right one."""
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        detail = " ".join(str(error).split())
        raise ConfigError(f"not valid YAML: {detail}", where=str(path), mend="mend the file") from None
    if not isinstance(values, dict):
        raise ConfigError("a study is a mapping of keys", where=str(path), mend="see docs/studies.md")
    # A begun study lies as `results/NAME/study.yaml`.
    values.setdefault("name", path.absolute().parent.name if path.name == "study.yaml" else path.stem)
    _refuse_unknown(values, str(path))
    try:
        study = Study.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        reason = first["msg"].removeprefix("Value error, ")
        raise ConfigError(f"{key}: {reason}", where=str(path), mend="see docs/studies.md") from None
    _check(study, str(path))
    return study


def _refuse_unknown(values: dict[str, Any], where: str) -> None:
    parts: list[tuple[str, object, type[BaseModel]]] = [("", values, Study), ("axis.", values.get("axis"), Axis)]
    for name, kind in (("claims", Claim), ("published", Published)):
        listed = values.get(name)
        parts += [(f"{name}.", item, kind) for item in (listed if isinstance(listed, list) else [])]
    for prefix, given, model in parts:
        for key in given if isinstance(given, dict) else ():
            if key not in model.model_fields:
                close = nearest(str(key), list(model.model_fields))
                mend = f"did you mean {prefix}{close}?" if close else f"keys: {', '.join(model.model_fields)}"
                raise ConfigError(f"unknown key {prefix}{key}", where=where, mend=mend)


def _check(study: Study, where: str) -> None:
    """What the types cannot say."""

    def refuse(message: str, mend: str) -> ConfigError:
        return ConfigError(message, where=where, mend=mend)

    if (study.axis is None) == (study.arms is None):
        raise refuse("a study has either an axis or arms", "give `axis: {key, values}` or `arms: {name: [key=value]}`")
    arms = study.arm_settings()
    if study.axis is not None and len(arms) < len(study.axis.values):
        raise refuse("the axis names a value twice", "give each value once")
    if not arms:
        raise refuse("a study needs at least one arm", "add one under `arms:`")
    if len({cell_name.lower() for cell_name in map(_file_name, arms)}) < len(arms):
        raise refuse("two arms would share a file", "let their names differ in letters or digits")
    if len(set(study.seeds)) < len(study.seeds):
        raise refuse("a seed is given twice", "give each seed once")
    for claim in study.claims:
        if study.arm(claim.arm) == study.arm(claim.versus):
            raise refuse(f"a claim compares {claim.arm} with itself", "name two arms")
        if claim.kind == "equivalence" and claim.delta == 0:
            raise refuse("equivalence within 0 can never be shown", "give a delta above 0")
    study.base_arm()


def _file_name(arm: str) -> str:
    return re.sub(r"[^A-Za-z0-9._=+-]", "_", arm)

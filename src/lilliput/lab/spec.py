"""What a study is: a question, the arms that differ, the seeds, and what is claimed before any run.

A study is a YAML file (docs/studies.md).
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from lilliput.errors import ConfigError, nearest
from lilliput.evaluate.correlation import Bound
from lilliput.evaluate.statistics import Kind
from lilliput.lab.fields import OVERLAPS, SPEEDS, check_condition, check_field
from lilliput.lab.metrics import BITS, MASKED, Metric, check_metric, metric_of


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


Seeds = Annotated[list[int], BeforeValidator(_as_seeds)]
Settings = Annotated[list[str], BeforeValidator(_as_settings)]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
ArmName = Annotated[str, BeforeValidator(_as_text)]
TaskName = Annotated[str, Field(min_length=1)]
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
    """What is expected, declared before the runs. delta ≥ 0.

    metric: the study's loss, whose gain is versus − arm; or a task of the study, TASK for its accuracy or
    TASK.MEASURE (lab/metrics.py): the gain of an accuracy is arm − versus, a share of the items. By default what the
    study's table shows first. to, part: the arm is held against what lies `part` of the way from `versus` to `to`: at
    0.6, does it make up 60 % of their difference?
    """

    kind: Kind
    arm: ArmName
    versus: ArmName
    delta: float = Field(ge=0)
    metric: str | None = None
    to: ArmName | None = None
    part: float | None = Field(None, gt=0, lt=1)
    text: str = ""

    @model_validator(mode="after")
    def _whole_way(self) -> Claim:
        if (self.to is None) != (self.part is None):
            raise ValueError("part says how far from `versus` to `to`: give both or neither")
        return self


class Trend(_Part):
    """How two quantities go together over the arms: Spearman's ρ of `y` with `x`, and what is claimed of it.

    x: a field of a cell (lab/fields.py). y: a speed or a metric, by default what the study's table shows first. where:
    which arms count. slope: also how much y rises with each unit of x, or with each `doubling` of it. At most one of
    at_most, at_least and within, the bound that ρ is claimed to keep; none: ρ is reported, and no verdict given.
    """

    x: Annotated[str, AfterValidator(check_field)]
    y: str | None = None
    where: Annotated[str, AfterValidator(check_condition)] = ""
    slope: Literal["unit", "doubling"] | None = None
    at_most: float | None = Field(None, ge=-1, le=1)
    at_least: float | None = Field(None, ge=-1, le=1)
    within: float | None = Field(None, gt=0, le=1)
    text: str = ""

    @property
    def bound(self) -> tuple[Bound, float] | None:
        """The bound that is claimed, if one is."""
        kinds: tuple[Bound, ...] = ("at_most", "at_least", "within")
        given = [(kind, getattr(self, kind)) for kind in kinds if getattr(self, kind) is not None]
        return given[0] if given else None

    @model_validator(mode="after")
    def _one_bound(self) -> Trend:
        if sum(value is not None for value in (self.at_most, self.at_least, self.within)) > 1:
            raise ValueError("give one of at_most, at_least and within")
        return self


class Reach(_Part):
    """How many times fewer tokens `arm` needs to come to what `versus` comes to; at_least: what is claimed of it."""

    arm: ArmName
    versus: ArmName
    at_least: float | None = Field(None, gt=0)
    text: str = ""


class Classify(_Part):
    """What every cell's model is fine-tuned for and tested on once it is there (docs/encoders.md).

    data: sets as after `lilliput classify --data`. The rest as its options. The rows drawn follow from the cell's seed,
    so arms are compared on the same ones.
    """

    data: Annotated[list[str], BeforeValidator(lambda value: [value] if isinstance(value, str) else value)] = Field(
        min_length=1
    )
    per_label: int | None = Field(None, ge=1)
    epochs: float = Field(10.0, gt=0)
    batch: int = Field(32, ge=1)
    lr: float | None = Field(None, gt=0, le=1)
    length: int = Field(128, ge=3)

    def names(self) -> list[str]:
        """What the sets are called in tables and claims."""
        return [Path(name).name for name in self.data]

    def fits(self, tuning: Mapping[str, Any]) -> bool:
        """Whether a cell was fine-tuned as is asked now. tuning: its settings, the rate as it was derived."""
        asked = self.model_dump(exclude={"data"} if self.lr is not None else {"data", "lr"})
        return all(tuning[name] == value for name, value in asked.items())


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
    teacher: Settings | None = None
    axis: Axis | None = None
    arms: dict[ArmName, Settings] | None = None
    baseline: ArmName | None = None
    seeds: Seeds = Field([0], min_length=1)
    more_seeds: dict[ArmName, Seeds] = {}
    speed: bool = False
    metric: Literal["bits_per_byte", "masked_loss", "accuracy"] | None = None
    evaluate: list[str] = []
    tasks: list[TaskName] = []
    data: str | None = None
    classify: Classify | None = None
    published: list[Published] = []
    claims: list[Claim] = []
    correlations: list[Trend] = []
    reaches: list[Reach] = []
    notes: str = ""

    @property
    def loss(self) -> str:
        """The loss of the study's models, by which their training is measured."""
        masked = self.metric == MASKED or self.classify is not None or "objective=masked" in self.settings
        return MASKED if masked else BITS

    @property
    def asked(self) -> list[str]:
        """What each model answers once it is there: the tasks, and the sets it is fine-tuned for."""
        return [*self.tasks, *(self.classify.names() if self.classify else [])]

    @property
    def main(self) -> Metric:
        """What the study's table shows first, and a claim is about unless it says otherwise."""
        name = self.classify.names()[0] if self.classify and self.metric in (None, "accuracy") else self.loss
        return metric_of(name, self.asked) or Metric(None, self.loss)

    def arm_settings(self) -> dict[str, list[str]]:
        """Every arm's name and its settings."""
        if self.axis is not None:
            last = self.axis.key.rpartition(".")[2]
            return {f"{last}={_short(value)}": [setting(self.axis.key, value)] for value in self.axis.values}
        return {name: list(settings) for name, settings in (self.arms or {}).items()}

    def seeds_of(self, arm: str) -> list[int]:
        """The seeds of one arm: those of all arms, then its own further ones."""
        more = [seeds for named, seeds in self.more_seeds.items() if self.arm(named) == arm]
        return list(dict.fromkeys([*self.seeds, *(seed for own in more for seed in own)]))

    def all_seeds(self) -> list[int]:
        """Every seed that some arm has; first those that all arms have."""
        more = {seed for own in self.more_seeds.values() for seed in own}
        return [*self.seeds, *sorted(more - set(self.seeds))]

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
    parts.append(("classify.", values.get("classify"), Classify))
    for name, kind in (("claims", Claim), ("correlations", Trend), ("reaches", Reach), ("published", Published)):
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
    if len({cell_name.lower() for cell_name in map(file_name, arms)}) < len(arms):
        raise refuse("two arms would share a file", "let their names differ in letters or digits")
    if len(set(study.seeds)) < len(study.seeds):
        raise refuse("a seed is given twice", "give each seed once")
    _check_more_seeds(study, where)
    timed = [trend.y for trend in study.correlations if trend.y in SPEEDS]
    if timed and study.loss == MASKED:
        raise refuse(f"encoders write nothing, so they have no {timed[0]}", "name a metric")
    if timed and not study.speed:
        raise refuse(f"a correlation is about {timed[0]}, which is not measured", "add `speed: true`")
    pairs = [pair for one in study.claims if one.to is not None for pair in ((one.to, one.versus), (one.to, one.arm))]
    pairs += [(one.arm, one.versus) for one in study.claims] + [(one.arm, one.versus) for one in study.reaches]
    for arm, versus in pairs:
        if study.arm(arm) == study.arm(versus):
            raise refuse(f"a claim compares {arm} with itself", "name two arms")
    for claim in study.claims:
        if claim.kind == "equivalence" and claim.delta == 0:
            raise refuse("equivalence within 0 can never be shown", "give a delta above 0")
    sets = study.classify.data if study.classify else []
    if len(sets) != 1 and any(trend.x in OVERLAPS for trend in study.correlations):
        raise refuse("an overlap is a text's with one labelled set", "name one under `classify: {data: NAME}`")
    _check_tasks(study, where)
    study.base_arm()


def _check_tasks(study: Study, where: str) -> None:
    if study.metric is not None and study.metric not in (study.loss, *(["accuracy"] if study.classify else [])):
        mend = f"metric: {study.loss}, or leave it out; see docs/studies.md"
        raise ConfigError(f"metric: this study has no {study.metric}", where=where, mend=mend)
    if study.tasks and study.loss == MASKED:
        raise ConfigError("tasks are asked of decoders", where=where, mend="an encoder answers `classify:`")
    if len(set(study.asked)) < len(study.asked):
        raise ConfigError("a task is named twice", where=where, mend="name each task once")
    if study.tasks and study.data is None:
        mend = "add `data: FOLDER`, the folder that holds their rows"
        raise ConfigError("the tasks need their data", where=where, mend=mend)
    if study.data is not None and not study.tasks:
        raise ConfigError("data is given, and no task", where=where, mend="add `tasks: [NAME]`, or leave data out")
    named = [claim.metric for claim in study.claims] + [trend.y for trend in study.correlations]
    for name in named:
        if name is not None and name not in SPEEDS:
            check_metric(name, study.asked, study.loss, where)


def _check_more_seeds(study: Study, where: str) -> None:
    for named, seeds in study.more_seeds.items():
        if len(study.seeds_of(study.arm(named))) == len(study.seeds):
            given = ", ".join(map(str, seeds)) or "none"
            raise ConfigError(
                f"more_seeds.{named} adds no seed to those of all arms (given: {given})",
                where=where,
                mend=f"give more than {len(study.seeds)}, or leave the arm out",
            )
        if len(set(seeds)) < len(seeds):
            raise ConfigError(f"more_seeds.{named}: a seed is given twice", where=where, mend="give each seed once")


def file_name(arm: str) -> str:
    """An arm's name as part of a file's."""
    return re.sub(r"[^A-Za-z0-9._=+-]", "_", arm)

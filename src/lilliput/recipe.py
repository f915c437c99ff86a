"""What a run is asked to do: the recipe, its keys, their ranges, and how people write them.

A recipe is a YAML file (several ship, see `shipped()`); dotted `key=value` settings change it. Everything
left out (`None`) is derived later from the budget by cited rules and printed.
"""

from __future__ import annotations

import re
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, BeforeValidator, Field, ValidationError, model_validator

from lilliput.errors import ConfigError, nearest
from lilliput.recipe_model import BYTE_POOLS, ENCODERS, ROUTING, Settings, check_routing, check_units
from lilliput.recipe_model import MaskedSettings as MaskedSettings
from lilliput.recipe_model import ModelSettings as ModelSettings
from lilliput.recipe_model import ShareSettings as ShareSettings
from lilliput.recipe_skip import SkipSettings, asked, unasked
from lilliput.sizes import Bytes, Compact
from lilliput.sizes import Size as Size
from lilliput.sizes import parse_compact as parse_compact
from lilliput.sizes import parse_size as parse_size


class SourceSpec(Settings):
    """One source of text."""

    source: str = Field(min_length=1, description="a file, glob or folder, `hf:NAME[:split]` or `builtin:python`")
    weight: float = Field(1.0, gt=0, le=1000, description="how often its documents are seen, relative to 1")
    field: str = Field("text", description="the JSONL or Parquet field that holds the text")


class TokenizerSettings(Settings):
    """The tokenizer: trained on the corpus, or an existing one, which may be cut down."""

    source: str | None = Field(None, alias="from", description="use this tokenizer: a file or a model directory")
    vocab_size: Size | None = Field(None, ge=257, le=1_000_000, description="pieces to train, special ones included")
    compact: Compact = Field(None, description="cut it down: to so many pieces, to a coverage (0.97), or by `rule`")
    pattern: str | None = Field(
        None, description="tiktoken files, `byte-pool`: the regular expression that cuts text into words"
    )
    special: list[str] = Field([], description="tiktoken files: names of the special tokens")


class Budget(Settings):
    """What the device allows."""

    params: Size | None = Field(None, ge=20_000, le=20_000_000_000, description="ceiling on stored parameters, e.g. 8M")
    bytes: Bytes | None = Field(None, ge=10_000, description="ceiling on the weights' bytes on the device, e.g. 8MB")
    bits: Literal[16, 8, 4] | None = Field(None, description="bits a weight on the device, for `bytes`; none: 16")
    speed: float | None = Field(None, gt=0, le=1e9, description="tokens a second to write on this machine, batch 1")

    @model_validator(mode="after")
    def _bits_need_bytes(self) -> Budget:
        if self.bits is not None and self.bytes is None:
            raise ValueError("bits say how `budget.bytes` is counted: give budget.bytes too")
        return self


class MaskLearning(Settings):
    """`neurons: learned`: how the masks are trained (docs/inherit.md)."""

    tokens: Size | None = Field(None, gt=0, description="text to learn them on; none: 400 steps")
    batch_tokens: Size | None = Field(None, gt=0, description="tokens a step; none: 8 windows")
    lr: float = Field(1.0, gt=0, le=10, description="learning rate of the masks")
    penalty_lr: float | None = Field(None, gt=0, le=10, description="learning rate of the Lagrange multipliers")
    weight_lr: float = Field(1e-4, gt=0, le=1, description="learning rate of the teacher's weights meanwhile")


class InheritSettings(Settings):
    """Start from parts of a bigger model, in the shape that `model` and `budget.params` ask for."""

    teacher: str | None = Field(None, description="the bigger model: a model directory, or a llama2.c checkpoint")
    tokenizer: str | None = Field(None, description="llama2.c: the checkpoint's tokenizer.bin")
    layers: str | None = Field(
        None,
        description="importance, importance=TASK, ends, uniform, first, keep=0,1,5 or learned; none: learned with "
        "learned neurons, else importance",
    )
    tasks: list[str] = Field([], description="tasks that layers are judged by beside bits per byte")
    data: str | None = Field(None, description="the folder that holds the tasks' rows")
    neurons: Literal["random", "l1", "l2", "taylor", "learned"] = Field(
        "taylor", description="how FFN neurons, heads and hidden channels are chosen"
    )
    taylor: Literal["vector", "first", "second", "mix"] = Field("first", description="which Taylor score")
    group: Literal["mean", "first", "random"] = Field("mean", description="how key-value heads are put together")
    sequences: int = Field(128, ge=1, le=65_536, description="sequences of calibration text for Taylor scores")
    masks: MaskLearning = MaskLearning()
    distil: float = Field(0.0, ge=0, le=1, description="share of the teacher's answers in the loss of later training")
    temperature: float = Field(1.0, gt=0, le=100, description="temperature of the teacher's answers")
    top: int | None = Field(None, ge=1, le=65_536, description="its best answers kept on disk, so many; none: ask live")


class RateLaw(Settings):
    """The peak rate by the batch: lr = (batch / batch_tokens)^power · lr (PanGu-π Pro §4.1, Figs 7 and 8)."""

    lr: float | None = Field(None, gt=0, le=1, description="in place of `train.lr`: the peak at `batch_tokens`")
    batch_tokens: Size | None = Field(None, gt=0, description="the batch, in tokens, that `lr` is for")
    power: float = Field(0.5, ge=0, le=2, description="how the peak grows with the batch; 0.5 or 1 as a rule")

    @model_validator(mode="after")
    def _whole(self) -> RateLaw:
        if (self.lr is None) != (self.batch_tokens is None):
            raise ValueError("a law needs both lr_law.lr and lr_law.batch_tokens, the batch that this rate is for")
        if self.lr is None and self.power != RateLaw.model_fields["power"].default:
            raise ValueError("lr_law.power needs lr_law.lr and lr_law.batch_tokens")
        return self


class TrainSettings(SkipSettings):
    """How it is trained; what is left out follows from shape and budget (docs/train.md)."""

    tokens: Size | None = Field(None, gt=0, description="horizon in tokens (positions of the core)")
    bytes: Size | None = Field(None, gt=0, description="horizon in UTF-8 bytes of text seen")
    epochs: float | None = Field(None, gt=0, le=10_000, description="horizon in passes over the corpus")
    batch_tokens: Size | None = Field(None, gt=0, description="tokens a step")
    lr: float | None = Field(None, gt=0, le=1, description="peak learning rate")
    lr_law: RateLaw = RateLaw()
    schedule: Literal["cosine", "wsd", "constant"] = Field("cosine", description="learning rate over time")
    min_lr: float = Field(0.1, ge=0, le=1, description="last learning rate as a share of the peak")
    decay: float = Field(0.1, gt=0, le=1, description="`wsd`: share of the run that decays")
    warmup: int | None = Field(None, ge=0, description="steps of linear warm-up")
    weight_decay: float = Field(0.1, ge=0, le=10, description="decoupled, on matrices only")
    beta1: float = Field(0.9, ge=0, lt=1, description="AdamW β1")
    beta2: float | None = Field(None, ge=0, lt=1, description="AdamW β2")
    clip: float = Field(1.0, gt=0, description="largest global gradient norm")
    compile: Literal["auto"] | bool = Field("auto", description="use torch.compile")
    micro_batch: int | None = Field(None, ge=1, description="sequences a forward pass")
    precision: Literal["auto", "fp32", "bf16"] = Field("auto", description="fp32 on a CPU, bf16 on a GPU")
    threads: int | None = Field(None, ge=1, le=1024, description="CPU threads")
    save_every: int | None = Field(None, ge=1, description="steps between checkpoints")
    eval_every: int | None = Field(None, ge=1, description="steps between evaluations")
    tensorboard: bool = Field(False, description="also write TensorBoard events (extra `log`)")

    @model_validator(mode="after")
    def _one_horizon(self) -> TrainSettings:
        given = [name for name in ("tokens", "bytes", "epochs") if getattr(self, name) is not None]
        if len(given) > 1:
            raise ValueError(f"give one of tokens, bytes and epochs, not {' and '.join(given)}")
        if self.lr is not None and self.lr_law.lr is not None:
            raise ValueError("lr and lr_law both set the peak learning rate: give one of them")
        return self


class RoundSettings(Settings):
    """Several rounds: what the first one read is read again, chosen by its loss (docs/train.md)."""

    count: int = Field(1, ge=1, le=64, description="rounds of training; 1: the text is read on, nothing again")
    rate: float = Field(0.5, gt=0, le=1, description="tokens of each later round as a share of the first one's")
    parts: int = Field(8, ge=1, le=65_536, description="parts of the first round, each drawn from alike")
    weighting: Literal["loss", "uniform", "top", "fresh"] = Field(
        "loss", description="what is read again: by chance weighted with the loss, by chance, the highest; or new text"
    )
    temperature: float = Field(1.0, ge=1e-3, le=1000, description="`loss`: p = softmax(loss / temperature)")
    unit: Literal["batch", "sequence"] = Field("batch", description="what is drawn: whole batches, or windows")


class EvaluateSettings(Settings):
    """What is measured at the end and on the way."""

    text: list[str] = Field([], description="score these files instead of the held-out part of the corpus")
    bytes: Size = Field(4_000_000, gt=0, description="score at most so much text at the end")
    during: Size = Field(65_536, gt=0, description="score at most so much text at each evaluation on the way")
    prompts: list[str] = Field([], description="continue these as samples; none: the start of held-out text")


def _as_sources(value: object) -> object:
    if value is None or value == "":
        raise ValueError("no source of text is named")
    items = value if isinstance(value, list) else [value]
    return [{"source": item} if isinstance(item, str) else item for item in items]


class Recipe(Settings):
    """What one run is asked to do."""

    name: str = Field("custom", pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$", description="names the run")
    corpus: Annotated[list[SourceSpec], BeforeValidator(_as_sources)] = Field(
        [SourceSpec(source="builtin:python")], min_length=1, description="one source of text, or a list"
    )
    source: str | None = Field(None, alias="from", description="go on training this model directory")
    inherit: InheritSettings = InheritSettings()
    tokenizer: TokenizerSettings = TokenizerSettings()
    budget: Budget = Budget()
    model: ModelSettings = ModelSettings()
    objective: Literal["causal", "masked"] = Field(
        "causal", description="what is learned: `masked` makes an encoder (docs/encoders.md)"
    )
    masked: MaskedSettings = MaskedSettings()
    train: TrainSettings = TrainSettings()
    rounds: RoundSettings = RoundSettings()
    evaluate: EvaluateSettings = EvaluateSettings()
    seed: int = Field(0, ge=0, lt=2**31, description="decides initialisation and data order")

    @model_validator(mode="before")
    @classmethod
    def _encoders_are_bert(cls, values: Any) -> Any:
        if isinstance(values, dict) and values.get("objective") == "masked":
            model = values.get("model", {})
            if isinstance(model, dict):
                start = {"init": "neighbours"} if model.get("family", "bert") == "bert" else {}
                return {**values, "model": {"family": "bert", **start, **model}}
        return values

    @model_validator(mode="after")
    def _family_fits_objective(self) -> Recipe:
        masked = self.objective == "masked"
        if masked != (self.model.family == "bert"):
            raise ValueError("objective masked goes with model.family bert, and each with no other")
        asked = [name for name in ENCODERS if getattr(self.model, name) is not None]
        if not masked and (asked or self.masked != MaskedSettings()):
            raise ValueError(f"{f'model.{asked[0]}' if asked else 'masked'} is for objective=masked")
        return self

    @model_validator(mode="after")
    def _what_is_left_out(self) -> Recipe:
        if self.objective == "masked" and (keys := asked(self.train)):
            raise ValueError(f"train.{next(iter(keys))} is for objective=causal; an encoder has model.dropout")
        layers = self.train.layer_dropout is not None or self.train.exit_loss is not None
        check_routing(self.model, layers, taught=self.inherit.teacher is not None)
        if layers and self.inherit.distil:
            raise ValueError("inherit.distil goes with neither train.layer_dropout nor train.exit_loss")
        return self

    @model_validator(mode="after")
    def _units_are_no_pieces(self) -> Recipe:
        check_units(self)
        return self

    @model_validator(mode="after")
    def _inherit_needs_a_teacher(self) -> Recipe:
        asked = self.inherit.model_fields_set - {"teacher"}
        if self.inherit.teacher is None and self.inherit != InheritSettings():
            raise ValueError(f"inherit.{min(asked)} needs inherit.teacher, the model to inherit from")
        return self

    @model_validator(mode="after")
    def _rounds_need_a_count(self) -> Recipe:
        asked = self.rounds.model_fields_set
        if asked and "count" not in asked and self.rounds != RoundSettings():
            raise ValueError(f"rounds.{min(asked)} needs rounds.count: 2 or more, or 1 for no rounds")
        return self

    def to_dict(self) -> dict[str, Any]:
        """Plain values under the names people write; how to inherit only where there is a teacher, rounds, a law of the
        rate, tasks that judge layers, what is left out in training and what is for encoders only where they are asked
        for: a run without them is the run it was before there were any."""
        values = self.model_dump(by_alias=True)
        if self.inherit.teacher is None:
            del values["inherit"]
        else:
            for name in ("tasks", "data"):
                if not values["inherit"][name]:
                    del values["inherit"][name]
        if self.rounds.count == 1:
            del values["rounds"]
        if self.train.lr_law.lr is None:
            del values["train"]["lr_law"]
        if self.model.share == ShareSettings():
            del values["model"]["share"]
        for name in unasked(self.train):
            del values["train"][name]
        for name in ROUTING:
            if values["model"][name] is None:
                del values["model"][name]
        if self.objective == "causal":
            del values["masked"]
            for name in ENCODERS:
                del values["model"][name]
        if self.model.family != "byte-pool":
            for name in BYTE_POOLS:
                del values["model"][name]
        return values

    def to_yaml(self) -> str:
        """The recipe as a file that `load_recipe` reads."""
        return yaml.safe_dump(self.to_dict(), sort_keys=False, allow_unicode=True)


def shipped() -> dict[str, Path]:
    """Name and file of every recipe that ships."""
    folder = Path(str(resources.files("lilliput") / "recipes"))
    return {file.stem: file for file in sorted(folder.glob("*.yaml"))}


def known_keys(model: type[BaseModel] = Recipe, prefix: str = "") -> dict[str, str]:
    """Every dotted key a recipe may have, with its description."""
    keys: dict[str, str] = {}
    for name, field in model.model_fields.items():
        path = prefix + (field.alias or name)
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            keys |= known_keys(kind, f"{path}.")
        else:
            keys[path] = field.description or ""
    return keys


def load_recipe(name: str, settings: list[str] | None = None) -> Recipe:
    """The recipe called `name` (one that ships, or a YAML file) with dotted `key=value` settings applied.

    Raises ConfigError for an unknown recipe or key (naming the nearest) and for an impossible value.
    """
    values = _read(name)
    for setting in settings or []:
        _apply(values, setting)
    return build_recipe(values, where=name)


def build_recipe(values: dict[str, Any], *, where: str) -> Recipe:
    """A recipe from nested values; errors name the dotted key."""
    _refuse_unknown(values, Recipe, "", where)
    try:
        return Recipe.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"] if not _is_branch(part)) or "recipe"
        given = "" if isinstance(first["input"], dict) else f" (given: {first['input']!r})"
        reason = first["msg"].removeprefix("Value error, ")
        described = known_keys().get(key)
        mend = f"{key}: {described}" if described else "see the recipe's keys in docs/recipes.md"
        raise ConfigError(f"{key}: {reason}{given}", where=where, mend=mend) from None


def _is_branch(part: object) -> bool:
    """Pydantic names the branch of a union in the location; people do not write it."""
    return isinstance(part, str) and not re.fullmatch(r"[a-z][a-z0-9_]*", part)


def _read(name: str) -> dict[str, Any]:
    recipes = shipped()
    path = recipes.get(name, Path(name).expanduser())
    if not path.is_file():
        close = nearest(name, list(recipes))
        listed = f"recipes that ship: {', '.join(recipes)}; or name a file"
        mend = f"did you mean {close}?" if close else listed
        raise ConfigError(f"no recipe called {name!r}", where="RECIPE", mend=mend)
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        detail = " ".join(str(error).split())
        raise ConfigError(f"not valid YAML: {detail}", where=str(path), mend="mend the file") from None
    if values is None:
        raise ConfigError("the recipe is empty", where=str(path), mend="give it keys, see docs/recipes.md")
    if not isinstance(values, dict):
        raise ConfigError("a recipe is a mapping of keys", where=str(path), mend="see docs/recipes.md")
    values.setdefault("name", path.stem)
    return values


def _parse_value(text: str) -> Any:
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError:
        return text


def _apply(values: dict[str, Any], setting: str) -> None:
    key, equals, text = setting.partition("=")
    if not equals or not key:
        raise ConfigError(f"not a setting: {setting!r}", where="settings", mend="write key=value")
    here = values
    *path, last = key.split(".")
    for part in path:
        here = here.setdefault(part, {})
        if not isinstance(here, dict):
            raise ConfigError(f"{key}: {part} has no keys of its own", where="settings", mend=_hint(key))
    value = _parse_value(text)
    if key in HORIZONS:
        for other in HORIZONS - {key}:
            # A horizon given by hand replaces the recipe's own, whatever unit that has.
            here.pop(other.rpartition(".")[2], None)
    here[last] = value


HORIZONS = {"train.tokens", "train.bytes", "train.epochs"}


def _hint(key: str) -> str:
    close = nearest(key, list(known_keys()))
    return f"did you mean {close}?" if close else "see the recipe's keys in docs/recipes.md"


def _refuse_unknown(values: dict[str, Any], model: type[BaseModel], prefix: str, where: str) -> None:
    fields = {field.alias or name: field for name, field in model.model_fields.items()}
    for key, value in values.items():
        path = f"{prefix}{key}"
        if key not in fields:
            raise ConfigError(f"unknown key {path}", where=where, mend=_hint(path))
        kind = fields[key].annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            if not isinstance(value, dict):
                keys = ", ".join(f"{path}.{name}" for name in kind.model_fields)
                mend = f"write {path}.KEY=value"
                raise ConfigError(f"{path} has keys of its own: {keys}", where=where, mend=mend)
            _refuse_unknown(value, kind, f"{path}.", where)

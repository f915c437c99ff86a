"""What a ladder is asked to do: a recipe, how many seeds, which learning rates are tried, how large a teacher.

The recipe says what all arms share (text, budget, horizon, evaluation); its `tokenizer`, `model`, `inherit` and
`rounds` say how the rungs are made.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from lilliput.errors import ConfigError
from lilliput.evaluate.speed import BATCHES
from lilliput.lab.grid import fill_in
from lilliput.recipe import Recipe, ShareSettings, load_recipe
from lilliput.settle import identify
from lilliput.store import canonical_hash

# Raised when the arms change for the same request, so that an older ladder is not taken for it.
FORMAT = 1
# Shares of the rule's learning rate that are tried for every arm.
RATES = (0.5, 1.0, 2.0)
_TEACHER = "inherit.teacher=$TEACHER"
_COUNT = 2
# The recipe `demo` makes one model in minutes; six of them, one four times as large, take as long at this scale.
_DEMO = ("budget.params=250k", "train.tokens=1.6M", "inherit.layers=uniform", "evaluate.bytes=200k")


@dataclass(frozen=True)
class Ask:
    """recipe: with `inherit.teacher=$TEACHER`, the model that the ladder itself trains, and the last rung's rounds.
    words: what people typed after `lilliput ladder`. rates: shares of the rule's learning rate; one of them means that
    none is chosen. teacher_size: its parameters, times an arm's. teacher_bytes: the text it reads, times an arm's.
    batches: of the decoding speed."""

    recipe: Recipe
    words: tuple[str, ...] = ()
    seeds: int = 1
    rates: tuple[float, ...] = RATES
    teacher_size: float = 4.0
    teacher_bytes: float = 2.0
    tasks: tuple[str, ...] = ()
    data: str | None = None
    batches: tuple[int, ...] = BATCHES
    notes: tuple[str, ...] = field(default=(), compare=False)

    @property
    def texts(self) -> Recipe:
        """The recipe without teacher and tokenizer: what decides the corpus."""
        return bare(self.recipe)

    def request(self) -> dict[str, Any]:
        """What decides the arms; more seeds or tasks may be asked of the same ladder later. Of the recipe only what is
        not as it is by default, so that a key which a later version adds changes nothing."""
        return {
            "format": FORMAT,
            "recipe": self.recipe.model_dump(by_alias=True, exclude_defaults=True, exclude={"name"}),
            "rates": list(self.rates),
            "teacher": {"size": self.teacher_size, "bytes": self.teacher_bytes},
            "inputs": {name: canonical_hash(value) for name, value in identify(self._inputs()).items()},
        }

    def _inputs(self) -> Recipe:
        """The recipe as far as it names files."""
        asked = self.recipe.tokenizer
        kept = {"from": asked.source, "pattern": asked.pattern, "special": asked.special}
        named = Recipe.model_validate({**self.texts.to_dict(), "tokenizer": kept})
        return fill_in(named, "the ladder's recipe")

    def extent(self) -> dict[str, Any]:
        """What may grow: an answer holds for exactly this much."""
        return {"seeds": self.seeds, "tasks": list(self.tasks), "data": self.data, "batches": list(self.batches)}

    def all_seeds(self) -> list[int]:
        """The seeds, from the recipe's own on."""
        return [self.recipe.seed + number for number in range(self.seeds)]


def bare(recipe: Recipe) -> Recipe:
    """`recipe` without what the arms differ in: no tokenizer, shape, budget, teacher or rounds."""
    values = recipe.to_dict()
    for name in ("tokenizer", "budget", "model", "inherit", "rounds"):
        values.pop(name, None)
    return Recipe.model_validate(values)


def read_ask(name: str, settings: list[str], *, rates: tuple[float, ...] | None = None, **options: Any) -> Ask:
    """A ladder of the recipe `name` with dotted settings, checked; `options` are fields of `Ask`.

    rates: None for the usual ones. Raises ConfigError for what no ladder can be made of.
    """
    words = (name, *settings)
    notes: tuple[str, ...] = ()
    if name == "demo":
        settings = [*_DEMO, *settings]
        rates = rates or (1.0,)
        options = {"batches": (1,), **options}
        notes = (f"at demo scale, about five minutes on two cores: {' '.join(_DEMO)}",)
    recipe = _load(name, settings)
    _check(recipe)
    ask = Ask(recipe=recipe, words=words, rates=rates or RATES, notes=notes, **options)
    _check_options(ask)
    return ask


def _load(name: str, settings: list[str]) -> Recipe:
    """The recipe with what the last rungs add to it: the ladder's own teacher, and rounds."""
    keys = {setting.partition("=")[0]: setting.partition("=")[2] for setting in settings}
    try:
        plain: Recipe | None = load_recipe(name, settings)
    except ConfigError:
        # `inherit.…` without a teacher and `rounds.…` without a count; anything else is refused again below.
        plain = None
    if "inherit.teacher" in keys or (plain is not None and plain.inherit.teacher is not None):
        mend = "leave it out; how it teaches is set by inherit.neurons, inherit.layers and inherit.distil"
        raise ConfigError("a ladder trains its own teacher", where="inherit.teacher", mend=mend)
    if keys.get("rounds.count") == "1":
        raise ConfigError("the last rung has several rounds", where="rounds.count", mend="2 or more, or leave it out")
    counted = "rounds.count" in keys or (plain is not None and plain.rounds.count > 1)
    return load_recipe(name, [*settings, _TEACHER, *([] if counted else [f"rounds.count={_COUNT}"])])


def _check(recipe: Recipe) -> None:
    if recipe.source is not None:
        raise ConfigError("every arm of a ladder begins from nothing", where="from", mend="leave out from")
    if recipe.objective != "causal":
        raise ConfigError("a ladder is of models that write", where="objective", mend="leave out objective")
    if recipe.model.share != ShareSettings():
        reason = "arms of a ladder inherit, and layers that share weights cannot"
        raise ConfigError(reason, where="model.share", mend="leave it out")
    if recipe.inherit.tokenizer is not None:
        mend = "name the big tokenizer: tokenizer.from"
        raise ConfigError("a teacher that the ladder trains has no file", where="inherit.tokenizer", mend=mend)


def _check_options(ask: Ask) -> None:
    if ask.seeds < 1:
        raise ConfigError(f"seeds is {ask.seeds}", where="--seeds", mend="give 1 or more")
    if not ask.rates or len(set(ask.rates)) < len(ask.rates) or not all(0.01 <= rate <= 100 for rate in ask.rates):
        mend = "for example --rates 0.5,1,2; one alone means that none is chosen"
        raise ConfigError("rates are different shares of the rule's, from 0.01 to 100", where="--rates", mend=mend)
    if not 1.2 <= ask.teacher_size <= 64:
        reason = f"a teacher of {ask.teacher_size:g} times the parameters"
        raise ConfigError(reason, where="--teacher-size", mend="give 1.2 to 64; 4 is usual")
    if not 0.01 <= ask.teacher_bytes <= 100:
        reason = f"a teacher that reads {ask.teacher_bytes:g} times the text"
        raise ConfigError(reason, where="--teacher-bytes", mend="give 0.01 to 100; 2 is usual")
    if ask.tasks and ask.data is None:
        raise ConfigError("the tasks need their data", where="--task", mend="name the folder: --data DIR")

"""What a run is: checked before any work, identified by what decides its weights, settled once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from lilliput.compaction import read_recipe_source, tokenizer_place
from lilliput.corpus.sources import source_identity
from lilliput.device import pick_device
from lilliput.errors import ConfigError
from lilliput.export.hf import load_model_dir, read_config
from lilliput.lineage import check_inherit, child_of, tasks_of, teacher_of
from lilliput.model.byte_pool_config import BytePoolConfig
from lilliput.model.config import ModelConfig
from lilliput.plan.search import derive_shape
from lilliput.recipe import ModelSettings, Recipe, SourceSpec, build_recipe
from lilliput.store import canonical_hash, file_hash
from lilliput.tokenizer.compact import check_size
from lilliput.tokenizer.load import Tokenizer
from lilliput.tokenizer.units import FILE as UNITS
from lilliput.train.config import TrainConfig
from lilliput.train.derive import derive
from lilliput.train.metrics import check_tensorboard

# Text that no run comes to the end of.
_ENDLESS = 10**15
# Settings of `train` that the weights do not depend on: they may change when a run goes on.
FREE_SETTINGS = ("save_every", "eval_every", "tensorboard")


def check_request(recipe: Recipe) -> None:
    """Refuse what cannot be made, before any work. Raises UserError."""
    if recipe.train.tensorboard:
        check_tensorboard()
    _check_tokenizer(recipe)
    if recipe.inherit.teacher is not None:
        check_inherit(recipe)
        _check_rounds(recipe, lambda: child_of(recipe, teacher_of(recipe).config))
    elif recipe.source is None:
        shape = derive_shape(recipe, known_size(recipe))
        _check_rounds(recipe, lambda: shape)
    elif ignored := _ignored(recipe):
        raise ConfigError(
            f"a model that is trained further keeps its shape and tokenizer; {', '.join(ignored)} cannot be set",
            where=f"from={recipe.source}",
            mend=f"leave out {' and '.join(ignored)}, or leave out from",
        )
    else:
        shape = read_config(Path(str(recipe.source)).expanduser() / "config.json")
        _check_family(recipe, shape)
        _check_rounds(recipe, lambda: shape)


def _check_family(recipe: Recipe, shape: ModelConfig) -> None:
    """Refuse what the model that is trained further cannot have, as the recipe does where it names the family."""
    units = shape.family == "byte-pool"
    layers = {f"train.{name}": getattr(recipe.train, name) for name in ("layer_dropout", "exit_loss")}
    strange = {"rounds.count": recipe.rounds.count > 1} if units else {}
    strange |= layers if units or shape.capacity else {}
    if asked := [name for name, value in strange.items() if value]:
        reason = f"a {shape.family} model, as this one is, has no {asked[0]}"
        raise ConfigError(reason, where=f"from={recipe.source}", mend=f"leave out {' and '.join(asked)}")


def _check_rounds(recipe: Recipe, shape: Callable[[], ModelConfig]) -> None:
    """Refuse rounds that a run of this length cannot have, as far as its length is known before the text is read."""
    if recipe.rounds.count > 1 and recipe.train.bytes is None and recipe.train.epochs is None:
        train = recipe.train.model_copy(update={"compile": False})
        derive(train, shape(), _ENDLESS, _ENDLESS, recipe.seed, pick_device(), rounds=recipe.rounds)


def _ignored(recipe: Recipe) -> list[str]:
    """What is set although the model that is trained further decides it."""
    return [
        *(f"model.{name}" for name, value in recipe.model if value != ModelSettings.model_fields[name].default),
        *(["tokenizer.vocab_size"] if recipe.tokenizer.vocab_size else []),
        *(["tokenizer.from"] if recipe.tokenizer.source else []),
    ]


def _check_tokenizer(recipe: Recipe) -> None:
    asked = recipe.tokenizer
    if asked.compact is not None:
        tokenizer_place(recipe)
        if asked.vocab_size is not None:
            mend = "leave out tokenizer.vocab_size"
            raise ConfigError("compact and vocab_size both set the size", where="tokenizer.compact", mend=mend)
        if isinstance(asked.compact, int):
            check_size(read_recipe_source(recipe), asked.compact)
    elif asked.source is not None and asked.vocab_size is not None:
        mend = f"to cut it down: tokenizer.compact={asked.vocab_size}"
        raise ConfigError("a tokenizer that exists has its own size", where="tokenizer.vocab_size", mend=mend)
    if asked.source is None and (asked.pattern or asked.special) and recipe.model.family != "byte-pool":
        mend = "name a tiktoken file: tokenizer.from=FILE"
        raise ConfigError("pattern and special are for a tokenizer that exists", where="tokenizer", mend=mend)


def known_size(recipe: Recipe) -> int | None:
    """The vocabulary as far as it is known before the corpus is read."""
    asked = recipe.tokenizer
    if isinstance(asked.compact, int):
        return asked.compact
    if asked.source is None or asked.compact is not None:
        return None
    return Tokenizer.of(read_recipe_source(recipe)).vocab_size


def identify(recipe: Recipe) -> dict[str, Any]:
    """Content hashes of everything the run reads."""
    inputs: dict[str, Any] = {
        "corpus": [source_identity(spec) for spec in recipe.corpus],
        "text": [source_identity(SourceSpec(source=file)) for file in recipe.evaluate.text],
        "from": None,
        "tokenizer": None,
    }
    if recipe.source is not None:
        folder = Path(recipe.source).expanduser()
        load_model_dir(folder)
        names = ("config.json", "tokenizer.json", UNITS)
        files = [*(folder / name for name in names), *sorted(folder.glob("*.safetensors"))]
        inputs["from"] = {file.name: file_hash(file) for file in files if file.exists()}
    if recipe.inherit.teacher is not None:
        teacher = teacher_of(recipe)
        inputs["teacher"] = teacher.identity()
        if tasks := tasks_of(recipe, teacher.config):
            inputs["tasks"] = {task.name: task.hash for task in tasks}
    if recipe.tokenizer.source is not None:
        inputs["tokenizer"] = Tokenizer.of(read_recipe_source(recipe)).hash
    if recipe.tokenizer.compact is not None:
        # The new tokenizer's decoder, special tokens and chat template are the old one's.
        source = read_recipe_source(recipe)
        inputs["definition"] = canonical_hash([source.definition, source.config])
    return inputs


def training_identity(recipe: Recipe, inputs: dict[str, Any]) -> dict[str, Any]:
    """What decides the weights: a run directory belongs to one such value, however it is evaluated."""
    asked = recipe.to_dict()
    for free in ("name", "evaluate"):
        del asked[free]
    for free in FREE_SETTINGS:
        del asked["train"][free]
    # Where the text lies does not matter; what it says does, and that is in `inputs`.
    asked["corpus"] = [spec["weight"] for spec in asked["corpus"]]
    asked["from"] = asked["tokenizer"]["from"] = None
    if "inherit" in asked:
        asked["inherit"] |= {"teacher": None, "tokenizer": None}
        asked["inherit"].pop("data", None)
    return {"asked": asked, "inputs": {name: value for name, value in inputs.items() if name != "text"}}


def difference(before: dict[str, Any], now: dict[str, Any], prefix: str = "") -> str | None:
    """The first dotted key in which two nested values differ."""
    for key in sorted(before.keys() | now.keys()):
        one, two = before.get(key), now.get(key)
        if isinstance(one, dict) and isinstance(two, dict):
            if found := difference(one, two, f"{prefix}{key}."):
                return found
        elif one != two:
            return f"{prefix}{key}".removeprefix("asked.").replace("inputs.corpus", "corpus text")
    return None


def settle(recipe: Recipe, shape: ModelConfig, config: TrainConfig) -> str:
    """The recipe with every derived value filled in, as YAML."""
    values = recipe.to_dict()
    if recipe.source is None and recipe.inherit.teacher is None:
        if recipe.tokenizer.compact is not None:
            values["tokenizer"]["compact"] = shape.vocab_size
        elif recipe.tokenizer.source is None and not isinstance(shape, BytePoolConfig):
            # What was planned: the tokenizer may have turned out smaller where the text is short.
            values["tokenizer"]["vocab_size"] = derive_shape(recipe).vocab_size
        values["model"] |= {
            "depth": shape.depth,
            "width": shape.width,
            "heads": shape.heads,
            "kv_heads": shape.kv_heads,
            "head_dim": shape.head_dim,
            "expansion": None if recipe.model.ffn else shape.ffn / shape.width,
            "tied": None if isinstance(shape, BytePoolConfig) else shape.tied,
            "context": shape.context,
        }
        if shape.share is not None:
            values["model"]["share"]["lora"] = shape.share.lora or None
    values["train"].pop("lr_law", None)
    values["train"] |= training_values(config)
    return build_recipe(values, where="recipe.yaml").to_yaml()


def training_values(config: TrainConfig) -> dict[str, Any]:
    """The keys of `train` in a settled recipe, the same for every objective."""
    return {
        "tokens": config.tokens,
        "bytes": None,
        "epochs": None,
        "batch_tokens": config.batch_tokens,
        "lr": config.lr,
        "warmup": config.warmup_steps,
        "beta2": config.beta2,
        "compile": config.compile,
        "micro_batch": config.micro_sequences,
        "precision": config.precision,
        "threads": config.threads,
        "save_every": config.save_every,
        "eval_every": config.eval_every,
    }


def read_notes(file: Path) -> list[str]:
    """The notes at the head of a run's `recipe.yaml`."""
    lines = file.read_text(encoding="utf-8").splitlines()
    return [line.removeprefix("#   ") for line in lines if line.startswith("#   ")]

"""Runs as evidence: what each reached, and its shape.

Only runs that differ in nothing but their shape tell what a shape is worth, so each carries the group of runs that
it may be compared with: same text, same settings, same length.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, fields
from importlib import resources
from pathlib import Path
from typing import Any

from lilliput.errors import ConfigError, ModelError, StorageError
from lilliput.model.config import ModelConfig
from lilliput.store import canonical_hash, read_json

SHIPPED = "evidence.json"
_MEND = "remove it, or name another folder"
# What a shape decides or follows from: two runs that differ only here may be compared.
_SHAPE_KEYS = ("depth", "width", "heads", "kv_heads", "head_dim", "expansion", "tied", "family", "shortcut", "series")
_FREE = ("name", "seed", "budget", "evaluate")
_FREE_TRAIN = ("save_every", "eval_every", "tensorboard", "threads", "compile", "micro_batch")


@dataclass(frozen=True)
class Run:
    """One measured run. group: runs of one group differ in shape and seed alone. arm: its shape's name for people."""

    study: str
    arm: str
    seed: int
    group: str
    bits_per_byte: float
    shape: ModelConfig

    def to_dict(self) -> dict[str, Any]:
        """Plain values; the shape without what the rest of it says."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Run:
        """The reverse of `to_dict`."""
        return cls(**{**values, "shape": _shape(values["shape"])})


def shipped_runs() -> list[Run]:
    """The project's own runs, as they ship (collected from `results/` by bench/collect_evidence.py)."""
    file = Path(str(resources.files("lilliput.plan"))) / SHIPPED
    return [Run.from_dict(values) for values in read_json(file)["runs"]]


def collect(folder: Path) -> list[Run]:
    """Every run under `folder`: cells of studies and run directories.

    Raises ConfigError where there is none, and for a file that is damaged or no result of a run.
    """
    found = distinct(filter(_plannable, _runs(folder)))
    if not found:
        raise ConfigError(
            "there is no finished run", where=str(folder), mend="give a run directory, or a folder of studies' results"
        )
    return found


def distinct(runs: Iterable[Run]) -> list[Run]:
    """Each run once, the first: studies share cells, and a cell that stands in two of them is one measurement."""
    kept: dict[tuple[Any, ...], Run] = {}
    for run in runs:
        kept.setdefault((run.group, run.seed, run.bits_per_byte, run.shape), run)
    return list(kept.values())


def _runs(folder: Path) -> Iterator[Run]:
    for file in sorted(folder.rglob("cells/*.json")):
        cell = _json(file)
        # Studies of other things keep cells, too, and so does a cell that would not train.
        if isinstance(cell, dict) and cell.get("metric") == "bits_per_byte":
            yield _read(file, cell, _of_cell)
    for file in sorted(folder.rglob("results.json")):
        if (file.parent / "run.json").is_file():
            yield _read(file, _json(file), _of_run)


def _plannable(run: Run) -> bool:
    """Whether it says something of the shapes that are planned: a mixture of depths is no such shape."""
    return not run.shape.capacity


def _json(file: Path) -> Any:
    """The JSON value in a file that a person named: damaged, it is the request that is wrong."""
    try:
        return read_json(file)
    except StorageError as error:
        raise ConfigError(error.message, where=str(file), mend=_MEND) from None


def _read(file: Path, found: Mapping[str, Any], made_by: Callable[[Path, Mapping[str, Any]], Run]) -> Run:
    try:
        run = made_by(file, found)
        if not (isinstance(run.seed, int) and math.isfinite(run.bits_per_byte) and run.bits_per_byte > 0):
            raise ValueError(f"seed {run.seed!r}, bits per byte {run.bits_per_byte!r}")
        if not (isinstance(run.study, str) and isinstance(run.arm, str)):
            raise ValueError(f"study {run.study!r}, arm {run.arm!r}")
        return run
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ConfigError(f"not the result of a run: {_reason(error)}", where=str(file), mend=_MEND) from None


def _reason(error: Exception) -> str:
    return f"{error.args[0]} is absent" if isinstance(error, KeyError) else str(error)


def _of_cell(file: Path, cell: Mapping[str, Any]) -> Run:
    group = _group(cell["recipe"], cell["recipe"]["corpus"], cell["documents"]["text_hash"])
    return Run(cell["study"], cell["arm"], cell["seed"], group, cell["value"], _shape(cell["shape"]))


def _of_run(file: Path, results: Mapping[str, Any]) -> Run:
    identity = _json(file.parent / "run.json")
    asked = {**identity["asked"], "seed": results["recipe"]["seed"]}
    group = _group(asked, identity["inputs"]["corpus"], results["held_out"]["text_hash"])
    name = file.parent.name
    return Run(name, name, asked["seed"], group, results["bits_per_byte"], _shape(results["shape"]))


def _group(asked: Mapping[str, Any], corpus: Any, text: str) -> str:
    """The hash of everything that must be equal. asked: the recipe as it was asked."""
    kept = {key: value for key, value in asked.items() if key not in (*_FREE, "corpus")}
    kept["model"] = {key: value for key, value in asked["model"].items() if key not in _SHAPE_KEYS}
    kept["train"] = {key: value for key, value in asked["train"].items() if key not in _FREE_TRAIN}
    if asked["train"]["bytes"] is not None:
        # The same bytes of text whatever the vocabulary: vocabularies may be compared, too.
        kept["tokenizer"] = asked["tokenizer"]["from"]
    plain = {key: value for key, value in _asked(kept).items() if value}
    return canonical_hash({"asked": plain, "corpus": corpus, "text": text})[:16]


def _asked(value: Any) -> Any:
    """`value` without what is not asked (None), so that keys that come later change no group."""
    if isinstance(value, Mapping):
        return {key: _asked(inner) for key, inner in value.items() if inner is not None}
    return value


def _shape(values: Mapping[str, Any]) -> ModelConfig:
    names = {field.name for field in fields(ModelConfig)}
    try:
        return ModelConfig(**{key: value for key, value in values.items() if key in names})
    except ModelError as error:
        raise ValueError(str(error)) from None

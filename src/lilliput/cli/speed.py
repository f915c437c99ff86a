"""`lilliput speed`: how fast models write here, and with how much memory."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from lilliput.cli import options
from lilliput.cli.outcome import Answer

if TYPE_CHECKING:
    from lilliput.cli.speed_encoders import Read
    from lilliput.model.config import ModelConfig

_COLUMNS = ("model", "parameters", "batch", "tok/s a sequence", "tok/s in all", "first token", "peak memory")


class Target(NamedTuple):
    """What is measured. name: as the row shows it. folder: the model directory, None for random weights."""

    name: str
    shape: ModelConfig
    folder: Path | None


def speed(
    models: Annotated[
        list[str],
        typer.Argument(
            metavar="MODEL|PLAN…",
            help="A model directory, a run's folder, a plan (its file or folder) or a recipe; or encoders.",
            show_default=False,
        ),
    ],
    batch: Annotated[
        list[int] | None,
        typer.Option(help="Texts at once; may be repeated.", min=1, show_default="1 and 20; of encoders 1 and 32"),
    ] = None,
    prefix: Annotated[int, typer.Option(help="Tokens read first.")] = 2,
    new: Annotated[int, typer.Option(help="Tokens written.")] = 510,
    repeats: Annotated[int, typer.Option(help="Timed runs; the median counts.")] = 5,
    warmups: Annotated[int, typer.Option(help="Runs before them.")] = 2,
    dtype: Annotated[str, typer.Option(help="`fp32` or `bf16`.")] = "fp32",
    threads: Annotated[
        int | None, typer.Option(help="CPU threads.", min=1, max=1024, show_default="all cores, or OMP_NUM_THREADS")
    ] = None,
    length: Annotated[
        int | None, typer.Option(help="Encoders: positions of a text.", min=1, show_default="the model's most")
    ] = None,
    device: options.Device = "auto",
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> Answer:
    """Measure decoding speed: random or given weights, greedy, each model in a process of its own.

    Of encoders, classifiers and committees: how long a batch of texts takes to read, by PyTorch and ONNX Runtime.
    """
    options.be_quiet(quiet)
    if (encoders := _encoders(models)) is not None:
        from lilliput.cli.speed_encoders import speed_of_encoders

        return speed_of_encoders(encoders, batch, threads, length)
    from lilliput.device import machine, pick_device, versions
    from lilliput.evaluate.speed import BATCHES, check_dtype, check_protocol

    protocol = {"prefix": prefix, "new": new, "repeats": repeats, "warmups": warmups}
    check_protocol(**protocol)
    check_dtype(dtype, pick_device(device))
    targets = [find(name) for name in models]
    _warn_of_threads(threads)
    how = {"device": device, "dtype": dtype, "threads": threads, **protocol}
    rows = [
        _measure(target, size, {**how, "title": f"{_short(target.name)}, batch {size}"})
        for target in targets
        for size in dict.fromkeys(batch or BATCHES)
    ]
    data = {"rows": rows, "protocol": protocol, "machine": machine(), "versions": versions()}
    return Answer(data, table(rows, protocol))


def _encoders(models: list[str]) -> list[Read] | None:
    """The models, where all are encoders; None where none is. Raises ConfigError where only some are."""
    from lilliput.cli.speed_encoders import find_encoder
    from lilliput.errors import ConfigError

    found = [find_encoder(name) for name in models]
    kept = [one for one in found if one is not None]
    if kept and len(kept) < len(models):
        other = models[found.index(None)]
        mend = "time encoders in one call and models that write in another"
        raise ConfigError(f"{kept[0].name} reads and {other} writes", where="lilliput speed", mend=mend)
    return kept or None


def find(name: str) -> Target:
    """The model, plan or recipe that a person means; ConfigError or ModelError where there is none."""
    from lilliput.errors import ConfigError, nearest
    from lilliput.plan.proposal import PLAN
    from lilliput.recipe import load_recipe, shipped

    path = options.model_folder(Path(name))
    if not (path / "config.json").exists() and (path / PLAN).is_file():
        path = path / PLAN
    if path.is_dir() and ((path / "config.json").exists() or name not in shipped()):
        return _given(path)
    if not path.is_file() and name not in shipped():
        close = nearest(name, list(shipped()))
        kinds = f"give a model directory, a plan or a recipe: {', '.join(shipped())}"
        mend = f"did you mean {close}?" if close else kinds
        raise ConfigError(f"no model, plan or recipe called {name!r}", where="lilliput speed", mend=mend)
    from lilliput.plan.search import derive_shape
    from lilliput.settle import known_size

    recipe = load_recipe(str(path) if path.is_file() else name)
    shown = str(path.absolute()) if path.is_file() else name
    if recipe.source:
        return Target(shown, _given(options.model_folder(Path(recipe.source))).shape, None)
    return Target(shown, derive_shape(recipe, known_size(recipe)), None)


def _given(folder: Path) -> Target:
    from lilliput.errors import ModelError
    from lilliput.export.hf import read_config

    if not (folder / "config.json").is_file():
        raise ModelError(
            "there is no model here: config.json is absent",
            where=str(folder),
            mend="give the folder that `lilliput make` printed, or a Hugging Face model folder",
        )
    return Target(str(folder.absolute()), read_config(folder / "config.json"), folder)


def _measure(target: Target, batch: int, how: dict[str, Any]) -> dict[str, Any]:
    from dataclasses import asdict

    from lilliput.errors import ModelError
    from lilliput.evaluate.speed import measure_apart, speed_of_shape
    from lilliput.export.weights import read_weights

    if target.shape.family == "byte-pool":
        reason = "a byte-pooled model writes bytes, unit by unit: its tokens a second are not measured"
        raise ModelError(reason, where=target.name, mend="`lilliput generate --json` tells units a second of a text")
    if target.folder is None:
        found = speed_of_shape(target.shape, batch=batch, **how)
    else:
        found = measure_apart(partial(read_weights, target.folder, target.shape), batch=batch, **how)
    return {
        "model": target.name,
        "weights": "random" if target.folder is None else "given",
        "parameters": target.shape.parameters(),
        **found.to_dict(),
        "shape": asdict(target.shape),
    }


def _warn_of_threads(threads: int | None) -> None:
    from lilliput.progress import warn

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if threads is not None and threads > cores:
        warn(f"{threads} threads on {cores} cores: they will wait for one another")


def table(rows: list[dict[str, Any]], protocol: dict[str, int]) -> str:
    """The rows for people, and under them what they mean."""
    from lilliput.plan.rules import counted
    from lilliput.report.text import aligned

    shown = aligned([_COLUMNS, *(_cells(row) for row in rows)])
    first = rows[0]
    shown += [
        "",
        f"{first['device']}, {first['dtype']}, {counted(first['threads'], 'thread')}; "
        f"{protocol['prefix']} prefix and {protocol['new']} new tokens, greedy; "
        f"median of {counted(protocol['repeats'], 'run')} after {protocol['warmups']} to warm up",
        "peak memory: what loading and writing took beyond the process without a model",
    ]
    if any(row["rewinds"] for row in rows):
        shown.append("*: the text outgrows the context; each time it is full, its last half is read again")
    return "\n".join(shown)


def _cells(row: dict[str, Any]) -> tuple[str, ...]:
    peak = row["peak_mb"]
    return (
        _short(row["model"]) + ("*" if row["rewinds"] else ""),
        f"{row['parameters']:,}",
        str(row["batch"]),
        f"{row['per_sequence']:,.0f}",
        f"{row['total']:,.0f}",
        f"{row['first_token_ms']:.1f} ms",
        "unknown" if peak is None else f"{peak:,.1f} MB",
    )


def _short(name: str) -> str:
    """A path as people would type it from here."""
    path = Path(name)
    return str(path.relative_to(Path.cwd())) if path.is_absolute() and path.is_relative_to(Path.cwd()) else name

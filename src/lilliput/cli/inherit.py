"""`lilliput inherit`: a smaller model carved out of a bigger one."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lilliput.cli import options
from lilliput.cli.corpora import FieldName, parse_corpora
from lilliput.cli.outcome import Answer

if TYPE_CHECKING:
    from lilliput.recipe import Recipe

_WHERE = "lilliput inherit"
# What the child's dimensions are called here, and in a recipe.
_DIMENSIONS = {"layers": "depth", "hidden": "width", "heads": "heads", "kv_heads": "kv_heads", "ffn": "ffn"}
# What a message about the recipe's keys calls them here, longer keys first.
_SAID = {
    "inherit.masks.tokens": "--mask-tokens", "inherit.sequences": "--sequences", "inherit.tokenizer": "--tokenizer",
    "inherit.masks.weight_lr": "--weight-rate", "inherit.tasks": "--task", "inherit.data": "--data",
    "inherit.neurons": "--neurons", "inherit.teacher": "TEACHER", "inherit.layers": "--layers",
    "inherit.taylor": "--taylor", "inherit.group": "--group", "tokenizer.compact": "--compact",
    "budget.params=": "--params ", "budget.params": "--params", "model.kv_heads": "kv_heads", "model.depth": "layers",
    "model.width": "hidden", "model.heads": "heads", "model.ffn": "ffn",
}  # fmt: skip
Corpus = Annotated[
    list[str] | None,
    typer.Option(
        metavar="SOURCE",
        help="Text to judge by and, held out, to score on: a file, glob, folder, hf:NAME or builtin:python; may be "
        "repeated.",
        show_default=False,
    ),
]


def inherit(
    teacher: Annotated[
        Path,
        typer.Argument(help="The bigger model: a model directory, a run's folder, or a llama2.c checkpoint."),
    ],
    words: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[KEY=VALUE]…",
            help="The child's dimensions, layers=6 hidden=192 heads=6 kv_heads=6 ffn=512, and seed=0; those not named "
            "are the teacher's.",
            show_default=False,
        ),
    ] = None,
    params: Annotated[
        str | None, typer.Option(help="The best child of at most so many parameters: 4M.", show_default=False)
    ] = None,
    plan: Annotated[
        Path | None, typer.Option(metavar="FILE", help="The shape that `plan --out` wrote.", show_default=False)
    ] = None,
    layers: Annotated[
        str | None,
        typer.Option(
            help="How layers are chosen: importance, importance=TASK, ends, uniform, first, keep=0,1,5 or learned.",
            show_default="importance",
        ),
    ] = None,
    task: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="Judge layers by a task beside bits per byte; may be repeated."),
    ] = None,
    data: Annotated[
        Path | None, typer.Option(metavar="DIR", help="The folder that holds the tasks' rows.", show_default=False)
    ] = None,
    neurons: Annotated[
        str, typer.Option(help="How neurons, heads and channels are chosen: random, l1, l2, taylor, learned.")
    ] = "taylor",
    taylor: Annotated[str, typer.Option(help="Which Taylor score: vector, first, second, mix.")] = "first",
    group: Annotated[
        str, typer.Option(help="How key-value heads are put together where fewer are asked: mean, first, random.")
    ] = "mean",
    compact: Annotated[
        str | None,
        typer.Option(help="Cut the tokenizer down first: to N pieces, a coverage (97%) or rule.", show_default=False),
    ] = None,
    corpus: Corpus = None,
    field: FieldName = "text",
    sequences: Annotated[int, typer.Option(help="Sequences of text that Taylor scores are taken over.", min=1)] = 128,
    mask_tokens: Annotated[
        str | None, typer.Option(help="Text to learn masks on.", show_default="400 steps of 8 windows")
    ] = None,
    weight_rate: Annotated[
        float, typer.Option(help="Learning rate of the weights beside the masks; small teachers stand 0.003.")
    ] = 1e-4,
    tokenizer: Annotated[
        Path | None, typer.Option(metavar="FILE", help="llama2.c: the tokenizer.bin.", show_default=False)
    ] = None,
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Where the child goes.", show_default=False)
    ] = None,
    device: options.Device = "auto",
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> Answer:
    """Carve a smaller model out of a bigger one: choose its layers, heads, neurons and channels, and copy them.

    The child is plain: it loads wherever the teacher does. The same command again goes on where it stopped.
    """
    options.be_quiet(quiet)
    from lilliput.errors import ConfigError

    if out is None:
        raise ConfigError("where shall the child go?", where=_WHERE, mend="name a folder: --out DIR")
    specs, _ = parse_corpora(corpus, field)
    place = teacher.expanduser()
    place = (options.model_folder(place) if place.is_dir() else place).absolute()
    model, seed = _dimensions(words or [])
    if plan is not None:
        model = {**_planned(plan, place, tokenizer, compact), **model}
    _check(layers, sized=bool(model or params or compact))
    how = {
        "teacher": str(place), "tokenizer": _absolute(tokenizer), "layers": layers, "tasks": task or [],
        "data": _absolute(data), "neurons": neurons, "taylor": taylor, "group": group, "sequences": sequences,
        "masks": {"tokens": mask_tokens, "weight_lr": weight_rate},
    }  # fmt: skip
    values = {
        "name": "inherit",
        "corpus": [spec.model_dump() for spec in specs],
        "inherit": how,
        "model": model,
        "tokenizer": {"compact": compact},
        "budget": {"params": params},
        "seed": seed,
    }
    try:
        found = _carve(_recipe(values), out.expanduser().absolute(), device)
    except ConfigError as error:
        said = (_said(part or "") for part in (error.message, error.where, error.mend))
        raise ConfigError(next(said), where=next(said), mend=next(said)) from None
    return Answer(found, _text(found))


def _check(layers: str | None, *, sized: bool) -> None:
    """Refuse what asks for no child. sized: whether anything else says how small it shall be."""
    from lilliput.errors import ConfigError

    if layers is not None and layers.isdecimal():
        mend = f"did you mean layers={layers}, how many there shall be?"
        raise ConfigError(f"no way to choose layers: {layers}", where="--layers", mend=mend)
    if not (sized or (layers or "").startswith("keep=")):
        mend = "--params 4M, --plan FILE, or dimensions such as layers=6 hidden=192"
        raise ConfigError("how small shall the child be?", where=_WHERE, mend=mend)


def _absolute(path: Path | None) -> str | None:
    return None if path is None else str(path.expanduser().absolute())


def _recipe(values: dict[str, Any]) -> Recipe:
    from lilliput.recipe import build_recipe

    return build_recipe(values, where=_WHERE)


def _said(text: str) -> str:
    """A message about a recipe's keys in the words of this command."""
    for key, word in _SAID.items():
        text = text.replace(key, word)
    return text


def _carve(recipe: Recipe, out: Path, device: str) -> dict[str, Any]:
    from lilliput.device import pick_device
    from lilliput.inheritance import inherit_model
    from lilliput.store import Store

    return inherit_model(recipe, out, Store(), pick_device(device))


def _planned(plan: Path, place: Path, tokenizer: Path | None, compact: str | None) -> dict[str, Any]:
    """The recipe's keys for the shape of a plan."""
    from dataclasses import replace

    from lilliput.export.teacher import open_teacher
    from lilliput.plan.child import target_of_plan
    from lilliput.recipe import parse_compact

    teacher = open_teacher(place, tokenizer).config
    size = parse_compact(compact)
    if isinstance(size, int):
        teacher = replace(teacher, vocab_size=size)
    target = target_of_plan(plan.expanduser(), teacher)
    return {key: value for name, key in _DIMENSIONS.items() if (value := getattr(target, name)) is not None}


def _dimensions(words: list[str]) -> tuple[dict[str, Any], int]:
    """(the recipe's keys for the child's shape, the seed). Raises ConfigError for words that say something else."""
    from lilliput.errors import ConfigError, nearest

    found: dict[str, Any] = {}
    seen: set[str] = set()
    seed = 0
    for word in words:
        name, _, text = word.partition("=")
        if name not in (*_DIMENSIONS, "seed"):
            close = nearest(name, [*_DIMENSIONS, "seed"])
            mend = f"did you mean {close}=?" if close else f"dimensions: {', '.join(_DIMENSIONS)}, and seed"
            raise ConfigError(f"not a dimension of the child: {word!r}", where=_WHERE, mend=mend)
        if name in seen:
            raise ConfigError(f"{name} is given twice", where=_WHERE, mend="give it once")
        seen.add(name)
        if not (text.isascii() and text.isdecimal()):
            raise ConfigError(f"{name} is a whole number, not {text!r}", where=_WHERE, mend=f"write {name}=8")
        if name == "seed":
            seed = int(text)
        else:
            found[_DIMENSIONS[name]] = int(text)
    return found, seed


def _text(data: dict[str, Any]) -> str:
    """What came of it, for people."""
    teacher, kept, bits = data["teacher"], data["neurons"]["kept"], data["held_out"]
    shape = data["child"]["shape"]

    def told(found: dict[str, Any] | None) -> str:
        if found is None:
            return "not scored: too large for this machine"
        interval = "" if found["low"] is None else f"  ({found['low']:.4f} to {found['high']:.4f})"
        return f"{found['value']:.4f}{interval}"

    rows = [
        ("child", data["out"]),
        ("parameters", f"{data['parameters']:,} of {teacher['parameters']:,}"),
        ("layers", f"{_listed(data['layers']['kept'])} of {teacher['shape']['depth']}, by {data['layers']['how']}"),
        ("kept a layer", f"{shape['heads']} heads, {kept['ffn']:,} neurons, {kept['hidden']:,} channels, "
                         f"by {data['neurons']['how']}"),
        *(("", note) for note in data["notes"]),
        ("bits per byte", f"teacher {told(bits['teacher'])}"),
        ("", f"child   {told(bits['child'])}  {_when(data)}"),
        ("seconds", ", ".join(f"{name} {value:.1f}" for name, value in data["cost"]["seconds"].items())),
        ("report", data["report"]),
    ]  # fmt: skip
    lines = [f"{name:<15}{value}" for name, value in rows]
    lines += ["", "Next:", f"  lilliput make from={shlex.quote(data['out'])} corpus=FILE train.tokens=5M"]
    return "\n".join(lines)


def _when(data: dict[str, Any]) -> str:
    """Since when the child is scored: masks are learned together with the weights."""
    if data["masks"] is None:
        return "before any further training"
    return f"after {data['masks']['steps']:,} steps in which masks and weights were learned"


def _listed(layers: list[int]) -> str:
    """0–3, 7 for [0, 1, 2, 3, 7]."""
    runs: list[list[int]] = []
    for layer in layers:
        if runs and runs[-1][-1] == layer - 1:
            runs[-1].append(layer)
        else:
            runs.append([layer])
    return ", ".join(f"{run[0]}–{run[-1]}" if len(run) > 1 else str(run[0]) for run in runs)

"""`lilliput ladder`: what each component of PanGu-π Pro buys, rung by rung."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lilliput.cli import options
from lilliput.cli.make import split_words
from lilliput.cli.outcome import Answer

if TYPE_CHECKING:
    from lilliput.lab.ladder.ask import Ask


def ladder(
    words: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[RECIPE] [KEY=VALUE]…",
            help="A recipe as `lilliput make` takes it: text, budget and horizon of every arm; its tokenizer, model, "
            "inherit and rounds say how the rungs are made.",
            show_default="demo",
        ),
    ] = None,
    seeds: Annotated[int, typer.Option(help="Seeds of every arm; one shows nothing for certain.", min=1)] = 1,
    rates: Annotated[
        str | None,
        typer.Option(
            help="Shares of the rule's learning rate to try for every arm; one alone: none is chosen.",
            show_default="0.5,1,2; 1 for demo",
        ),
    ] = None,
    teacher_size: Annotated[float, typer.Option(help="The teacher's parameters, times an arm's.")] = 4.0,
    teacher_bytes: Annotated[float, typer.Option(help="The text the teacher reads, times an arm's.")] = 2.0,
    task: Annotated[
        list[str] | None, typer.Option(help="Also measure this task; may be repeated.", show_default=False)
    ] = None,
    data: Annotated[str | None, typer.Option(help="The folder with the tasks' rows.", show_default=False)] = None,
    out: Annotated[
        Path | None, typer.Option(help="The ladder's folder; by default one under runs/.", show_default=False)
    ] = None,
    device: options.Device = "auto",
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> Answer:
    """What a compact tokenizer, the architecture, inheritance and several rounds each buy.

    Five arms of equal parameters and equal training bytes, each with one thing more. The same command again goes on
    where it stopped, or answers at once; processes that share the folder share the work.
    """
    options.be_quiet(quiet)
    from lilliput.lab.ladder.ask import read_ask
    from lilliput.lab.ladder.run import run_ladder
    from lilliput.report.ladder_text import ladder_text

    name, settings = split_words(words or [])
    ask = read_ask(
        name,
        settings,
        rates=_rates(rates),
        seeds=seeds,
        teacher_size=teacher_size,
        teacher_bytes=teacher_bytes,
        tasks=tuple(dict.fromkeys(task or ())),
        data=data,
    )
    found = run_ladder(ask, out or default_folder(ask), device=device)
    return Answer(_short(found), ladder_text(found))


def _rates(given: str | None) -> tuple[float, ...] | None:
    """`0.5,1,2` → (0.5, 1.0, 2.0)."""
    if given is None:
        return None
    from lilliput.errors import ConfigError

    try:
        return tuple(float(part) for part in given.split(","))
    except ValueError:
        mend = "for example --rates 0.5,1,2"
        raise ConfigError(f"no list of numbers: {given}", where="--rates", mend=mend) from None


def default_folder(ask: Ask) -> Path:
    """`runs/ladder-NAME` for a recipe as it ships, `runs/ladder-NAME-1a2b3c4d` where words or options make it another
    ladder."""
    from lilliput.lab.ladder.ask import read_ask
    from lilliput.store import canonical_hash

    def decisive(one: Ask) -> dict[str, Any]:
        teacher = [one.teacher_size, one.teacher_bytes]
        return {"recipe": one.recipe.to_dict(), "rates": one.rates, "teacher": teacher}

    plain, asked = Path("runs", f"ladder-{ask.recipe.name}"), decisive(ask)
    alone = len(ask.words) < 2 and ask.recipe.name == ask.words[0]
    if alone and asked == decisive(read_ask(ask.words[0], [])):
        return plain
    return plain.with_name(f"{plain.name}-{canonical_hash(asked)[:8]}")


def _short(found: dict[str, Any]) -> dict[str, Any]:
    """What `--json` prints: all but the curves, which `ladder.json` has."""
    return {name: value for name, value in found.items() if name != "curves"}

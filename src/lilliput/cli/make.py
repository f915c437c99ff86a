"""`lilliput make`: one recipe, one model directory and its report."""

from __future__ import annotations

import shlex
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lilliput.cli import options
from lilliput.cli.outcome import Answer

if TYPE_CHECKING:
    from lilliput.recipe import Recipe

_DEFAULT = "demo"
_SAMPLE_LINES = 12
# Of all that results.json holds, what `--json` prints.
_ANSWER = (
    "name", "model", "run", "report", "parameters", "bits_per_byte", "held_out", "baselines", "samples", "cost",
    "unshared",
)  # fmt: skip


def make(
    words: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[RECIPE] [KEY=VALUE]…",
            help="A recipe that ships (demo, tiny, small, base) or a YAML file, then settings such as "
            "corpus=FILE, budget.params=300k, train.tokens=5M, seed=1.",
            show_default=_DEFAULT,
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="The run's folder; by default one under runs/.", show_default=False)
    ] = None,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> Answer:
    """Make a tiny language model from text: one recipe, one model directory and its report.

    The same command again goes on where it stopped, or answers at once if all is done.
    """
    options.be_quiet(quiet)
    from lilliput.recipe import load_recipe

    name, settings = split_words(words or [])
    recipe = load_recipe(name, settings)
    from lilliput.pipeline import make as run_pipeline
    from lilliput.store import Store

    folder = (out.expanduser() if out else default_folder(recipe)).absolute()
    made = run_pipeline(recipe, folder, Store())
    if not made:
        # Under torchrun the main process alone has an answer.
        return Answer(None, None)
    masked = recipe.objective == "masked"
    names = (*_ANSWER, "masked_loss", "guesses") if masked else _ANSWER
    data = {name: made[name] for name in names if name in made}
    return Answer(data, closing_masked(made) if masked else closing(made))


def split_words(words: list[str]) -> tuple[str, list[str]]:
    """The recipe's name, and the settings.

    The first word is the recipe unless it is a setting; a file's name may hold `=` too.
    """
    first = words[0] if words else None
    if first is not None and ("=" not in first or Path(first).is_file()):
        return first, words[1:]
    return _DEFAULT, words


def default_folder(recipe: Recipe) -> Path:
    """`runs/NAME` for a recipe as it ships, `runs/NAME-1a2b3c4d` where settings make it another."""
    from lilliput.errors import ConfigError
    from lilliput.recipe import load_recipe, shipped
    from lilliput.store import canonical_hash

    plain = Path("runs", recipe.name)
    try:
        as_shipped = recipe.name in shipped() and recipe == load_recipe(recipe.name)
    except ConfigError:
        as_shipped = False
    return plain if as_shipped else plain.with_name(f"{recipe.name}-{canonical_hash(recipe.to_dict())[:8]}")


def closing(made: dict[str, Any]) -> str:
    """The last words of a run: what was made, how good it is, and what to do with it."""
    from lilliput.report.text import bits_name

    model = shlex.quote(_short(made["model"]))
    held = made["held_out"]
    low, high = held.get("low"), held.get("high")
    interval = "" if low is None or high is None else f"  (95 % interval {low:.4f} to {high:.4f})"
    rows = [
        ("model", _short(made["model"])),
        ("parameters", f"{made['parameters']:,}"),
        *_arithmetic(made),
        ("report", _short(made["report"])),
        ("", ""),
        (bits_name(held), f"{held['bits_per_byte']:.4f}{interval}"),
        ("  xz -9", f"{made['baselines']['xz']:.4f}  on the same held-out text"),
        ("  uniform", f"{made['baselines']['uniform']:.4f}"),
    ]
    wide = max(15, len(bits_name(held)) + 2)
    lines = ["", *(f"{name:<{wide}}{value}".rstrip() for name, value in rows)]
    if made["samples"]:
        sample = made["samples"][0]
        lines += ["", "What it writes:", "", *_shown(f"{sample['prompt']}{sample['text']}")]
    lines += [
        "",
        "Next:",
        f"  lilliput generate {model} --prompt {shlex.quote(_opening(made['samples']))}",
        f"  lilliput chat {model}",
        f"  lilliput evaluate {model} --text FILE",
    ]
    return "\n".join(lines)


def _arithmetic(made: dict[str, Any]) -> list[tuple[str, str]]:
    """The work of a token, where the stored parameters do not tell it, since layers share them."""
    if "unshared" not in made:
        return []
    work = made["unshared"]
    return [("FLOPs a token", f"{work['flops_per_token']:,.0f}, as {work['parameters']:,} parameters unshared")]


def closing_masked(made: dict[str, Any]) -> str:
    """The same for an encoder."""
    held, model = made["held_out"], shlex.quote(_short(made["model"]))
    interval = "" if held["low"] is None else f"  (95 % interval {held['low']:.4f} to {held['high']:.4f})"
    rows = [
        ("model", _short(made["model"])),
        ("parameters", f"{made['parameters']:,}"),
        ("report", _short(made["report"])),
        ("", ""),
        ("masked loss", f"{held['value']:.4f} nats a masked token{interval}"),
        ("guessed right", f"{held['accuracy']:.1%} of {held['masked']:,} masked tokens"),
    ]
    lines = ["", *(f"{name:<15}{value}".rstrip() for name, value in rows)]
    for one in made["guesses"][:3]:
        best = ", ".join(f"{guess['piece']} {guess['probability']:.0%}" for guess in one["guesses"][:4])
        text = textwrap.shorten(f"{one['before'][-40:]} [{one['hidden']}] {one['after'][:40]}", 96)
        lines += ["", f"  | {text}", f"    {best}"]
    lines += ["", "Next:", f"  lilliput classify {model} --train FILE --test FILE"]
    return "\n".join(lines)


def _opening(samples: list[dict[str, Any]]) -> str:
    """A few words to begin with, of the kind the model knows."""
    first = samples[0]["prompt"].strip().splitlines()[:1] if samples else []
    return textwrap.shorten("".join(first), 32, placeholder="") or "Once upon a time"


def _shown(text: str) -> list[str]:
    """The first lines of a sample, set off from our own words."""
    wrapped = [part for line in text.strip().splitlines() for part in textwrap.wrap(line, 96) or [""]]
    return [f"  | {line}".rstrip() for line in wrapped[:_SAMPLE_LINES]]


def _short(path: str) -> str:
    """`path` as people would type it from here."""
    here = Path.cwd()
    full = Path(path)
    return str(full.relative_to(here)) if full.is_relative_to(here) else str(full)

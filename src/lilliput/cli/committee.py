"""`lilliput committee`: several small classifiers that vote."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from lilliput.cli import classify as options_of
from lilliput.cli import options
from lilliput.cli.outcome import Answer


def committee(
    words: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[RECIPE] [KEY=VALUE]…",
            help="What each member is pre-trained by; objective=masked is understood. Or give --encoder.",
            show_default=False,
        ),
    ] = None,
    encoder: Annotated[
        list[Path] | None,
        typer.Option(help="In place of a recipe: encoders that are there; may be repeated.", show_default=False),
    ] = None,
    scratch: Annotated[bool, typer.Option("--scratch", help="With --encoder: take shape and tokenizer alone.")] = False,
    members: Annotated[
        int | None, typer.Option(help="How many; 5, or one for each --encoder.", min=2, max=100, show_default=False)
    ] = None,
    data: options_of.Data = None,
    train: options_of.Train = None,
    test: options_of.Test = None,
    text_field: options_of.TextField = None,
    label_field: options_of.LabelField = None,
    per_label: options_of.PerLabel = None,
    epochs: options_of.Epochs = 10.0,
    seed: Annotated[int, typer.Option(help="The first member's seed.", min=0)] = 0,
    batch: options_of.Batch = 32,
    lr: options_of.Rate = None,
    length: options_of.Length = None,
    balanced: options_of.Balanced = False,
    vote: Annotated[str, typer.Option(help="How the saved model sums: softmax or logits.")] = "softmax",
    out: options_of.Out = None,
    device: options.Device = "auto",
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> Answer:
    """Train members that know nothing of one another, each with its own seed, and measure what they say together.

    Accuracy against the number of members, how often they differ, how long they take; saved as one classifier.
    """
    options.be_quiet(quiet)
    from dataclasses import asdict

    from lilliput.cli.make import split_words
    from lilliput.committee import Members
    from lilliput.committee import committee as run
    from lilliput.errors import ConfigError
    from lilliput.recipe import load_recipe
    from lilliput.store import Store, canonical_hash
    from lilliput.tuning import Tuning

    if bool(words) == bool(encoder):
        mend = "a recipe and settings (tiny corpus=FILE), or --encoder DIR"
        raise ConfigError("members come from a recipe or from encoders", where="lilliput committee", mend=mend)
    if scratch and not encoder:
        raise ConfigError("--scratch is for --encoder", where="--scratch", mend="--encoder DIR names the shape")
    recipe = None
    if words:
        name, settings = split_words(words)
        recipe = load_recipe(name, ["objective=masked", *settings])
    folders = tuple(options.model_folder(path) for path in encoder or ())
    count = members or (max(2, len(folders)) if folders else 5)
    if count < len(folders):
        mend = f"--members {len(folders)}, or fewer encoders"
        raise ConfigError(f"{count} members leave some of {len(folders)} encoders out", where="--members", mend=mend)
    given = Members(recipe, folders, tuple(range(seed, seed + count)), scratch)
    labelled = options_of.read_data(data, train, test, options_of.fields_of(text_field, label_field))
    tuning = Tuning(
        epochs=epochs, batch=batch, lr=lr, length=length or Tuning.length, balanced=balanced, per_label=per_label
    )
    origin = recipe.to_dict() if recipe else [str(path) for path in folders]
    mark = canonical_hash([origin, scratch, count, seed, asdict(tuning), vote])[:8]
    folder = out or Path("runs", f"committee-{labelled.name}-{mark}")
    results = run(given, labelled, tuning, vote, folder.expanduser().absolute(), Store(), device)
    return Answer(results, "\n".join(_lines(results)))


def _lines(results: dict[str, Any]) -> list[str]:
    from lilliput.report.classifier_card import points
    from lilliput.report.text import aligned

    sizes = [["members", "summed softmax", "least", "most", "summed logits"]]
    for row in results["by_size"]:
        soft, plain = row["softmax"], row["logits"]
        figures = (soft["value"], soft["least"], soft["most"], plain["value"])
        sizes.append([str(row["members"]), *(f"{figure:.2%}" for figure in figures)])
    times = [["milliseconds", "one member", "one after another", "in parallel"]]
    for row in results["latency"]:
        names = ("one_member", "one_after_another", "in_parallel")
        times.append([f"batch {row['batch']}", *(f"{row[name]['ms']:.2f}" for name in names)])
    mine, base = results[results["vote"]], results["baseline"]
    gain = mine["gain"]
    rows = [
        ["together", points(mine["accuracy"])],
        ["gain over a member", f"{100 * gain['value']:+.2f} [{100 * gain['low']:+.2f}, {100 * gain['high']:+.2f}]"],
        ["two members differ", f"{results['disagreement']:.2%}"],
        ["one at least is right", f"{results['oracle']:.2%}"],
        [base["name"], points(base["accuracy"])],
    ]
    shared = ["the members share their pre-training"] if results["shared_pretraining"] else []
    tables = [*aligned(rows, words=True), *shared, "", *aligned(sizes), "", *aligned(times)]
    return ["", *tables, "", f"model  {results['model']}"]

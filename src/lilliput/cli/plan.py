"""`lilliput plan`: the shapes that fit a budget, ranked, with what each costs here."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lilliput.cli import options
from lilliput.cli.outcome import Answer

if TYPE_CHECKING:
    from lilliput.plan.latency import Calibration
    from lilliput.recipe import Recipe

_WHERE = "lilliput plan"


def plan(
    params: Annotated[str | None, typer.Option(help="At most so many parameters: 8M.", show_default=False)] = None,
    size: Annotated[
        str | None, typer.Option("--bytes", help="At most so many bytes of weights: 8MB.", show_default=False)
    ] = None,
    bits: Annotated[int | None, typer.Option(help="Bits a weight on the device: 16, 8, 4.", show_default="16")] = None,
    speed: Annotated[
        float | None, typer.Option(help="At least so many tokens a second here, batch 1.", show_default=False)
    ] = None,
    context: Annotated[str | None, typer.Option(help="Positions the model sees.", show_default="derived")] = None,
    vocab: Annotated[str | None, typer.Option(help="Pieces of the tokenizer.", show_default="derived")] = None,
    tokenizer: Annotated[
        str | None, typer.Option(metavar="SOURCE", help="An existing tokenizer instead.", show_default=False)
    ] = None,
    family: Annotated[str, typer.Option(help="`llama`, `pangu` or `byte-pool`.")] = "llama",
    depth: Annotated[int | None, typer.Option(help="Layers.", show_default="searched")] = None,
    width: Annotated[int | None, typer.Option(help="Hidden size.", show_default="searched")] = None,
    heads: Annotated[int | None, typer.Option(help="Attention heads.", show_default="searched")] = None,
    kv_heads: Annotated[int | None, typer.Option(help="Key and value heads.", show_default="searched")] = None,
    head_dim: Annotated[int | None, typer.Option(help="Channels a head.", show_default="searched")] = None,
    expansion: Annotated[
        float | None, typer.Option(help="Feed-forward over hidden size.", show_default="searched")
    ] = None,
    tied: Annotated[
        bool | None, typer.Option("--tied/--untied", help="One table or two.", show_default="tied below 1B")
    ] = None,
    share: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KEY=VALUE", help="What layers share: ffn=all, loops=2, lora=auto; repeatable.", show_default=False
        ),
    ] = None,
    tokens: Annotated[str | None, typer.Option(help="Training tokens.", show_default="20 a parameter")] = None,
    count: Annotated[int, typer.Option(help="Plans to show.", min=1, max=100)] = 8,
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Write plan.yaml, plans.json, plan.html.", show_default=False)
    ] = None,
    choose: Annotated[int, typer.Option(metavar="N", help="The plan that plan.yaml holds.", min=1)] = 1,
    measure: Annotated[bool, typer.Option("--measure", help="Also measure the speed of the plans shown.")] = False,
    no_speed: Annotated[bool, typer.Option("--no-speed", help="Do not calibrate: no speeds and hours.")] = False,
    recalibrate: Annotated[bool, typer.Option("--recalibrate", help="Measure this machine again.")] = False,
    explain: Annotated[bool, typer.Option("--explain", help="Show what the ranking rests on.")] = False,
    evidence: Annotated[
        list[Path] | None,
        typer.Option(metavar="DIR", help="Learn from these runs, too; may be repeated.", show_default=False),
    ] = None,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> Answer:
    """Plan a model: the shapes that fit a budget, ranked by what runs have shown, with what each costs here."""
    options.be_quiet(quiet)
    from lilliput.errors import ConfigError
    from lilliput.plan.proposal import propose
    from lilliput.settle import known_size

    if no_speed and (measure or speed is not None):
        mend = "leave out --no-speed"
        raise ConfigError("a speed that is asked for has to be measured", where=f"{_WHERE} --no-speed", mend=mend)
    if family == "mixture-of-depths":
        mend = "plan a llama, and give `make` its shape and model.family=mixture-of-depths"
        raise ConfigError("shapes are not planned for a mixture of depths", where=f"{_WHERE} --family", mend=mend)
    model: dict[str, Any] = {"family": family, "depth": depth, "width": width, "heads": heads, "kv_heads": kv_heads}
    model |= {"head_dim": head_dim, "expansion": expansion, "tied": tied, "context": context}
    model["share"] = _shared(share or [])
    recipe = _recipe(
        {"params": params, "bytes": size, "bits": bits, "speed": speed}, model, vocab, tokenizer, {"tokens": tokens}
    )
    prior = _prior(evidence or [])
    calibration = None if no_speed else _calibration(recalibrate)
    data = propose(recipe, known_size(recipe), prior, calibration, count)
    if choose > len(data["plans"]):
        mend = f"give 1 to {len(data['plans'])}, or a larger --count"
        raise ConfigError(f"there is no plan {choose}", where=f"{_WHERE} --choose", mend=mend)
    if measure:
        _measure(data["plans"])
    data |= {"budget": recipe.budget.model_dump(), "files": None}
    if explain:
        from lilliput.plan.explain import explanation

        data["evidence"] = explanation(prior)
    if out:
        data["files"] = _write(data, recipe, out.expanduser().absolute(), choose)
    from lilliput.report.plan_text import plan_text

    return Answer(data, plan_text(data))


def _shared(settings: list[str]) -> dict[str, Any]:
    """`model.share` from its own settings."""
    from lilliput.errors import ConfigError

    found: dict[str, Any] = {}
    for setting in settings:
        key, equals, text = setting.partition("=")
        if not equals:
            raise ConfigError(f"not a setting: {setting!r}", where=f"{_WHERE} --share", mend="write key=value: ffn=all")
        found[key] = int(text) if text.isdecimal() else text
    return found


def _recipe(
    budget: dict[str, Any], model: dict[str, Any], vocab: str | None, tokenizer: str | None, train: dict[str, Any]
) -> Recipe:
    """The request as a recipe, so that every value is checked as a recipe's is."""
    from lilliput.errors import ConfigError
    from lilliput.recipe import build_recipe

    if vocab is not None and tokenizer is not None:
        mend = "leave one of them out"
        raise ConfigError("a tokenizer that exists has its own size", where=f"{_WHERE} --vocab", mend=mend)
    source = str(Path(tokenizer).expanduser().absolute()) if tokenizer is not None else None
    values: dict[str, dict[str, Any]] = {
        "budget": budget,
        "model": model,
        "tokenizer": {"vocab_size": vocab, "from": source},
        "train": train,
    }
    given = {part: {key: value for key, value in keys.items() if value is not None} for part, keys in values.items()}
    return build_recipe({**given, "name": "plan"}, where=_WHERE)


def _prior(evidence: list[Path]) -> Any:
    from lilliput.plan.evidence import collect, distinct, shipped_runs
    from lilliput.plan.prior import fit, shipped_prior

    if not evidence:
        return shipped_prior()
    runs = [*shipped_runs(), *(run for folder in evidence for run in collect(folder.expanduser()))]
    return fit(distinct(runs))


def _calibration(renew: bool) -> Calibration:
    from lilliput.device import pick_device, threads
    from lilliput.plan.calibration import calibrate
    from lilliput.store import Store

    return calibrate(Store(), pick_device(), threads(), renew=renew)


def _measure(plans: list[dict[str, Any]]) -> None:
    """Add the measured speed to each plan, by the paper's protocol at batch 1."""
    from lilliput.evaluate.speed import speed_of_shape
    from lilliput.plan.proposal import shape_of

    for place, one in enumerate(plans, 1):
        found = speed_of_shape(shape_of(one), batch=1, title=f"measuring plan {place} of {len(plans)}")
        one["measured_tokens_per_second"] = found.per_sequence


def _write(data: dict[str, Any], recipe: Recipe, folder: Path, choose: int) -> dict[str, str]:
    """The chosen plan as a recipe, all of them as JSON, and the page; returns their paths."""
    from lilliput.plan.proposal import PLAN, plan_recipe
    from lilliput.report.plan_page import plan_page
    from lilliput.store import write_atomic, write_json

    folder.mkdir(parents=True, exist_ok=True)
    files = {"plan": folder / PLAN, "data": folder / "plans.json", "page": folder / "plan.html"}
    write_atomic(files["plan"], plan_recipe(recipe, data["plans"][choose - 1]))
    write_json(files["data"], data)
    write_atomic(files["page"], plan_page(data))
    return {name: str(file) for name, file in files.items()}

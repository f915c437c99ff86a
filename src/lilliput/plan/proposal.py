"""What `lilliput plan` answers: shapes for a recipe with all that each costs, as plain values."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import yaml

from lilliput.device import pick_device
from lilliput.errors import ConfigError
from lilliput.model.byte_pool_config import BytePoolConfig
from lilliput.model.config import ModelConfig
from lilliput.plan.cost import decode_flops, fallbacks, kv_cache_bytes, weight_bytes
from lilliput.plan.prior import Prior
from lilliput.plan.reasons import reasons
from lilliput.plan.rules import table_share
from lilliput.plan.search import Ranked, explore, search
from lilliput.recipe import Recipe
from lilliput.train.derive import derive
from lilliput.train.memory import step_bytes

if TYPE_CHECKING:
    from lilliput.plan.latency import Calibration

# The file that holds the chosen plan.
PLAN = "plan.yaml"
# More than any corpus: the horizon follows from the shape, or is asked in tokens.
_ENDLESS = 10**15
_LOCAL = ("unit", "pool", "byte_head", "byte_width", "hashes")
_NAMES = ("depth", "width", "heads", "kv_heads", "head_dim", "tied", "family", "shortcut", "series", "context")
# Points of the picture beside the front itself.
_POINTS = 400


def propose(
    recipe: Recipe, vocab_size: int | None, prior: Prior, calibration: Calibration | None, count: int
) -> dict[str, Any]:
    """The `count` best shapes for a recipe, and the front of speed against quality among all that were looked at.

    calibration: how fast this machine is; None leaves speeds and hours out (a recipe with `budget.speed` needs
    one). Raises ConfigError where nothing fits.
    """
    if recipe.model.family == "byte-pool":
        calibration = None  # its local layers have not been timed: `reasons` says so
    rate = calibration.tokens_per_second if calibration else None
    found = search(recipe, vocab_size, rate, prior)
    chosen = _distinct(found, count)
    best = chosen[0].shape
    plans = [_plan(recipe, one, best, prior, calibration) for one in chosen]
    front = []
    if calibration:
        front = _front([*found, *explore(recipe, found, prior)], best, prior, calibration)
        shapes = {_key(point) for point in front if point["best_at_its_speed"]}
        for plan in plans:
            plan["front"] = _key(plan) in shapes
    provisional = calibration.provisional if calibration else None
    return {"plans": plans, "front": front, "searched": len(found), "provisional": provisional}


def _distinct(found: Sequence[Ranked], count: int) -> list[Ranked]:
    """The best of each width and depth first; where those are few, the others follow."""
    first: dict[tuple[int, int], Ranked] = {}
    for one in found:
        first.setdefault((one.shape.width, one.shape.depth), one)
    kept = list(first.values())[:count]
    others = [one for one in found if one not in kept]
    return sorted([*kept, *others[: count - len(kept)]], key=found.index)


def _key(plan: Mapping[str, Any]) -> tuple[Any, ...]:
    return tuple(plan[name] for name in ("depth", "width", "heads", "kv_heads", "ffn", "vocab"))


def _dimensions(shape: ModelConfig) -> dict[str, Any]:
    return {
        "parameters": shape.parameters(),
        "depth": shape.depth,
        "width": shape.width,
        "heads": shape.heads,
        "kv_heads": shape.kv_heads,
        "head_dim": shape.head_dim,
        "ffn": shape.ffn,
        "expansion": shape.ffn / shape.width,
        "vocab": shape.vocab_size,
        "tied": shape.tied,
        "family": shape.family,
        "shortcut": shape.shortcut,
        "series": shape.series,
        "context": shape.context,
        "sharing": None if shape.share is None else asdict(shape.share),
        **({name: getattr(shape, name) for name in _LOCAL} if isinstance(shape, BytePoolConfig) else {}),
    }


def _plan(
    recipe: Recipe, one: Ranked, best: ModelConfig, prior: Prior, calibration: Calibration | None
) -> dict[str, Any]:
    shape, bits = one.shape, recipe.budget.bits or 16
    return {
        **_dimensions(shape),
        "bytes": weight_bytes(shape, bits),
        "bits": bits,
        "weight_bytes": {str(size): weight_bytes(shape, size) for size in (16, 8, 4)},
        "fallbacks": {
            str(size): [asdict(fall) for fall in fallbacks(shape, size)] for size in (8, 4)
        },
        "kv_cache_bytes": kv_cache_bytes(shape),
        "flops_per_token": decode_flops(shape, shape.context // 2),
        "share": table_share(shape),
        "tokens_per_second": calibration.tokens_per_second(shape) if calibration else None,
        "measured_tokens_per_second": None,
        "training": _training(recipe, shape, calibration),
        "expected": _expected(shape, best, prior),
        "rules": reasons(shape),
    }  # fmt: skip


def _training(recipe: Recipe, shape: ModelConfig, calibration: Calibration | None) -> dict[str, Any]:
    """How long the run is and takes here, and the memory of a step."""
    config, _ = derive(recipe.train, shape, _ENDLESS, _ENDLESS, recipe.seed, pick_device())
    seconds = calibration.train_seconds(shape, config.tokens, config.micro_sequences) if calibration else None
    passes = math.ceil(config.batch_sequences / config.micro_sequences)
    memory = step_bytes(
        shape, config.micro_sequences, precision=config.precision, compile=config.compile, passes=passes
    )
    return {"tokens": config.tokens, "hours": None if seconds is None else seconds / 3600, "memory_bytes": memory}


def _expected(shape: ModelConfig, best: ModelConfig, prior: Prior) -> dict[str, float]:
    """Bits per byte against the best plan's, as a relative change with its 95 % interval."""
    change, deviation = prior.compare(shape, best)
    low, high = change - 1.96 * deviation, change + 1.96 * deviation
    return {"value": math.expm1(change), "low": math.expm1(low), "high": math.expm1(high)}


def _front(
    looked_at: Sequence[Ranked], best: ModelConfig, prior: Prior, calibration: Calibration
) -> list[dict[str, Any]]:
    """Every shape with its speed and expected quality, fastest first; `best_at_its_speed`: none is faster and
    expected to be as good."""
    points = [
        {
            **_dimensions(one.shape),
            "tokens_per_second": calibration.tokens_per_second(one.shape),
            "expected": math.expm1(prior.compare(one.shape, best)[0]),
        }
        for one in looked_at
    ]
    points.sort(key=lambda point: (-point["tokens_per_second"], point["expected"]))
    lowest, every = math.inf, max(1, len(points) // _POINTS)
    for point in points:
        point["best_at_its_speed"] = point["expected"] < lowest
        lowest = min(lowest, point["expected"])
    return [point for place, point in enumerate(points) if point["best_at_its_speed"] or place % every == 0]


def shape_of(plan: Mapping[str, Any]) -> ModelConfig:
    """The shape of a plan. Raises ConfigError for one whose speed is not measured."""
    if plan["family"] == "byte-pool":
        reason = "a byte-pooled model's speed is not measured"
        raise ConfigError(reason, where="lilliput plan --measure", mend="leave out --measure")
    return ModelConfig(
        vocab_size=plan["vocab"],
        bos_id=0,
        eos_id=0,
        ffn=plan["ffn"],
        share=plan["sharing"],
        **{name: plan[name] for name in _NAMES},
    )


def plan_recipe(recipe: Recipe, plan: Mapping[str, Any]) -> str:
    """The plan as a recipe's YAML, every dimension fixed: what `make` and `speed` take."""
    values = recipe.to_dict()
    values["model"] |= {name: plan[name] for name in (*_NAMES, "expansion")}
    # Layers that share weights are asked for as such.
    values["model"]["family"] = recipe.model.family
    if recipe.model.family != "pangu":
        values["model"] |= {"shortcut": None, "series": None}
    if plan["family"] == "byte-pool":
        values["model"] |= {name: plan[name] for name in _LOCAL} | {"tied": None}
    if values["tokenizer"]["from"] is None and plan["family"] != "byte-pool":
        values["tokenizer"]["vocab_size"] = plan["vocab"]
    # The budget is met; what another machine's speed would say must not refuse the plan there.
    values["budget"] = {"params": plan["parameters"]}
    kept = {name: values[name] for name in ("name", "budget", "tokenizer", "model", "train")}
    said = "".join(f"#   {line}\n" for line in plan["rules"])
    return f"# A plan: `lilliput make` takes it, with corpus=… beside it.\n{said}" + yaml.safe_dump(
        _given(kept, Recipe().to_dict()), sort_keys=False, allow_unicode=True
    )


def _given(values: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    """`values` without what is so by default."""
    kept = {}
    for key, value in values.items():
        inner = _given(value, defaults.get(key, {})) if isinstance(value, Mapping) else value
        if inner != defaults.get(key) and inner != {}:
            kept[key] = inner
    return kept

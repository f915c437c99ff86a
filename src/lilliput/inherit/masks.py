"""What to keep of a model, learned together with its weights: Lagrangian masks (PanGu-π Pro §3.2, after Sheared LLaMA,
2310.06694 §2.1).

Hard-concrete gates (concrete.py) stand before every layer, key-value head with its query heads, neuron and hidden
channel (masked.py). With t the share that must go and sp the share that is expected to, of each space, and within ffn
and kv_head of each layer, since every layer of a child is alike, the loss is

    L = L_LM + Σ_space mean over layers of [λ1·(sp − t) + λ2·(sp − t)²]

descended by the weights and the gates, ascended by λ1 and λ2, one pair for each space, from 0. t rises from 0 over the
sparsity warm-up. At the end gates are settled, the lowest become 0, the rest is folded into the weights (fold.py).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lilliput.errors import ConfigError
from lilliput.inherit.lagrangian import Masking, log_rows, sparsity_wanted
from lilliput.inherit.masked import SPACES, MaskedDecoder, check_target
from lilliput.model.carve import Kept, carve_model, whole
from lilliput.progress import count, say, warn
from lilliput.train.loop import TrainResult, train
from lilliput.train.memory import step_bytes

if TYPE_CHECKING:
    import torch

    from lilliput.model.config import ModelConfig
    from lilliput.model.decoder import Decoder
    from lilliput.train.config import TrainConfig
    from lilliput.train.order import Windows

# Share of what must go that may still be expected to stay at the end.
_MISSED = 0.1
# The length of the paper's run; shorter ones need slower multipliers.
_PAPER_STEPS = 3200


@dataclass(frozen=True)
class MaskSettings:
    """How masks are learned. Rates are peaks, which follow a warm-up and a cosine down to `end` of them."""

    mask_rate: float = 1.0
    """Of logα."""
    lambda_rate: float | None = None
    """Of the multipliers; None: 1 in runs of the paper's 3,200 steps and more, in shorter ones 0.1, and 30 / steps in
    those of fewer than 300: in a few hundred steps 1 overshoots, and 0.1 takes about 200 to make λ large enough."""
    weight_rate: float = 1e-4
    """Of the weights."""
    sparsity_warmup: float = 640 / 3200
    """Share of the steps over which the target sparsity rises from 0."""
    rate_warmup: float = 320 / 3200
    """Share of the steps over which all rates rise from 0."""
    end: float = 0.1
    """The last rate's share of the peak."""

    def __post_init__(self) -> None:
        """Refuse what cannot be run; `ConfigError` names the field."""
        for field in fields(self):
            value = getattr(self, field.name)
            if value is None:
                continue
            share = not field.name.endswith("_rate")
            if not (0 <= value <= 1 if share else value > 0):
                reason = f"{field.name} is {value}; it must be " + ("from 0 to 1" if share else "above 0")
                raise ConfigError(reason, where=f"masks.{field.name}")

    def objective(self, masked: MaskedDecoder, steps: int) -> Masking:
        """What a run of `steps` steps learns."""
        short = min(1.0, max(0.1, 30 / steps))
        lambda_rate = self.lambda_rate or (1.0 if steps >= _PAPER_STEPS else short)
        target = {space: masked.wanted(space) for space in SPACES}
        return Masking(self.mask_rate, lambda_rate, round(self.sparsity_warmup * steps), target)

    def run(self, config: TrainConfig) -> TrainConfig:
        """`config` with the rates and warm-up of these settings, cosine and no weight decay."""
        return replace(
            config,
            lr=self.weight_rate,
            min_lr=self.end * self.weight_rate,
            warmup_steps=round(self.rate_warmup * config.steps),
            schedule="cosine",
            decay_steps=0,
            weight_decay=0.0,
            objective="masks",
        )


@dataclass(frozen=True, eq=False)
class Learned:
    """What mask learning came to.

    child: folded and carved, of the target's shape. kept: by the teacher's numbers. log: a row for each logged step,
    see `log_rows`. result: of the run.
    """

    child: Decoder
    kept: Kept
    log: list[dict[str, Any]]
    result: TrainResult


def learn(
    teacher: Decoder,
    target: ModelConfig,
    shards: Windows,
    config: TrainConfig,
    run_dir: Path,
    *,
    device: torch.device,
    settings: MaskSettings = MaskSettings(),
    layers: Sequence[int] | None = None,
    evaluator: Callable[[Decoder], dict[str, float]] | None = None,
) -> Learned:
    """Learn which members of `teacher` make the best child of the shape `target`, and train them on the way.

    The teacher stays as it is. config: steps, batch, context, seed, precision, saves; rates, their course and weight
    decay come from `settings`. Goes on from `run_dir` where a run was interrupted, exactly, by the training loop.
    layers: those to keep where they are chosen already, rising; None: they are learned too. evaluator: as in `train`,
    called with the child that the masks would give at that step. Memory: `mask_bytes`.
    Raises ModelError for a target that the teacher cannot become, ConfigError for layers that are none, and what
    `train` raises.
    """
    check_target(teacher.config, target, layers)
    start, chosen = teacher, tuple(range(teacher.config.depth) if layers is None else layers)
    if len(chosen) < teacher.config.depth:
        everything = whole(teacher.config)
        per_layer = {space: (getattr(everything, space)[0],) * len(chosen) for space in ("ffn", "kv_head")}
        start = carve_model(teacher, replace(everything, layers=chosen, **per_layer))
    masked = MaskedDecoder(start, target, config.seed)
    config = settings.run(config)
    passes = -(-config.batch_sequences // config.micro_sequences)
    need = mask_bytes(start.config, target, config.micro_sequences, precision=config.precision, passes=passes)
    say(f"learning masks of {', '.join(masked.cut) or 'nothing'}: about {count(need)}B of memory")
    del start
    result = train(
        masked,
        shards,
        config,
        run_dir,
        device=device,
        evaluator=None if evaluator is None else lambda model: evaluator(model.child()[0]),  # type: ignore[operator]
        objective=settings.objective(masked, config.steps),
    )
    if missed := unmet(masked):
        shares = ", ".join(f"{space} {share:.0%}" for space, share in missed.items())
        warn(
            f"the masks had not settled: much of what had to go was still likely to stay ({shares}), and went all the "
            "same; more steps choose better, or a higher lambda_rate"
        )
    child, kept = masked.child()
    kept = replace(kept, layers=tuple(chosen[layer] for layer in kept.layers))
    return Learned(child, kept, log_rows(Path(run_dir) / "metrics.jsonl"), result)


def unmet(masked: MaskedDecoder) -> dict[str, float]:
    """The spaces of which too much is expected to stay still, and how much: the share of what must go, over layers."""
    found = {}
    for space in masked.cut:
        wanted = sparsity_wanted(masked, space)
        missed = float((wanted - masked.sparsity(space).detach()).mean()) / wanted
        if missed > _MISSED:
            found[space] = missed
    return found


def mask_bytes(
    teacher: ModelConfig, target: ModelConfig, micro_sequences: int, *, precision: str = "fp32", passes: int = 1
) -> int:
    """Peak memory in bytes that `learn` takes on a CPU over what the process had with the teacher in it.

    A step of training of the teacher's shape (`step_bytes`: weights of its own, gradients, moments, activations), and
    for what is gated: a copy of o_proj and down_proj for their rows' gates and one for their columns', kept by each
    layer for the backward pass, the passing gradients of the larger of the two, and the embedding's output once more.
    The masks themselves are small.
    """
    tokens = micro_sequences * teacher.context
    hidden = target.width < teacher.width
    rows = hidden or target.depth < teacher.depth
    heads = teacher.width * teacher.heads * teacher.head_dim * (rows + (target.kv_heads < teacher.kv_heads))
    neurons = teacher.width * teacher.ffn * (rows + (target.ffn < teacher.ffn))
    gates = 4 * (teacher.depth * (heads + neurons) + max(heads, neurons) + (tokens * teacher.width if hidden else 0))
    return step_bytes(teacher, micro_sequences, precision=precision, passes=passes) + gates

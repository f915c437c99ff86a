"""A run's settings from shape and budget: every value a person left out follows from a cited formula.

Sources: DeepSeek's scaling fits for batch and rate (2401.02954 §3.1),
Hoffmann et al. for 20 tokens a parameter (2203.15556), Muennighoff et al. for repeated data (2305.16264).
All of it is arithmetic on the shape, the corpus and what the machine has; nothing is timed.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from lilliput.device import compiler, threads, total_memory
from lilliput.errors import ConfigError
from lilliput.model.byte_pool_config import BytePoolConfig
from lilliput.model.sharing import unrolled
from lilliput.progress import count, duration
from lilliput.train.config import TrainConfig as TrainConfig
from lilliput.train.derive_skip import skips
from lilliput.train.memory import activation_bytes
from lilliput.train.rounds import Plan, Rounds

if TYPE_CHECKING:
    from lilliput.model.config import ModelConfig
    from lilliput.recipe import RoundSettings, TrainSettings
    from lilliput.train.further import Trained

TOKENS_PER_PARAMETER = 20
MAX_LR = 1e-2
LONG_BATCH = 32_768
EPOCHS_TO_WARN = 4
REPEAT_HALF = 15.39

# Nominal training rates in FLOP/s, reached from a width of 256 (CPU) or 2048 (GPU) on and falling with the
# width below: constants of the formulas here, so that no clock enters a decision.
CPU_RATE, CPU_WIDTH = 1e11, 256
GPU_RATE, GPU_WIDTH = 2e14, 2048
# Compiling one layer takes 10 to 40 s and saves about 15 % of a step (measured on two cores, widths 96 and 256):
# it is taken where the run is long enough to earn that back.
COMPILE_SECONDS = 300
SAVE_SECONDS = 60
EVALUATIONS = 10
CPU_ACTIVATIONS = 1 << 30
# Of the room for activations; the rest is for the work of the backward pass and the loss.
FILLED = 0.75
ROWS = 2000


@dataclass(frozen=True)
class Horizon:
    """How long a run is, in tokens, and why."""

    tokens: float
    why: str


def flops(model: ModelConfig, tokens: float) -> float:
    """Training cost C = 6·N_nonemb·D + 6·V·d·D; attention's quadratic part is not counted, what layers share is counted
    for each of them."""
    if isinstance(model, BytePoolConfig):
        return 6.0 * model.matrix_parameters() * tokens
    table = model.vocab_size * model.width
    body = unrolled(model).parameters() - model.skipped_parameters() - table * (1 if model.tied else 2)
    return 6.0 * body * tokens + 6.0 * table * tokens


def effective_tokens(unique: float, epochs: float) -> float:
    """What `epochs` passes over `unique` tokens are worth: D' = U + 15.39·U·(1 − e^{−(epochs−1)/15.39})."""
    if epochs <= 1:
        return unique * epochs
    return unique + REPEAT_HALF * unique * (1 - math.exp(-(epochs - 1) / REPEAT_HALF))


def forward_flops(model: ModelConfig, tokens: float) -> float:
    """Cost of a forward pass alone, a third of a step: what scoring takes."""
    return flops(model, tokens) / 3


def horizon(train: TrainSettings, parameters: int, tokens_per_epoch: int, bytes_per_epoch: int) -> Horizon:
    """The run's length, from whichever of tokens, bytes and epochs is given, else 20 tokens a parameter."""
    if train.tokens is not None:
        return Horizon(float(train.tokens), "train.tokens")
    if train.bytes is not None:
        per_token = bytes_per_epoch / tokens_per_epoch
        why = f"train.bytes {count(train.bytes)} at {per_token:.3f} bytes a token"
        return Horizon(train.bytes / per_token, why)
    if train.epochs is not None:
        return Horizon(train.epochs * tokens_per_epoch, f"train.epochs {train.epochs:g}")
    return Horizon(float(TOKENS_PER_PARAMETER * parameters), f"{TOKENS_PER_PARAMETER} a parameter (2203.15556)")


def micro_limit(model: ModelConfig, device: torch.device, precision: str) -> int:
    """Windows whose activations fit: in 1 GiB or an eighth of memory on a CPU, in half of a GPU's memory."""
    return max(1, int(activation_room(device) / (activation_bytes(model, precision) * model.context)))


def activation_room(device: torch.device) -> float:
    """Bytes that the layers' activations may take."""
    if device.type == "cuda":
        return FILLED * (torch.cuda.get_device_properties(device).total_memory // 2)
    return FILLED * min(CPU_ACTIVATIONS, (total_memory() or 8 << 30) // 8)


def nominal_rate(model: ModelConfig, device: torch.device) -> float:
    """FLOP/s that a run of this shape is reckoned to reach on two CPU cores, or on one GPU."""
    full, width = (GPU_RATE, GPU_WIDTH) if device.type == "cuda" else (CPU_RATE, CPU_WIDTH)
    return full * min(1.0, model.width / width)


class Notes(list[str]):
    """One printable line for each settled value."""

    def derived(self, name: str, value: object, why: str) -> None:
        """A value that follows from others."""
        self.append(f"{name} = {value}: {why}")

    def given(self, name: str, value: object) -> None:
        """A value that a person set."""
        self.append(f"{name} = {value}: set")


def derive(
    train: TrainSettings,
    model: ModelConfig,
    tokens_per_epoch: int,
    bytes_per_epoch: int,
    seed: int,
    device: torch.device,
    before: Trained | None = None,
    rounds: RoundSettings | None = None,
) -> tuple[TrainConfig, list[str]]:
    """Settle a run: (settings, one printable line for each value and where it came from).

    tokens_per_epoch, bytes_per_epoch: size of the packed training split. before: what the weights that it begins
    with have seen, None for fresh ones. rounds: that the horizon is divided into, all of them together. Raises
    ConfigError for a request that cannot be met.
    """
    if tokens_per_epoch <= model.context:
        raise ConfigError(
            f"the training text has {tokens_per_epoch} tokens, fewer than one window of {model.context + 1}",
            where="model.context",
            mend="give more text or a smaller model.context",
        )
    notes = Notes()
    gpu = device.type == "cuda"
    precision = precision_of(train, gpu, notes)
    length = horizon(train, model.parameters(), tokens_per_epoch, bytes_per_epoch)
    cost = flops(model, length.tokens)
    batch, micro = _batch(train, model, length, cost, micro_limit(model, device, precision), notes)
    steps = max(1, round(length.tokens / (batch * model.context)))
    tokens = steps * batch * model.context
    notes.derived("tokens", count(tokens), f"{length.why}; {steps} steps, {flops(model, tokens):.2e} FLOPs")
    divided = _rounds(rounds, model, steps, batch, tokens_per_epoch, seed, device, notes)
    fresh = tokens if divided is None or not divided.replays else divided.ends(steps)[0] * batch * model.context
    notes.extend(_epoch_notes(tokens, fresh, tokens_per_epoch, bytes_per_epoch))
    lr = _rate(train, model, length.tokens, before, batch * model.context, notes)
    if model.share is not None:
        notes.derived("lr of shared weights", "lr/√n", "n layers use them, a step counts n times (docs/model.md)")
    warmup = warmup_of(train, steps, notes)
    beta2 = beta2_of(train, batch * model.context, notes)
    left_out, lines = skips(train, model.depth)
    notes.extend(lines)
    seconds = cost / nominal_rate(model, device)
    save_every, eval_every = intervals_of(train, seconds, steps, notes)
    workers = value_of("threads", train.threads, threads(), "the cores of this machine, or OMP_NUM_THREADS", notes)
    config = TrainConfig(
        steps=steps,
        batch_sequences=batch,
        micro_sequences=micro,
        context=model.context,
        lr=lr,
        min_lr=lr * train.min_lr,
        warmup_steps=warmup,
        schedule=train.schedule,
        decay_steps=max(1, round(train.decay * steps)) if train.schedule == "wsd" else 0,
        weight_decay=train.weight_decay,
        beta1=train.beta1,
        beta2=beta2,
        clip=train.clip,
        seed=seed,
        rounds=divided,
        **left_out,
        compile=_compile(train, seconds, gpu, notes),
        precision=precision,
        threads=workers,
        save_every=save_every,
        eval_every=eval_every,
        log_every=max(1, steps // ROWS),
        tensorboard=train.tensorboard,
    )
    return config, list(notes)


def value_of(name: str, given: int | None, derived: int, why: str, notes: Notes) -> int:
    """The value given, else the derived one; either way noted."""
    if given is not None:
        notes.given(name, given)
        return given
    notes.derived(name, derived, why)
    return derived


def precision_of(train: TrainSettings, gpu: bool, notes: Notes) -> str:
    """fp32 or bf16."""
    if train.precision != "auto":
        notes.given("precision", train.precision)
        return train.precision
    precision = "bf16" if gpu else "fp32"
    notes.derived("precision", precision, "bf16 on a GPU" if gpu else "the fastest type on a CPU")
    return precision


def _batch(
    train: TrainSettings, model: ModelConfig, length: Horizon, cost: float, limit: int, notes: Notes
) -> tuple[int, int]:
    """(windows in the global batch, windows in a micro batch)."""
    context = model.context
    if train.batch_tokens is not None:
        if train.batch_tokens < context:
            raise ConfigError(
                f"a batch of {train.batch_tokens} tokens holds no window of {context}",
                where="train.batch_tokens",
                mend=f"give at least {context}, or a smaller model.context",
            )
        batch = train.batch_tokens // context
        passes = math.ceil(batch / limit)
        notes.given("batch", f"{batch} windows of {context} = {batch * context} tokens")
    else:
        wanted = 0.2920 * float(cost**0.3271)
        batch = max(1, min(round(wanted / context), round(length.tokens / context)))
        # Whole micro batches, so that every pass has one shape: as few as fit, and the batch as near to the formula as
        # can be (rounding it to multiples of what fits would move it, and the number of steps, by up to a half).
        passes = math.ceil(batch / limit)
        if train.micro_batch is None and batch > limit:
            batch = passes * min(limit, round(batch / passes))
        notes.derived(
            "batch",
            f"{batch} windows of {context} = {batch * context} tokens",
            f"0.2920·C^0.3271 = {wanted:.0f} tokens (2401.02954), C = {cost:.2e}",
        )
    if train.micro_batch is not None:
        micro = min(train.micro_batch, batch)
        notes.given("micro batch", micro)
    else:
        # By the passes that the batch was made for: rounded down, it might fit in one less, which would not be whole.
        micro = math.ceil(batch / passes)
        notes.derived("micro batch", f"{micro} windows", f"activations of {limit} fit")
    return batch, micro


def _rounds(
    asked: RoundSettings | None,
    model: ModelConfig,
    steps: int,
    batch: int,
    tokens_per_epoch: int,
    seed: int,
    device: torch.device,
    notes: Notes,
) -> Rounds | None:
    """The rounds asked for, and what they read; None for one."""
    if asked is None or asked.count == 1:
        return None
    rounds = Rounds(asked.count, asked.rate, asked.parts, asked.weighting, asked.temperature, asked.unit)
    windows = (tokens_per_epoch - 1) // model.context
    rounds.check(steps, batch, windows)
    plan = Plan(rounds, steps, batch, model.context, seed)
    for number, end in enumerate(plan.ends):
        long = end - (plan.ends[number - 1] if number else 0)
        read = f"{count(long * batch * model.context)} {plan.reads(number)}"
        notes.derived(f"round {number + 1}", f"{long} steps", read)
        if scored := plan.scored(number, windows) * model.context if number else 0:
            cost = forward_flops(model, scored)
            notes[-1] += (
                f"; before it {count(scored)} tokens are scored, {cost:.2e} FLOPs, "
                f"about {duration(cost / nominal_rate(model, device))} at the nominal rate"
            )
    return rounds


def _rate(
    train: TrainSettings, model: ModelConfig, tokens: float, before: Trained | None, batch_tokens: int, notes: Notes
) -> float:
    if train.lr is not None:
        notes.given("lr", f"{train.lr:.3g}")
        return train.lr
    law = train.lr_law
    if law.lr is not None and law.batch_tokens is not None:
        lr = law.lr * float((batch_tokens / law.batch_tokens) ** law.power)
        why = f"({batch_tokens} / {law.batch_tokens})^{law.power:g} · {law.lr:g}"
        if lr > 1:
            mend = "give a lower lr_law.lr, a lower power or a smaller batch"
            raise ConfigError(f"the law's rate is {why} = {lr:.3g}, above 1", where="train.lr_law", mend=mend)
        notes.derived("lr", f"{lr:.3g}", f"{why}, the law asked for (2402.02791 §4.1)")
        return lr
    fitted = 0.3118 * float(flops(model, tokens + (before.tokens if before else 0)) ** -0.125)
    lr = min(MAX_LR, fitted)
    capped = f", capped at {MAX_LR:g}" if lr < fitted else ""
    formula = f"0.3118·C^−0.125 = {fitted:.3g} (2401.02954){capped}"
    if before is not None:
        lr *= before.share(tokens)
        formula = f"{before.told(tokens)}; the whole would be {formula}"
    notes.derived("lr", f"{lr:.3g}", formula)
    return lr


def warmup_of(train: TrainSettings, steps: int, notes: Notes) -> int:
    """Steps of warm-up."""
    if train.warmup is not None:
        if train.warmup > steps:
            raise ConfigError(
                f"a warm-up of {train.warmup} steps is longer than the run of {steps}",
                where="train.warmup",
                mend=f"give fewer than {steps}, or a longer run",
            )
        notes.given("warm-up", f"{train.warmup} steps")
        return train.warmup
    warmup = int(min(max(100.0, 0.02 * steps), 0.1 * steps))
    notes.derived("warm-up", f"{warmup} steps", "min(max(100 steps, 2 %), 10 % of the run)")
    return warmup


def beta2_of(train: TrainSettings, batch_tokens: int, notes: Notes) -> float:
    """AdamW's second decay."""
    if train.beta2 is not None:
        notes.given("β2", train.beta2)
        return train.beta2
    beta2 = 0.99 if batch_tokens < LONG_BATCH else 0.95
    notes.derived("β2", beta2, "0.99 below 32k tokens a batch, else 0.95")
    return beta2


def _compile(train: TrainSettings, seconds: float, gpu: bool, notes: Notes) -> bool:
    found = compiler() is not None
    if train.compile != "auto":
        if train.compile and not gpu and not found:
            raise ConfigError(
                "torch.compile needs a C++ compiler and none is found",
                where="train.compile",
                mend="install one (g++ or clang), or leave train.compile out",
            )
        notes.given("compile", train.compile)
        return train.compile
    if not gpu and not found:
        notes.derived("compile", False, "no C++ compiler on this machine")
        return False
    taken = seconds >= COMPILE_SECONDS
    than = "at least" if taken else "less than"
    why = f"{than} {COMPILE_SECONDS} s of work at the nominal rate, where it repays (reckoned, not timed)"
    notes.derived("compile", taken, f"C is {why}")
    return taken


def intervals_of(train: TrainSettings, seconds: float, steps: int, notes: Notes) -> tuple[int, int]:
    """(steps between saves, steps between evaluations). seconds: the run's length at the nominal rate."""
    every = max(1, min(steps, round(SAVE_SECONDS * steps / seconds)))
    why = f"{SAVE_SECONDS} s of work at the nominal rate"
    save_every = value_of("save every", train.save_every, every, why, notes)
    often = max(1, math.ceil(steps / EVALUATIONS))
    eval_every = value_of("evaluate every", train.eval_every, often, f"{EVALUATIONS} times in the run", notes)
    return save_every, eval_every


def _epoch_notes(tokens: float, fresh: float, tokens_per_epoch: int, bytes_per_epoch: int) -> list[str]:
    """fresh: tokens of the first round, where later ones read these again; else all."""
    epochs = tokens / tokens_per_epoch
    unique = tokens_per_epoch if fresh == tokens else min(fresh, tokens_per_epoch)
    worth = effective_tokens(unique, tokens / unique)
    seen = count(tokens / tokens_per_epoch * bytes_per_epoch)
    lines = [
        f"epochs = {epochs:.2f}: {count(tokens_per_epoch)} tokens in the corpus, {seen} bytes of text seen; "
        f"worth {count(worth)} fresh tokens (D', 2305.16264)"
    ]
    if epochs > EPOCHS_TO_WARN:
        lines.append(
            f"warning: {epochs:.1f} epochs; beyond {EPOCHS_TO_WARN} repeated text teaches little: "
            "more text, fewer parameters or a shorter run would serve better"
        )
    return lines

"""What one training run does, every value settled: nothing in it is left to the machine or the clock."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from lilliput.errors import CheckpointError, ConfigError
from lilliput.train.dropout import Dropout
from lilliput.train.exits import ExitLoss, LayerDropout
from lilliput.train.rounds import Rounds

SCHEDULES = ("cosine", "wsd", "constant")
PRECISIONS = ("fp32", "bf16")

# Decided once by the machine a run began on, then kept: they change the last bits of the weights.
MACHINE_KEYS = ("micro_sequences", "compile", "precision", "threads")
# Parts that a run may have; one without is identified as it was before there were any.
PARTS = {"rounds": Rounds, "dropout": Dropout, "layer_dropout": LayerDropout, "exits": ExitLoss}
# These change what is written and when, never the weights.
FREE_KEYS = ("save_every", "eval_every", "log_every", "keep", "tensorboard")


@dataclass(frozen=True)
class TrainConfig:
    """A run's settled settings. Lengths in tokens are windows × `context`; rates are absolute."""

    steps: int
    """Optimizer steps."""
    batch_sequences: int
    """Windows in the global batch, over all micro batches and processes."""
    micro_sequences: int
    """Windows in one forward and backward pass of one process, at most."""
    context: int
    """Positions in a window; a window holds one token more, the last target."""
    lr: float
    """Peak learning rate."""
    min_lr: float
    """Learning rate at the end (cosine, wsd), absolute."""
    warmup_steps: int
    """Steps of linear warm-up."""
    schedule: str = "cosine"
    """cosine, wsd (warm-up, stable, decay) or constant."""
    decay_steps: int = 0
    """Steps of decay at the end (wsd)."""
    weight_decay: float = 0.1
    """Decoupled, on tensors of two or more axes only."""
    beta1: float = 0.9
    beta2: float = 0.95
    eps: float = 1e-8
    clip: float = 1.0
    """Ceiling of the gradients' global norm; 0 = none."""
    seed: int = 0
    """Decides the order of the data (the weights are initialised elsewhere)."""
    round: int = 0
    """Pass number in training by rounds; part of the order's key."""
    rounds: Rounds | None = None
    """How the run is divided into rounds that read text again; None for one round."""
    dropout: Dropout | None = None
    layer_dropout: LayerDropout | None = None
    exits: ExitLoss | None = None
    """Exits before the last layer that learn to predict."""
    objective: str = "causal"
    compile: bool = False
    precision: str = "fp32"
    threads: int = 1
    """CPU threads of the whole machine; several processes share them."""
    save_every: int = 100
    """Steps between checkpoints."""
    eval_every: int = 0
    """Steps between evaluations; 0 = none."""
    log_every: int = 1
    """Steps between rows of metrics.jsonl."""
    keep: int = 2
    """Checkpoints kept."""
    tensorboard: bool = False
    """Also write TensorBoard events (extra `log`)."""

    def __post_init__(self) -> None:
        """Refuse what cannot be run; `ConfigError` names the field."""
        sizes = ("steps", "batch_sequences", "micro_sequences", "context", "threads")
        for name in (*sizes, "save_every", "log_every"):
            if int(getattr(self, name)) < 1:
                raise ConfigError(f"{name} must be at least 1", where=f"train.{name}")
        if not self.lr > 0:
            raise ConfigError("the learning rate must be above 0", where="train.lr")
        if self.schedule not in SCHEDULES:
            known = ", ".join(SCHEDULES)
            raise ConfigError(f"unknown schedule {self.schedule!r}", where="train.schedule", mend=f"one of {known}")
        if self.precision not in PRECISIONS:
            raise ConfigError(
                f"unknown precision {self.precision!r}",
                where="train.precision",
                mend=f"one of {', '.join(PRECISIONS)}",
            )
        if self.keep < 2:
            raise ConfigError("two checkpoints must be kept, one to fall back on", where="train.keep")

    @property
    def batch_tokens(self) -> int:
        """Target tokens in the global batch."""
        return self.batch_sequences * self.context

    @property
    def tokens(self) -> int:
        """Target tokens of the whole run."""
        return self.steps * self.batch_tokens

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON; of PARTS those that the run has."""
        return {name: value for name, value in asdict(self).items() if name not in PARTS or value is not None}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> TrainConfig:
        """The inverse of `to_dict`; keys of a later version are refused."""
        known = {field.name for field in fields(cls)}
        strange = sorted(set(data) - known)
        if strange:
            raise CheckpointError(
                f"the settings hold keys this version does not know: {', '.join(strange)}",
                mend="go on with the version of Lilliput that began the run",
            )
        values = dict(data)
        for name, part in PARTS.items():
            if values.get(name) is not None:
                values[name] = part(**values[name])
        return cls(**values)

    def resumed_from(self, begun: TrainConfig) -> TrainConfig:
        """These settings with what the run's first machine decided.

        A resumed run reuses compile, precision, threads and micro batch, since they change the last bits.
        CheckpointError if the two are different runs.
        """
        kept = {name: getattr(begun, name) for name in MACHINE_KEYS}
        merged = replace(self, **kept)
        skip = {*MACHINE_KEYS, *FREE_KEYS}
        changed = [
            f"{field.name} {getattr(begun, field.name)!r} → {getattr(self, field.name)!r}"
            for field in fields(self)
            if field.name not in skip and getattr(begun, field.name) != getattr(self, field.name)
        ]
        if changed:
            raise CheckpointError(
                f"the run here was begun with other settings: {', '.join(changed)}",
                mend="give another --out, or remove the old run's folder",
            )
        return merged

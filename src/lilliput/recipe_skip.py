"""What a recipe says of leaving out in training: channels (dropout), layers, and what exits before the last learn."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, model_validator

from lilliput.recipe_model import Settings

# The keys that need another one, by that one.
_NEEDS = {
    "dropout": ("dropout_schedule", "dropout_turn"),
    "layer_dropout": ("layer_dropout_schedule",),
    "exit_loss": ("exit_curriculum", "exit_every"),
}


class SkipSettings(Settings):
    """The part of `train` about what is left out (docs/train.md); nothing is where nothing is said."""

    dropout: float | None = Field(None, ge=0, lt=1, description="dropout, or the highest rate of its schedule")
    dropout_schedule: Literal["constant", "cut-off", "linear-up", "linear-down", "triangular"] | None = Field(
        None, description="dropout over time; none: constant"
    )
    dropout_turn: float | None = Field(
        None, gt=0, lt=1, description="share of the run where `cut-off` ends and `triangular` turns; none: 0.5"
    )
    layer_dropout: float | None = Field(
        None, ge=0, lt=1, description="layers left out, per sequence: the last layer's highest rate"
    )
    layer_dropout_schedule: Literal["exponential", "constant"] | None = Field(
        None, description="layer dropout over time; none: exponential, for a model that begins anew"
    )
    exit_loss: float | None = Field(None, gt=0, le=1, description="weight of the losses at exits before the last layer")
    exit_curriculum: Literal["rotational", "gradual", "none"] | None = Field(
        None, description="which exits a step counts; none given: rotational"
    )
    exit_every: int | None = Field(
        None, ge=1, le=512, description="`rotational`: every so many layers; none: layers less one, an exit a step"
    )

    @model_validator(mode="after")
    def _whole(self) -> SkipSettings:
        for key, others in _NEEDS.items():
            asked = [name for name in others if getattr(self, name) is not None]
            if asked and getattr(self, key) is None:
                raise ValueError(f"{asked[0]} needs train.{key}")
        if self.dropout_turn is not None and self.dropout_schedule not in ("cut-off", "triangular"):
            raise ValueError("dropout_turn is for dropout_schedule cut-off or triangular")
        if self.exit_every is not None and self.exit_curriculum not in (None, "rotational"):
            raise ValueError("exit_every is for exit_curriculum rotational")
        return self


def unasked(train: SkipSettings) -> list[str]:
    """The keys that say nothing, which a run's identity leaves out."""
    return [name for name in SkipSettings.model_fields if getattr(train, name) is None]


def asked(train: SkipSettings) -> dict[str, Any]:
    """The keys that say something."""
    return {name: value for name in SkipSettings.model_fields if (value := getattr(train, name)) is not None}

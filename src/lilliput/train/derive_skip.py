"""What a run leaves out, from a recipe: dropout, layer dropout, and the exits that learn."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lilliput.errors import ConfigError
from lilliput.train.dropout import TURNING, Dropout
from lilliput.train.exits import ExitLoss, LayerDropout

if TYPE_CHECKING:
    from lilliput.recipe_skip import SkipSettings


def skips(train: SkipSettings, depth: int) -> tuple[dict[str, Any], list[str]]:
    """(fields of a TrainConfig, a printable line for each); none for what is not asked.

    Raises ConfigError for exits that a model of `depth` layers does not have.
    """
    fields: dict[str, Any] = {}
    lines = []
    if train.dropout is not None:
        turning = train.dropout_schedule in TURNING
        dropout = Dropout(train.dropout, train.dropout_schedule or "constant", train.dropout_turn or 0.5)
        fields["dropout"] = dropout
        turn = f", turning at {dropout.turn:.0%} of the run" if turning else ""
        lines.append(f"dropout = {dropout.rate:g}: {dropout.schedule}{turn}")
    if train.layer_dropout is not None:
        layers = LayerDropout(train.layer_dropout, train.layer_dropout_schedule or "exponential")
        fields["layer_dropout"] = layers
        lines.append(f"layer dropout = {layers.rate:g} in the last layer: {layers.schedule} over time (2404.16710)")
    if train.exit_loss is not None:
        fields["exits"] = exits = _exits(train, train.exit_loss, depth)
        every = f", every {exits.every} layers" if exits.curriculum == "rotational" else ""
        lines.append(f"exit loss = {exits.scale:g}: {exits.curriculum}{every} (2404.16710)")
    return fields, lines


def _exits(train: SkipSettings, scale: float, depth: int) -> ExitLoss:
    if depth < 2:
        raise ConfigError(
            "a model of one layer has no exit before the last",
            where="train.exit_loss",
            mend="leave it out, or give model.depth=2 or more",
        )
    if train.exit_every is not None and train.exit_every > depth:
        raise ConfigError(
            f"exits every {train.exit_every} layers do not exist in a model of {depth}",
            where="train.exit_every",
            mend=f"give at most {depth}",
        )
    # One exit beside the last at each step is the cheapest, and what the paper trains its largest models with.
    return ExitLoss(scale, train.exit_curriculum or "rotational", train.exit_every or depth - 1)

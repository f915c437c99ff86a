"""Gates written into the weights, so that a masked model becomes a plain one.

A gate multiplies what its member gives: a hidden channel's gate what is written to the channel (by the embedding, the
attention's output and the feed-forward, their biases too), a head's the head's output, a neuron's its activation, a
layer's both outputs of the layer. All of these are linear maps' rows or columns. The head reads the last norm without
a gate; where it is the embedding's own table, the table's columns have the gate in them, so the last norm's weight is
divided by it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lilliput.errors import ModelError
from lilliput.model.carve import Kept
from lilliput.model.config import ModelConfig
from lilliput.model.decoder import Decoder

# Where the head is tied a weight is divided by the gate. logα ≥ ln .01 keeps a settled one above .0039.
SMALLEST = 1e-3


@dataclass(frozen=True, eq=False)
class Gates:
    """z of every member, from 0 to 1; None where a space has no gates, which is as if all were 1.

    hidden: (width,). ffn: (layers, ffn). kv_head: (layers, kv_heads), one for a key-value head and its query heads.
    layers: (layers,).
    """

    hidden: Tensor | None = None
    ffn: Tensor | None = None
    kv_head: Tensor | None = None
    layers: Tensor | None = None

    def heads(self, config: ModelConfig, layer: int) -> Tensor | None:
        """The gate of each column of o_proj, (heads · head_dim,)."""
        if self.kv_head is None:
            return None
        return self.kv_head[layer].repeat_interleave(config.heads // config.kv_heads * config.head_dim)

    def neurons(self, layer: int) -> Tensor | None:
        """The gate of each column of down_proj, (ffn,)."""
        return None if self.ffn is None else self.ffn[layer]

    def written(self, layer: int) -> Tensor | None:
        """The gate of what the layer writes to each channel, (width,) or (1,)."""
        if self.layers is None:
            return self.hidden
        own = self.layers[layer : layer + 1]
        return own if self.hidden is None else own * self.hidden


def gated(weight_OI: Tensor, rows: Tensor | None, columns: Tensor | None) -> Tensor:
    """A matrix with a gate for each row, (O,) or (1,), and each column, (I,)."""
    if columns is not None:
        weight_OI = weight_OI * columns
    return weight_OI if rows is None else weight_OI * rows[:, None]


def kept_of(gates: Gates, config: ModelConfig) -> Kept:
    """The members whose gates are above 0; in a layer that goes, none are named."""

    def members(gate: Tensor | None, size: int) -> tuple[int, ...]:
        return tuple(range(size) if gate is None else gate.nonzero()[:, 0].tolist())

    layers = members(gates.layers, config.depth)
    return Kept(
        layers=layers,
        hidden=members(gates.hidden, config.width),
        ffn=tuple(members(gates.neurons(layer), config.ffn) for layer in layers),
        kv_head=tuple(
            members(None if gates.kv_head is None else gates.kv_head[layer], config.kv_heads) for layer in layers
        ),
    )


@torch.no_grad()
def fold(model: Decoder, gates: Gates) -> Decoder:
    """A plain model of the same shape which computes what `model` computes behind `gates`, once the members whose gate
    is 0 are carved away: then its RMSNorms have only the survivors, as those of the masked model (model/carve.py).

    Raises ModelError for PanGu-π blocks, and where a tied head would need a division by a gate near 0.
    """
    check_family(model.config)
    config = model.config
    folded = Decoder(config).to(device=model.head_weight().device, dtype=model.head_weight().dtype)
    folded.load_state_dict(model.state_dict())
    if gates.hidden is not None:
        _check_smallest(gates.hidden, config)
        folded.model.embed_tokens.weight.mul_(gates.hidden)
        if config.tied:
            # Where the gate is 0 the channel goes.
            folded.model.norm.weight.div_(torch.where(gates.hidden > 0, gates.hidden, 1.0))
    layers: Any = folded.model.layers
    for index, layer in enumerate(layers):
        rows = gates.written(index)
        for writer, columns in (
            (layer.self_attn.o_proj, gates.heads(config, index)),
            (layer.mlp.down_proj, gates.neurons(index)),
        ):
            writer.weight.copy_(gated(writer.weight, rows, columns))
            if writer.bias is not None and rows is not None:
                writer.bias.mul_(rows)
    return folded


def check_family(config: ModelConfig) -> None:
    """ModelError where there are parts that have no gates."""
    if config.family != "llama":
        raise ModelError(
            f"masks are not learned for a {config.family}: not all of its parts have gates",
            where="model.family",
            mend="choose neurons by l1, l2 or taylor",
        )


def _check_smallest(gate: Tensor, config: ModelConfig) -> None:
    survivors = gate[gate > 0]
    if config.tied and len(survivors) and float(survivors.min()) < SMALLEST:
        channel = int((gate == survivors.min()).nonzero()[0, 0])
        raise ModelError(
            f"its gate is {float(survivors.min()):.2g}, and the last norm is divided by it, since the head is tied",
            where=f"hidden channel {channel}",
            mend="set it to 0, which drops the channel",
        )

"""Early exit: a token leaves the network after the first layer that is sure enough of what follows.

One head for all exits: the states after a layer pass the model's own last norm and head, and where the largest
probability is at least the threshold, that prediction is taken (CALM's softmax confidence, 2207.07061 §3.5, taken as
max p). Later tokens look at an exited one in the layers that it skipped: there its keys and values are made from the
state it left with (CALM's state propagation, §3.2), which takes one product for all skipped layers together. A layer
that is skipped is thus one that leaves the state as it is, in writing as in reading: `ExitReader` reads whole texts
that way, all positions at once, and finds what `ExitGenerator` would token by token.

A prompt is read through all layers; where the context is full and its last half is read again, that is a prompt too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lilliput.errors import ConfigError, ModelError
from lilliput.model.config import ModelConfig
from lilliput.model.decoder import Decoder
from lilliput.model.gemm import linear
from lilliput.model.generate import Generator, _Layer
from lilliput.model.loss import IGNORE, chunk_rows


@dataclass(frozen=True)
class Exits:
    """threshold: the least probability that is sure enough. layers: after how many layers a token may leave."""

    threshold: float
    layers: tuple[int, ...]

    @classmethod
    def of(cls, config: ModelConfig, threshold: float, layers: Sequence[int] | None = None) -> Exits:
        """Checked for a model of this shape; layers None: after each but the last. Raises ConfigError."""
        if not 0 < threshold <= 1:
            raise ConfigError(
                f"an exit at {threshold:g} is no probability", where="--exit", mend="give above 0, at most 1"
            )
        if config.family == "byte-pool":
            raise ConfigError("a byte-pooled model has no exits", where="--exit", mend="leave it out")
        if config.capacity:
            raise ConfigError(
                "a mixture of depths has no exits",
                where="--exit",
                mend="leave it out: such a model skips layers by itself",
            )
        if config.depth < 2:
            raise ConfigError("a model of one layer has no exit before the last", where="--exit", mend="leave it out")
        asked = range(1, config.depth) if layers is None else sorted(set(layers))
        if absent := [layer for layer in asked if not 0 < layer < config.depth]:
            raise ConfigError(
                f"there is no exit after layer {absent[0]}: the model has {config.depth} layers",
                where="--exit-layers",
                mend=f"give layers from 1 to {config.depth - 1}",
            )
        return cls(threshold, tuple(asked))


def _kv_rows(layer: _Layer, config: ModelConfig) -> tuple[Tensor, Tensor | None]:
    """The rows of a layer's joined matrix that give keys and values, and their biases."""
    first, last = config.heads * config.head_dim, (config.heads + 2 * config.kv_heads) * config.head_dim
    return layer.qkv[first:last], None if layer.qkv_bias is None else layer.qkv_bias[first:last]


class ExitGenerator(Generator):
    """A decoder that writes one text and leaves early. tokens: how many it has written; used: layers run for them."""

    @torch.inference_mode()
    def __init__(self, model: Decoder, exits: Exits) -> None:
        super().__init__(model, 1)
        self.exits, self.tokens, self.used = exits, 0, 0
        weights, biases = zip(*(_kv_rows(layer, model.config) for layer in self.layers), strict=True)
        self.kv_LRD = torch.stack(weights)
        self.kv_bias_LR = None if biases[0] is None else torch.stack(biases)

    @torch.inference_mode()
    def feed(self, ids_BT: Tensor) -> Tensor:
        """As `Generator.feed`; after a single id, the logits of the first exit that is sure."""
        if not self.position or ids_BT.shape[1] > 1 or self.position == self.config.context:
            logits_BV = super().feed(ids_BT)
            self._count(self.config.depth)
            return logits_BV
        x_ND = F.embedding(ids_BT, self.embedding).view(1, -1)
        turn_TE = self.turn_TE[self.position : self.position + 1, None]
        for done, layer in enumerate(self.layers, 1):
            x_ND = self._attend(x_ND, layer, self.cache[done - 1], turn_TE)
            x_ND = self._transform(x_ND, layer)
            if done in self.exits.layers or done == self.config.depth:
                logits_BV = self.linear(self._norm(x_ND), self.head, None).float()
                if bool(_confidence(logits_BV) >= self.exits.threshold):
                    break
        self._fill(x_ND, done)
        self.position += 1
        self._count(done)
        return logits_BV

    def _count(self, layers: int) -> None:
        self.tokens += 1
        self.used += layers

    def _fill(self, x_ND: Tensor, done: int) -> None:
        """Write this position's keys and values of the layers from `done` on, from the state it leaves with."""
        config, at = self.config, self.position
        kv_heads, head_dim, left = config.kv_heads, config.head_dim, config.depth - done
        if not left:
            return
        bias = None if self.kv_bias_LR is None else self.kv_bias_LR[done:].flatten()
        wide = self.linear(self._norm(x_ND), self.kv_LRD[done:].flatten(0, 1), bias)
        k_LKE, v_LKE = wide.view(left, 2 * kv_heads, head_dim).split_with_sizes([kv_heads, kv_heads], dim=1)
        if self.layers[0].qk_scale is not None:
            scales = [layer.qk_scale[config.heads :] for layer in self.layers[done:] if layer.qk_scale is not None]
            k_LKE = F.rms_norm(k_LKE, (head_dim,), None, config.norm_eps) * torch.stack(scales)
        pairs = torch.view_as_complex(k_LKE.float().reshape(left, kv_heads, head_dim // 2, 2))
        turned = torch.view_as_real(pairs * self.turn_TE[at]).flatten(-2)
        self.cache[done:, 0, 0, :, at] = turned.to(x_ND.dtype)
        self.cache[done:, 1, 0, :, at] = v_LKE


def _confidence(logits_BV: Tensor) -> Tensor:
    """The largest probability of each row."""
    return (logits_BV.amax(-1) - logits_BV.logsumexp(-1)).exp()


class ExitReader(nn.Module):
    """A decoder that predicts each position of a text from its own exit; called as `Decoder` is, for losses.

    scored: targets seen so far. used: layers run for the positions that predict them. checked: heads asked for them.
    """

    def __init__(self, model: Decoder, exits: Exits) -> None:
        super().__init__()
        self.model, self.exits, self.config = model, exits, model.config
        self.scored = self.used = self.checked = 0

    @torch.no_grad()
    def forward(
        self, ids_BT: Tensor, targets_BT: Tensor | None = None, reduction: str = "none", begin: int = 0
    ) -> Tensor:
        """Nats (B, T) of the targets, 0 where the target is −100.

        begin: positions before it run through all layers, as those of a prompt. Raises ModelError without targets or
        for a sequence longer than the context.
        """
        if targets_BT is None or reduction != "none" or ids_BT.shape[1] > self.config.context:
            raise ModelError("exits are read with targets, of at most the context")
        body, (batch, length) = self.model.model, ids_BT.shape
        cos, sin = body.turns(length)
        x_BTD = body.embed_tokens(ids_BT)
        left_BT = torch.zeros((batch, length), dtype=torch.bool, device=ids_BT.device)
        layers_BT = torch.full((batch, length), self.config.depth, device=ids_BT.device)
        nats_BT = torch.zeros((batch, length), device=ids_BT.device)
        scored_BT = targets_BT != IGNORE
        for done, layer in enumerate(body.layers, 1):
            x_BTD = torch.where(left_BT[..., None], x_BTD, layer(x_BTD, cos, sin))
            if done not in self.exits.layers and done < self.config.depth:
                continue
            asked_BT = ~left_BT
            asked_BT[:, : begin if done < self.config.depth else 0] = False
            nats_N, sure_N = self._judge(body.norm(x_BTD[asked_BT]), targets_BT[asked_BT])
            nats_BT[asked_BT] = nats_N
            leaving_BT = asked_BT.clone()
            leaving_BT[asked_BT] = sure_N >= self.exits.threshold
            if done < self.config.depth:
                layers_BT[leaving_BT] = done
            left_BT |= leaving_BT
            self.checked += int((asked_BT & scored_BT).sum())
        self.scored += int(scored_BT.sum())
        self.used += int(layers_BT[scored_BT].sum())
        return nats_BT

    def _judge(self, states_ND: Tensor, targets_N: Tensor) -> tuple[Tensor, Tensor]:
        """(nats of the targets, 0 where −100; the largest probability), the logits of a chunk at a time."""
        weight_VD = self.model.head_weight()
        rows = chunk_rows(weight_VD.shape[0], states_ND.device)
        nats, sure = [states_ND.new_empty(0, dtype=torch.float32)], [states_ND.new_empty(0, dtype=torch.float32)]
        for x_CD, target_C in zip(torch.split(states_ND, rows), torch.split(targets_N, rows), strict=True):
            logits_CV = linear(x_CD, weight_VD).float()
            nats.append(F.cross_entropy(logits_CV, target_C, ignore_index=IGNORE, reduction="none"))
            sure.append(_confidence(logits_CV))
        return torch.cat(nats), torch.cat(sure)

    def layers_used(self) -> float:
        """Layers run for a scored position, on average."""
        return self.used / max(1, self.scored)

    def arithmetic(self) -> float:
        """Multiplications of these positions as a share of what all layers and one head take, without attention's
        own: layers run, keys and values made for the others, and every head that was asked."""
        config = self.config
        layer, head = config.layer_matrix_parameters(), config.vocab_size * config.width
        filled = 2 * config.kv_heads * config.head_dim * config.width
        skipped = self.scored * config.depth - self.used
        spent = self.used * layer + skipped * filled + self.checked * head
        return spent / max(1, self.scored * (config.depth * layer + head))

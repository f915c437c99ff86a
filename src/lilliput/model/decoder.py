"""The decoder: Llama-shaped, with PanGu-π blocks or layers that share weights where asked, its tensors named as Hugging
Face names them.

The names come from the modules' names, so `state_dict()` is already the content of `model.safetensors`.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

from lilliput.errors import ModelError
from lilliput.model.config import ModelConfig
from lilliput.model.depths import RoutedBlock
from lilliput.model.gemm import linear
from lilliput.model.layers import Block, Linear, RMSNorm, rope_table
from lilliput.model.loss import cross_entropy
from lilliput.model.pangu import PanguBlock
from lilliput.model.shared_block import shared_layers


class Embedding(nn.Embedding):
    """A look-up table that starts at zero (see `layers.Linear`)."""

    def reset_parameters(self) -> None:
        nn.init.zeros_(self.weight)


class Body(nn.Module):
    """Embedding, layers and last norm: ids_BT to states_BTD."""

    cos: Tensor
    sin: Tensor

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.embed_tokens = Embedding(config.vocab_size, config.width)
        block = PanguBlock if config.family == "pangu" else Block
        routed = config.routed_layers()
        plain = ((RoutedBlock if index in routed else block)(config) for index in range(config.depth))
        self.layers = nn.ModuleList(plain if config.share is None else shared_layers(config, config.share))
        self.norm = RMSNorm(config.width, config.norm_eps)
        cos, sin = rope_table(config.context, config.head_dim, config.rope_theta)
        self.register_buffer("cos", cos, persistent=False)
        self.register_buffer("sin", sin, persistent=False)

    def turns(self, length: int) -> tuple[Tensor, Tensor]:
        """cos and sin of the first positions, as layers take them."""
        return self.cos[:length], self.sin[:length]

    def forward(self, ids_BT: Tensor) -> Tensor:
        cos, sin = self.turns(ids_BT.shape[1])
        x_BTD = self.embed_tokens(ids_BT)
        for layer in self.layers:
            x_BTD = layer(x_BTD, cos, sin)
        states_BTD: Tensor = self.norm(x_BTD)
        return states_BTD


class Decoder(nn.Module):
    """A causal language model. All weights are zero (norms one) until `initialise` or a load sets them."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.model = Body(config)
        if not config.tied:
            self.lm_head = Linear(config.width, config.vocab_size, bias=False)

    def head_weight(self) -> Tensor:
        """The head's matrix (vocab, width); the embedding's where tied."""
        weight: Tensor = self.model.embed_tokens.weight if self.config.tied else self.lm_head.weight
        return weight

    def forward(
        self,
        ids_BT: Tensor,
        targets_BT: Tensor | None = None,
        reduction: str = "sum",
        walk: Callable[[Decoder, Tensor, Tensor], Tensor] | None = None,
    ) -> Tensor:
        """Logits or loss.

        ids_BT: int64 ids. targets_BT: the id to predict at each position, −100 where none; None asks for
        logits_BTV in fp32. With targets: cross-entropy in nats, chunked, so that no B·T·V array exists:
        reduction "sum" gives a scalar, "none" gives (B, T) with 0 where the target is −100.
        walk: another way through the layers, to its own result, which an objective may take (train/layer_skip.py).
        Raises ModelError where the sequence is longer than the trained context.
        """
        batch, length = ids_BT.shape
        if length > self.config.context:
            raise ModelError(
                f"{length} positions are more than the model's context of {self.config.context}",
                mend="cut the text into windows",
            )
        if walk is not None and targets_BT is not None:
            return walk(self, ids_BT, targets_BT)
        x_BTD = self.model(ids_BT)
        weight_VD = self.head_weight()
        if targets_BT is None:
            return linear(x_BTD, weight_VD).float()
        loss = cross_entropy(x_BTD.flatten(0, 1), weight_VD, targets_BT.flatten(), reduction)
        return loss if reduction == "sum" else loss.view(batch, length)

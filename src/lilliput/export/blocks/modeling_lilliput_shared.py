"""A Llama whose layers share weights, for transformers, 4.56 or later. Written by Lilliput.

Everything is the Llama of transformers, but a layer may use matrices of a layer before it: its feed-forward's, its
attention's output, or, in a block that is run several times, all that it has. Such a tensor is stored by the first
layer that uses it. Each use may add a LoRA (arXiv 2106.09685): x·Wᵀ + B·(A·x), B being zero in a new model. Every layer
has its own place in the key-value cache.
"""

# mypy: ignore-errors
from torch import nn
from torch.nn import functional as F
from transformers.models.llama.modeling_llama import LlamaForCausalLM, LlamaModel

from .configuration_lilliput_shared import LilliputSharedConfig

NORMS = ("input_layernorm", "post_attention_layernorm")
MATRICES = (
    *(f"self_attn.{name}_proj" for name in "qkvo"),
    *(f"mlp.{name}_proj" for name in ("gate", "up", "down")),
)


class LilliputSharedOutput(nn.Linear):
    """A matrix that starts at zero."""


class LilliputSharedLinear(nn.Module):
    """x·Wᵀ + bias with W and bias of the layer `first` (None: of this one), and a LoRA of this layer."""

    def __init__(self, plain, first, rank):
        super().__init__()
        # In a tuple, since a module set as an attribute would become a part of this one.
        self._first = () if first is None else (first,)
        if first is None:
            self.weight, self.bias = plain.weight, plain.bias
        if rank:
            self.lora_A = nn.Linear(plain.in_features, rank, bias=False)
            self.lora_B = LilliputSharedOutput(rank, plain.out_features, bias=False)

    def forward(self, x):
        stored = self._first[0] if self._first else self
        out = F.linear(x, stored.weight, stored.bias)
        return out + self.lora_B(self.lora_A(x)) if hasattr(self, "lora_A") else out


class LilliputSharedNorm(nn.Module):
    """Another layer's norm."""

    def __init__(self, first):
        super().__init__()
        self._first = (first,)

    def forward(self, x):
        return self._first[0](x)


def _share(layers, config):
    for part in (*NORMS, *MATRICES):
        owners = config.share_owners(part)
        parent, _, name = part.rpartition(".")
        for index, owner in enumerate(owners):
            first = layers[owner].get_submodule(part) if owner < index else None
            place = layers[index].get_submodule(parent)
            rank = config.share_lora if part in MATRICES and owners.count(owner) > 1 else 0
            if part in NORMS and first is not None:
                setattr(place, name, LilliputSharedNorm(first))
            elif part in MATRICES and (first is not None or rank):
                setattr(place, name, LilliputSharedLinear(getattr(place, name), first, rank))


def _start(module, deviation):
    """Start what Llama does not know; the functions of nn.init leave alone what was loaded from a file."""
    if isinstance(module, LilliputSharedOutput):
        nn.init.zeros_(module.weight)
    elif isinstance(module, LilliputSharedLinear) and not module._first:
        nn.init.normal_(module.weight, std=deviation)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


class LilliputSharedModel(LlamaModel):
    """The layers without a head."""

    config_class = LilliputSharedConfig

    def __init__(self, config):
        super().__init__(config)
        _share(self.layers, config)
        self.post_init()

    def _init_weights(self, module):
        super()._init_weights(module)
        _start(module, self.config.initializer_range)


class LilliputSharedForCausalLM(LlamaForCausalLM):
    """The layers and a head that predicts the next token."""

    config_class = LilliputSharedConfig

    def __init__(self, config):
        super().__init__(config)
        self.model = LilliputSharedModel(config)
        self.post_init()

    def _init_weights(self, module):
        super()._init_weights(module)
        _start(module, self.config.initializer_range)

"""A Llama with PanGu-π blocks (arXiv 2312.17276) for transformers, 4.56 or later. Written by Lilliput.

Everything is the Llama of transformers but two things, each of which may be off:

- augmented shortcut (§4.1): attention's output gains T(Z) = GELU(Z·A)·B, Z being what attention reads;
- series-informed activation (§4.2): the gate of the feed-forward goes through SiLU(a_1·x + b_1) + SiLU(a_2·x + b_2),
  with a scale and a shift of each term for every channel.

A new model starts as the plain Llama, exactly: B, a_2, b_1 and b_2 are zero, a_1 is one.
"""

# mypy: ignore-errors
import torch
from torch import nn
from torch.nn import functional as F
from transformers.models.llama.modeling_llama import LlamaAttention, LlamaForCausalLM, LlamaModel

from .configuration_lilliput_pangu import LilliputPanguConfig


class LilliputPanguOutput(nn.Linear):
    """A matrix that starts at zero."""


class LilliputPanguShortcut(nn.Module):
    """T: hidden_size → shortcut_size → hidden_size, with GELU between and no biases."""

    def __init__(self, config):
        super().__init__()
        self.in_proj = nn.Linear(config.hidden_size, config.shortcut_size, bias=False)
        self.out_proj = LilliputPanguOutput(config.shortcut_size, config.hidden_size, bias=False)

    def forward(self, hidden_states):
        return self.out_proj(F.gelu(self.in_proj(hidden_states)))


class LilliputPanguAttention(LlamaAttention):
    """Attention plus T of the same input."""

    def __init__(self, config, layer_idx):
        super().__init__(config, layer_idx)
        self.shortcut = LilliputPanguShortcut(config)

    def forward(self, hidden_states, *args, **kwargs):
        attended, *others = super().forward(hidden_states, *args, **kwargs)
        return (attended + self.shortcut(hidden_states), *others)


class LilliputPanguActivation(nn.Module):
    """SiLU(a_1·x + b_1) + SiLU(a_2·x + b_2)."""

    def __init__(self, size):
        super().__init__()
        self.scale_1 = nn.Parameter(torch.ones(size))
        self.shift_1 = nn.Parameter(torch.zeros(size))
        self.scale_2 = nn.Parameter(torch.zeros(size))
        self.shift_2 = nn.Parameter(torch.zeros(size))

    def forward(self, x):
        first = torch.addcmul(self.shift_1.to(x.dtype), x, self.scale_1.to(x.dtype))
        second = torch.addcmul(self.shift_2.to(x.dtype), x, self.scale_2.to(x.dtype))
        return F.silu(first) + F.silu(second)


def _start(module):
    """Start the additions as nothing; the functions of nn.init leave alone what was loaded from a file."""
    if isinstance(module, LilliputPanguOutput):
        nn.init.zeros_(module.weight)
    elif isinstance(module, LilliputPanguActivation):
        nn.init.ones_(module.scale_1)
        for part in (module.shift_1, module.scale_2, module.shift_2):
            nn.init.zeros_(part)


class LilliputPanguModel(LlamaModel):
    """The layers without a head."""

    config_class = LilliputPanguConfig

    def __init__(self, config):
        super().__init__(config)
        for index, layer in enumerate(self.layers):
            if config.shortcut_size:
                layer.self_attn = LilliputPanguAttention(config, index)
            if config.activation_series > 1:
                layer.mlp.act_fn = LilliputPanguActivation(config.intermediate_size)
        self.post_init()

    def _init_weights(self, module):
        super()._init_weights(module)
        _start(module)


class LilliputPanguForCausalLM(LlamaForCausalLM):
    """The layers and a head that predicts the next token."""

    config_class = LilliputPanguConfig

    def __init__(self, config):
        super().__init__(config)
        self.model = LilliputPanguModel(config)
        self.post_init()

    def _init_weights(self, module):
        super()._init_weights(module)
        _start(module)

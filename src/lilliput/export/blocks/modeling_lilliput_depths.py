"""A mixture of depths (arXiv 2404.02258) for transformers, 4.56 or later. Written by Lilliput.

Everything is the Llama of transformers but the routed layers: such a layer runs for the tokens that its predictor
chooses, as queries, keys and values alone; it adds router(x) times what it would add, and leaves all others as they
are. The cache keeps a place for each token in every layer; which of them count is noted beside it. A batch of prompts
of several lengths is padded on the left, as transformers does; beams are not reordered, so search is without beams.

It evaluates and writes. Training chooses by rank within a sequence, which is Lilliput's own business.
"""

# mypy: ignore-errors
import torch
from torch import nn
from transformers.models.llama.modeling_llama import LlamaDecoderLayer, LlamaForCausalLM, LlamaModel

from .configuration_lilliput_depths import LilliputDepthsConfig

_NOTE = "lilliput_counted"


class LilliputDepthsRouter(nn.Module):
    """One number for each token."""

    def __init__(self, size, bias):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(size))
        self.bias = nn.Parameter(torch.zeros(1)) if bias else None

    def forward(self, hidden_states):
        found = (hidden_states.float() * self.weight.float()).sum(-1)
        return found if self.bias is None else found + self.bias.float()


class LilliputDepthsLayer(LlamaDecoderLayer):
    """A layer that runs for the tokens its predictor chooses."""

    def __init__(self, config, layer_idx):
        super().__init__(config, layer_idx)
        self.layer_idx = layer_idx
        self.router = LilliputDepthsRouter(config.hidden_size, bias=False)
        self.predictor = LilliputDepthsRouter(config.hidden_size, bias=True)

    def forward(self, hidden_states, attention_mask=None, **kwargs):
        chosen = self.predictor(hidden_states) > 0
        cache = kwargs.get("cache", kwargs.get("past_key_values"))
        counted = self._note(cache, chosen)
        mask = self._mask(hidden_states, attention_mask, counted)
        out = super().forward(hidden_states, attention_mask=mask, **kwargs)
        first, *others = out if isinstance(out, tuple) else (out,)
        scale = (self.router(hidden_states) * chosen)[..., None].to(hidden_states.dtype)
        first = hidden_states + (first - hidden_states) * scale
        return (first, *others) if isinstance(out, tuple) else first

    def _note(self, cache, chosen):
        """Which of the cached tokens, these among them, count in this layer."""
        if cache is None:
            return chosen
        noted = cache.__dict__.setdefault(_NOTE, {})
        before = noted.get(self.layer_idx) if cache.get_seq_length(self.layer_idx) else None
        noted[self.layer_idx] = chosen if before is None else torch.cat((before, chosen), 1)
        return noted[self.layer_idx]

    def _mask(self, hidden_states, attention_mask, counted):
        """What each token sees: of those before it the counted ones, and itself, so that no row is empty."""
        length, total = hidden_states.shape[1], counted.shape[1]
        at = torch.arange(total, device=hidden_states.device)
        here = at[total - length :, None]
        seen = (at <= here) & (counted[:, None, :] | (at == here))
        seen = seen[:, None]
        if attention_mask is not None:
            given = attention_mask[..., :total]
            seen = seen & (given if given.dtype == torch.bool else given >= 0) | (at == here)
        lowest = torch.finfo(hidden_states.dtype).min
        return torch.zeros(seen.shape, dtype=hidden_states.dtype, device=seen.device).masked_fill(~seen, lowest)


class LilliputDepthsModel(LlamaModel):
    """The layers without a head."""

    config_class = LilliputDepthsConfig

    def __init__(self, config):
        super().__init__(config)
        for index in range(config.routed_every - 1, config.num_hidden_layers, config.routed_every):
            self.layers[index] = LilliputDepthsLayer(config, index)
        self.post_init()


class LilliputDepthsForCausalLM(LlamaForCausalLM):
    """The layers and a head that predicts the next token."""

    config_class = LilliputDepthsConfig
    _supports_flash_attn = False
    _supports_flex_attn = False

    def __init__(self, config):
        super().__init__(config)
        self.model = LilliputDepthsModel(config)
        self.post_init()

"""A BERT with a convolutional front end for transformers, 4.56 or later. Written by Lilliput.

Everything is the BERT of transformers but the front end: the embedded text, positions × width, is taken for an image
of one channel and passes [3×3 convolution, batch norm, GELU] × n and a 1×1 convolution back to one channel with batch
norm and GELU. Padded places, which are told by their id, are zero before each convolution and count in no statistics.
"""

# mypy: ignore-errors
import torch
from torch import nn
from torch.nn import functional as F
from transformers.models.bert.modeling_bert import (
    BertEmbeddings,
    BertForMaskedLM,
    BertForSequenceClassification,
    BertModel,
)

from .configuration_lilliput_encoder import LilliputEncoderConfig


class LilliputMaskedBatchNorm(nn.Module):
    """Batch norm over the places of real tokens alone."""

    def __init__(self, channels, momentum=0.1, eps=1e-5):
        super().__init__()
        self.momentum, self.eps = momentum, eps
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))

    def forward(self, x, real):
        mean, variance = self.running_mean, self.running_var
        if self.training:
            count = real.sum() * x.shape[3]
            mean = (x * real).sum((0, 2, 3)) / count
            variance = ((x - mean[:, None, None]).square() * real).sum((0, 2, 3)) / count
            with torch.no_grad():
                self.running_mean.lerp_(mean.to(self.running_mean.dtype), self.momentum)
                self.running_var.lerp_((variance * count / (count - 1)).to(self.running_var.dtype), self.momentum)
        scale = self.weight * torch.rsqrt(variance + self.eps)
        shift = self.bias - mean * scale
        return torch.addcmul(shift[:, None, None], x, scale[:, None, None]).to(x.dtype)


class LilliputConvUnit(nn.Module):
    """Convolution, batch norm, GELU."""

    def __init__(self, inputs, outputs, size):
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, size, padding=size // 2)
        self.norm = LilliputMaskedBatchNorm(outputs)

    def forward(self, x, real):
        return F.gelu(self.norm(self.conv(x * real), real))


class LilliputConvFront(nn.Module):
    """n units of size 3, 1 → c → … → c, and one of size 1 back to one channel."""

    def __init__(self, layers, channels):
        super().__init__()
        inner = [LilliputConvUnit(1 if at == 0 else channels, channels, 3) for at in range(layers)]
        self.layers = nn.ModuleList([*inner, LilliputConvUnit(channels, 1, 1)])

    def forward(self, x, real):
        x = x[:, None]
        real = real[:, None, :, None].to(x.dtype)
        for layer in self.layers:
            x = layer(x, real)
        return x[:, 0]


class LilliputEncoderEmbeddings(BertEmbeddings):
    """BERT's embeddings, then the front end."""

    def __init__(self, config):
        super().__init__(config)
        self.front = LilliputConvFront(config.conv_layers, config.conv_channels)
        self.pad = config.pad_token_id

    def forward(self, input_ids=None, *args, **kwargs):
        x = super().forward(input_ids, *args, **kwargs)
        if input_ids is None:
            return self.front(x, torch.ones(x.shape[:2], dtype=torch.bool, device=x.device))
        return self.front(x, input_ids != self.pad)


class LilliputEncoderModel(BertModel):
    """The layers without a head."""

    config_class = LilliputEncoderConfig

    def __init__(self, config, add_pooling_layer=True):
        super().__init__(config, add_pooling_layer=add_pooling_layer)
        if config.conv_layers:
            self.embeddings = LilliputEncoderEmbeddings(config)
        self.post_init()


class LilliputEncoderForMaskedLM(BertForMaskedLM):
    """The layers and a head that predicts the pieces behind masks."""

    config_class = LilliputEncoderConfig

    def __init__(self, config):
        super().__init__(config)
        self.bert = LilliputEncoderModel(config, add_pooling_layer=False)
        self.post_init()


class LilliputEncoderForSequenceClassification(BertForSequenceClassification):
    """The layers and a head that tells the label of a text."""

    config_class = LilliputEncoderConfig

    def __init__(self, config):
        super().__init__(config)
        self.bert = LilliputEncoderModel(config)
        self.post_init()

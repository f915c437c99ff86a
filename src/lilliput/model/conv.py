"""The convolutional front end of a shallow encoder (the TLM paper, METHODS "TLM").

The embedded sequence, positions × width, is taken for an image of one channel: n × [3×3 convolution, batch norm, GELU],
1 → c → … → c, then a 1×1 convolution back to one channel, batch norm, GELU. The paper does not say what becomes of
padding. Here it is nothing: padded places are zero before each convolution, as the border is, and count in no
statistics, so that what a text comes to does not depend on what it is batched with.

Shape suffixes: B sequences, C channels, S positions, H width.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

MOMENTUM, EPS = 0.1, 1e-5  # PyTorch's own, for batch norm


class Conv2d(nn.Conv2d):
    """A convolution that starts at zero: `initialise` or a file gives the weights."""

    def reset_parameters(self) -> None:
        nn.init.zeros_(self.weight)
        if self.bias is not None:
            nn.init.zeros_(self.bias)


class MaskedBatchNorm(nn.Module):
    """Batch norm over the places of real tokens alone (1502.03167).

    In training (x − mean) / √(variance + ε) of the batch, each channel over all real places; in evaluation by running
    means, which move by a tenth at each training batch (the variance unbiased, as PyTorch's).
    """

    running_mean: Tensor
    running_var: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))

    def forward(self, x_BCSH: Tensor, real_B1S1: Tensor) -> Tensor:
        if self.training:
            x = x_BCSH.float()
            count = real_B1S1.sum() * x.shape[3]
            mean_C = (x * real_B1S1).sum((0, 2, 3)) / count
            spread = (x - mean_C[:, None, None]).square() * real_B1S1
            variance_C = spread.sum((0, 2, 3)) / count
            with torch.no_grad():
                self.running_mean.lerp_(mean_C, MOMENTUM)
                self.running_var.lerp_(variance_C * (count / (count - 1)), MOMENTUM)
        else:
            mean_C, variance_C = self.running_mean, self.running_var
        scale_C = self.weight * torch.rsqrt(variance_C + EPS)
        shift_C = self.bias - mean_C * scale_C
        return torch.addcmul(shift_C[:, None, None], x_BCSH, scale_C[:, None, None]).to(x_BCSH.dtype)


class ConvUnit(nn.Module):
    """Convolution, batch norm, GELU; size: 3 with a border of zeros, or 1."""

    def __init__(self, inputs: int, outputs: int, size: int) -> None:
        super().__init__()
        self.conv = Conv2d(inputs, outputs, size, padding=size // 2)
        self.norm = MaskedBatchNorm(outputs)

    def forward(self, x_BCSH: Tensor, real_B1S1: Tensor) -> Tensor:
        return F.gelu(self.norm(self.conv(x_BCSH * real_B1S1), real_B1S1))


class ConvFront(nn.Module):
    """The whole front end: (B, S, H) to (B, S, H)."""

    def __init__(self, layers: int, channels: int) -> None:
        super().__init__()
        inner = [ConvUnit(1 if at == 0 else channels, channels, 3) for at in range(layers)]
        self.layers = nn.ModuleList([*inner, ConvUnit(channels, 1, 1)])

    def forward(self, x_BSH: Tensor, real_BS: Tensor) -> Tensor:
        """real_BS: which positions hold tokens (bool)."""
        x_BCSH, real_B1S1 = x_BSH[:, None], real_BS[:, None, :, None].to(x_BSH.dtype)
        for layer in self.layers:
            x_BCSH = layer(x_BCSH, real_B1S1)
        return x_BCSH[:, 0]

"""A start for encoders whose heads already look at the tokens beside them.

With learned positions, attention has to find each neighbour place by place before anything else can be learned from
it; a short pre-training ends before that. Here the positions begin as waves, and the first layer's heads begin turned
to the places beside each: what they make of them is learned, and on disk it is BERT like any other.

Place t is the wave s_t = (cos ω_k t, sin ω_k t)/√K, k < K = head_dim/2, laid along K pairs of random orthonormal
directions U: positions P = S·Uᵀ. A head that is to look d places on has the keys g·Uᵀ and the queries g·R(d)·Uᵀ, where
R(d) turns each pair by ω_k·d. Then q_i·k_j = g²·Σ_k cos ω_k(i + d − j)/K times what the norm before leaves of the
positions, largest at j = i + d. ω_k = π((k + ½)/K)^1.25: with the exponent 1 the sum is zero at every other place, but
comes again after 2·head_dim places; at 1.25 nothing within 128 places reaches half of it from 32 channels a head on.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from lilliput.model.init import drawn

if TYPE_CHECKING:
    from lilliput.model.encoder_config import EncoderConfig

_BEND = 1.25
# What attention's score of the neighbour is above that of any other place, on average, before the softmax: of 128
# places it then gets about three quarters. [D] Measured: docs/encoders.md.
PEAK = 6.0


def steps(heads: int) -> list[int]:
    """How many places on each head looks: one back, one on, two back, two on, and so forth."""
    return [(head // 2 + 1) * (-1 if head % 2 == 0 else 1) for head in range(heads)]


def waves(context: int, pairs: int) -> tuple[Tensor, Tensor]:
    """(each place as a wave of length one (context, 2·pairs), the frequencies (pairs,)), fp32."""
    places = (torch.arange(pairs) + 0.5) / pairs
    frequencies = math.pi * places**_BEND
    angles = torch.arange(context)[:, None] * frequencies
    return torch.cat((angles.cos(), angles.sin()), dim=1) / math.sqrt(pairs), frequencies


def turned(frequencies: Tensor, places: int) -> Tensor:
    """R: turns the wave of place t into that of t + `places`; (2·pairs, 2·pairs)."""
    angles = places * frequencies
    cos, sin = angles.cos().diag(), angles.sin().diag()
    return torch.cat((torch.cat((cos, -sin), dim=1), torch.cat((sin, cos), dim=1)))


def turn_to_neighbours(
    config: EncoderConfig, positions_SD: Tensor, query_DD: Tensor, key_DD: Tensor, seed: int
) -> None:
    """Set the positions' table and the first layer's matrices of queries and keys, whose rows are the heads' channels.
    In place; heads of one channel stay as they are."""
    size, pairs = config.head_dim, config.head_dim // 2
    if not pairs:
        return
    wave, frequencies = waves(config.context, pairs)
    basis = torch.linalg.qr(drawn("bert.embeddings.position_embeddings.basis", (config.width, 2 * pairs), seed))[0]
    # Pieces, positions and token types enter the norm at equal length, so it leaves width/3 of the square to positions.
    gain = math.sqrt(PEAK * math.sqrt(size) * 3 / config.width)
    with torch.no_grad():
        positions_SD.copy_(wave @ basis.T)
        for head, places in enumerate(steps(config.heads)):
            rows = slice(head * size, head * size + 2 * pairs)
            query_DD[rows] = gain * turned(frequencies, places) @ basis.T
            key_DD[rows] = gain * basis.T

"""Attention in writing where positions do not simply see all that is cached."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor
from torch.nn import functional as F

if TYPE_CHECKING:
    from lilliput.model.generate import Generator, _Layer


def attend_masked(
    writer: Generator, x_ND: Tensor, layer: _Layer, cache: Tensor, start: int, seen_BTS: Tensor
) -> Tensor:
    """Attention of positions that follow `start` cached ones; else as `Generator._attend`, which they are cached by.

    seen_BTS: which of the cached positions, themselves among them, each sees; B may be 1 for all.
    """
    heads, length = writer.config.heads, x_ND.shape[0] // writer.batch
    end = start + length
    qk_BTHE, v_BTKE, inner_NS = writer._project(
        x_ND, layer, (writer.batch, length), writer.turn_TE[start:end, None]
    )
    cache[0, :, :, start:end] = qk_BTHE[:, :, heads:].transpose(1, 2)
    cache[1, :, :, start:end] = v_BTKE.transpose(1, 2)
    out_BHTE = F.scaled_dot_product_attention(
        qk_BTHE[:, :, :heads].transpose(1, 2),
        cache[0, :, :, :end],
        cache[1, :, :, :end],
        attn_mask=seen_BTS[:, None],
        enable_gqa=heads != writer.config.kv_heads,
    )
    return writer._rejoin(x_ND, out_BHTE.transpose(1, 2).reshape(x_ND.shape[0], -1), inner_NS, layer)

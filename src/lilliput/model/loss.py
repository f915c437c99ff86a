"""Cross-entropy that never holds the logits of all positions.

For vocabulary V and N = B·T positions the logits and their gradient are N·V numbers: at V = 16k and 4096
positions 268 MB each. Here positions go by in chunks: the logits of a chunk live in one small buffer, and the
gradient with respect to the states and to the head is computed on the spot, while they are still in cache,
so the backward pass only scales it. (The idea of Liger's and of Apple's cut cross-entropy, 2411.09009.)
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from lilliput.model.gemm import multiply

IGNORE = -100  # targets with this id are not scored

_CHUNK_ELEMENTS = {"cpu": 1 << 22, "cuda": 1 << 26}  # logits alive at once


def chunk_rows(vocab: int, device: torch.device) -> int:
    """Positions in one chunk: a multiple of 16, at least 64."""
    rows = _CHUNK_ELEMENTS.get(device.type, 1 << 24) // vocab
    return max(64, rows // 16 * 16)


def _compute_dtype(x: Tensor) -> torch.dtype:
    """What the matrix products run in: autocast's type where it is on (it does not reach in here)."""
    if torch.is_autocast_enabled(x.device.type):
        return torch.get_autocast_dtype(x.device.type)
    return x.dtype


def _chunk(x_CD: Tensor, w_VD: Tensor, target_C: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """(nll_C, softmax_CV fp32, index_C1, scored_C1) of one chunk."""
    scored_C1 = (target_C != IGNORE)[:, None]
    index_C1 = torch.where(scored_C1, target_C[:, None], 0)
    logits_CV = multiply(x_CD, w_VD).float()
    peak_C1, picked_C1 = logits_CV.amax(1, keepdim=True), logits_CV.gather(1, index_C1)
    p_CV = torch.softmax(logits_CV, 1)
    # The largest probability is at least 1/V, so its logarithm is safe; one pass less than logsumexp.
    lse_C1 = peak_C1 - p_CV.amax(1, keepdim=True).log()
    nll_C = torch.where(scored_C1, lse_C1 - picked_C1, 0.0)[:, 0]
    return nll_C, p_CV, index_C1, scored_C1


def _each(x_ND: Tensor, w_VD: Tensor, targets_N: Tensor) -> Tensor:
    """Negative log-likelihood of every position."""
    rows = chunk_rows(w_VD.shape[0], x_ND.device)
    return torch.cat(
        [
            _chunk(x_CD, w_VD, target_C)[0]
            for x_CD, target_C in zip(torch.split(x_ND, rows), torch.split(targets_N, rows), strict=True)
        ]
    )


def _gradients(
    x_ND: Tensor, w_VD: Tensor, targets_N: Tensor, weight_N: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """(Σ nll, d/dx, d/dwᵀ) of Σ weight · nll; weight None means 1. The head's gradient comes as (D, V), the
    layout in which the product is quickest, and in fp32."""
    total = torch.zeros((), dtype=torch.float32, device=x_ND.device)
    dw_DV = torch.zeros(w_VD.shape[1], w_VD.shape[0], dtype=torch.float32, device=x_ND.device)
    dx_parts = []
    rows = chunk_rows(w_VD.shape[0], x_ND.device)
    for start in range(0, x_ND.shape[0], rows):
        x_CD, target_C = x_ND[start : start + rows], targets_N[start : start + rows]
        nll_C, g_CV, index_C1, scored_C1 = _chunk(x_CD, w_VD, target_C)
        total += nll_C.sum()
        # d nll / d logits = softmax − onehot. What scales whole rows (0 for unscored ones) is applied to the
        # narrow factors of the two products, not to the wide buffer.
        g_CV = g_CV.scatter_add_(1, index_C1, torch.full_like(g_CV[:, :1], -1.0)).to(x_ND.dtype)
        scale_C1 = scored_C1 if weight_N is None else scored_C1 * weight_N[start : start + rows, None]
        scale_C1 = scale_C1.to(x_ND.dtype)
        dx_parts.append(multiply(g_CV, w_VD.t()) * scale_C1)
        dw_DV += multiply((x_CD * scale_C1).t(), g_CV.t())
    return total, torch.cat(dx_parts), dw_DV


# On the CPU the chunk loops are opaque operators: torch.compile would unroll them for nothing. On a GPU it
# sees into them and fuses the passes over the logits.
@torch.library.custom_op("lilliput::loss_each", mutates_args=())
def _each_cpu(x_ND: Tensor, w_VD: Tensor, targets_N: Tensor) -> Tensor:
    return _each(x_ND, w_VD, targets_N)


@_each_cpu.register_fake
def _(x_ND: Tensor, w_VD: Tensor, targets_N: Tensor) -> Tensor:
    return x_ND.new_empty(targets_N.shape, dtype=torch.float32)


@torch.library.custom_op("lilliput::loss_gradients", mutates_args=())
def _gradients_cpu(
    x_ND: Tensor, w_VD: Tensor, targets_N: Tensor, weight_N: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    return _gradients(x_ND, w_VD, targets_N, weight_N)


@_gradients_cpu.register_fake
def _(
    x_ND: Tensor, w_VD: Tensor, targets_N: Tensor, weight_N: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    wide = w_VD.new_empty(w_VD.shape[1], w_VD.shape[0], dtype=torch.float32)
    return wide.new_empty(()), torch.empty_like(x_ND), wide


class _SumLoss(torch.autograd.Function):
    """Σ nll; its gradients are found in the forward pass."""

    @staticmethod
    def forward(ctx: Any, x_ND: Tensor, w_VD: Tensor, targets_N: Tensor) -> Tensor:
        dtype = _compute_dtype(x_ND)
        compute = torch.ops.lilliput.loss_gradients if x_ND.device.type == "cpu" else _gradients
        total, dx_ND, dw_DV = compute(x_ND.to(dtype), w_VD.to(dtype), targets_N, None)
        ctx.save_for_backward(dx_ND, dw_DV)
        ctx.dtypes = (x_ND.dtype, w_VD.dtype)
        return total

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        dx_ND, dw_DV = ctx.saved_tensors
        return (dx_ND * grad).to(ctx.dtypes[0]), (dw_DV.t() * grad).to(ctx.dtypes[1]), None


class _EachLoss(torch.autograd.Function):
    """nll of each position; the logits are computed again in the backward pass, because the weight of each
    position is known only then."""

    @staticmethod
    def forward(ctx: Any, x_ND: Tensor, w_VD: Tensor, targets_N: Tensor) -> Tensor:
        ctx.save_for_backward(x_ND, w_VD, targets_N)
        ctx.compute_dtype = _compute_dtype(x_ND)
        return _each_positions(x_ND, w_VD, targets_N)

    @staticmethod
    def backward(ctx: Any, grad_N: Tensor) -> tuple[Tensor, Tensor, None]:
        x_ND, w_VD, targets_N = ctx.saved_tensors
        dtype = ctx.compute_dtype
        compute = torch.ops.lilliput.loss_gradients if x_ND.device.type == "cpu" else _gradients
        _, dx_ND, dw_DV = compute(x_ND.to(dtype), w_VD.to(dtype), targets_N, grad_N)
        return dx_ND.to(x_ND.dtype), dw_DV.t().to(w_VD.dtype), None


def _each_positions(x_ND: Tensor, w_VD: Tensor, targets_N: Tensor) -> Tensor:
    dtype = _compute_dtype(x_ND)
    compute = torch.ops.lilliput.loss_each if x_ND.device.type == "cpu" else _each
    each_N: Tensor = compute(x_ND.to(dtype), w_VD.to(dtype), targets_N)
    return each_N


def cross_entropy(x_ND: Tensor, w_VD: Tensor, targets_N: Tensor, reduction: str = "sum") -> Tensor:
    """Cross-entropy in nats of softmax(x · wᵀ) against the targets, computed chunk by chunk.

    x_ND: final states. w_VD: head. targets_N: ids, IGNORE where not scored. reduction: "sum" gives a scalar,
    "none" gives N values with 0 where not scored. Accumulated in fp32 whatever the type of the states.
    """
    if reduction not in ("sum", "none"):
        raise ValueError(f"reduction must be sum or none, not {reduction!r}")
    if not (torch.is_grad_enabled() and (x_ND.requires_grad or w_VD.requires_grad)):
        each_N = _each_positions(x_ND, w_VD, targets_N)
        return each_N.sum() if reduction == "sum" else each_N
    function = _SumLoss if reduction == "sum" else _EachLoss
    loss: Tensor = function.apply(x_ND, w_VD, targets_N)  # type: ignore[no-untyped-call]
    return loss

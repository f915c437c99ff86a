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

IGNORE = -100  # targets with this id are not scored

_CHUNK_ELEMENTS = {"cpu": 1 << 20, "cuda": 1 << 26}  # logits alive at once


def chunk_rows(vocab: int, device: torch.device) -> int:
    """Positions in one chunk: a multiple of 16, at least 64."""
    rows = _CHUNK_ELEMENTS.get(device.type, 1 << 24) // vocab
    return max(64, rows // 16 * 16)


def _compute_dtype(x: Tensor) -> torch.dtype:
    """What the matrix products run in: autocast's type where it is on (it does not reach in here)."""
    if torch.is_autocast_enabled(x.device.type):
        return torch.get_autocast_dtype(x.device.type)
    return x.dtype


class _SumLoss(torch.autograd.Function):
    """Sum of the negative log-likelihoods in nats, fp32."""

    @staticmethod
    def forward(ctx: Any, x_ND: Tensor, w_VD: Tensor, targets_N: Tensor) -> Tensor:
        need_x, need_w = ctx.needs_input_grad[0], ctx.needs_input_grad[1]
        dtype = _compute_dtype(x_ND)
        weight, states = w_VD.to(dtype), x_ND.to(dtype)
        dx_ND = torch.empty_like(states) if need_x else None
        dw_VD = torch.zeros(w_VD.shape, dtype=torch.float32, device=w_VD.device) if need_w else None
        total = torch.zeros((), dtype=torch.float32, device=x_ND.device)
        rows = chunk_rows(w_VD.shape[0], x_ND.device)
        for start in range(0, states.shape[0], rows):
            x_CD, target_C = states[start : start + rows], targets_N[start : start + rows]
            scored_C = target_C != IGNORE
            index_C1 = torch.where(scored_C, target_C, 0)[:, None]
            logits_CV = (x_CD @ weight.t()).float()
            lse_C1 = torch.logsumexp(logits_CV, dim=-1, keepdim=True)
            nll_C = (lse_C1 - logits_CV.gather(1, index_C1))[:, 0]
            total += torch.where(scored_C, nll_C, 0.0).sum()
            if not (need_x or need_w):
                continue
            # d nll / d logits = softmax − onehot, zero for unscored positions; in place in the buffer.
            g_CV = logits_CV.sub_(lse_C1).exp_()
            g_CV.scatter_add_(1, index_C1, torch.full_like(lse_C1, -1.0))
            g_CV.mul_(scored_C[:, None])
            g_CV = g_CV.to(dtype)
            if dx_ND is not None:
                torch.mm(g_CV, weight, out=dx_ND[start : start + rows])
            if dw_VD is not None:
                dw_VD += g_CV.t() @ x_CD
        ctx.save_for_backward(dx_ND, dw_VD)
        ctx.dtypes = (x_ND.dtype, w_VD.dtype)
        return total

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        dx_ND, dw_VD = ctx.saved_tensors
        dx = None if dx_ND is None else (dx_ND * grad).to(ctx.dtypes[0])
        dw = None if dw_VD is None else (dw_VD * grad).to(ctx.dtypes[1])
        return dx, dw, None


class _TokenLoss(torch.autograd.Function):
    """The negative log-likelihood of each position; the backward pass computes the logits again, because the
    weight of each position is known only then."""

    @staticmethod
    def forward(ctx: Any, x_ND: Tensor, w_VD: Tensor, targets_N: Tensor) -> Tensor:
        dtype = _compute_dtype(x_ND)
        weight, states = w_VD.to(dtype), x_ND.to(dtype)
        nll_N = torch.empty(x_ND.shape[0], dtype=torch.float32, device=x_ND.device)
        rows = chunk_rows(w_VD.shape[0], x_ND.device)
        for start in range(0, states.shape[0], rows):
            target_C = targets_N[start : start + rows]
            logits_CV = (states[start : start + rows] @ weight.t()).float()
            picked_C = logits_CV.gather(1, torch.where(target_C != IGNORE, target_C, 0)[:, None])[:, 0]
            nll_C = torch.logsumexp(logits_CV, dim=-1) - picked_C
            nll_N[start : start + rows] = torch.where(target_C != IGNORE, nll_C, 0.0)
        ctx.save_for_backward(x_ND, w_VD, targets_N)
        ctx.compute_dtype = dtype
        return nll_N

    @staticmethod
    def backward(ctx: Any, grad_N: Tensor) -> tuple[Tensor, Tensor, None]:
        x_ND, w_VD, targets_N = ctx.saved_tensors
        dtype = ctx.compute_dtype
        weight, states = w_VD.to(dtype), x_ND.to(dtype)
        dx_ND = torch.empty_like(states)
        dw_VD = torch.zeros(w_VD.shape, dtype=torch.float32, device=w_VD.device)
        rows = chunk_rows(w_VD.shape[0], x_ND.device)
        for start in range(0, states.shape[0], rows):
            x_CD, target_C = states[start : start + rows], targets_N[start : start + rows]
            scored_C = target_C != IGNORE
            g_CV = torch.softmax((x_CD @ weight.t()).float(), dim=-1)
            g_CV.scatter_add_(
                1, torch.where(scored_C, target_C, 0)[:, None], torch.full_like(g_CV[:, :1], -1.0)
            )
            g_CV = (g_CV * torch.where(scored_C, grad_N[start : start + rows], 0.0)[:, None]).to(dtype)
            dx_ND[start : start + rows] = g_CV @ weight
            dw_VD += g_CV.t() @ x_CD
        return dx_ND.to(x_ND.dtype), dw_VD.to(w_VD.dtype), None


def cross_entropy(x_ND: Tensor, w_VD: Tensor, targets_N: Tensor, reduction: str = "sum") -> Tensor:
    """Cross-entropy in nats of softmax(x · wᵀ) against the targets, computed chunk by chunk.

    x_ND: final states. w_VD: head. targets_N: ids, IGNORE where not scored. reduction: "sum" gives a scalar,
    "none" gives N values with 0 where not scored. Accumulated in fp32 whatever the type of the states.
    """
    if reduction == "sum":
        total: Tensor = _SumLoss.apply(x_ND, w_VD, targets_N)  # type: ignore[no-untyped-call]
        return total
    if reduction == "none":
        each: Tensor = _TokenLoss.apply(x_ND, w_VD, targets_N)  # type: ignore[no-untyped-call]
        return each
    raise ValueError(f"reduction must be sum or none, not {reduction!r}")

"""Cross-entropy mixed with the divergence from a teacher, without the logits of all positions at once.

At one position let p be the teacher's distribution, q the student's, both softmax(logits / T). The teacher's pieces
fall into those the student has too and a bucket of all others, for which the student has nothing to answer. With m the
probability of the kept pieces and p̃ = p / m among them, the chain rule of the divergence splits off the bucket:

    KL(p ‖ q with a bucket) = KL(Bernoulli(m) ‖ Bernoulli(m')) + m · KL(p̃ ‖ q)

The first term is how well the student foretells the bucket's mass (1 − m'); it has no say in that, whatever m' one
grants it, so the term is constant in q. The second is all that the student can learn, and it is finite:

    loss = (1 − share) · CE + share · T² · m · KL(p̃ ‖ q)

Where the teacher would go on with a dropped piece, m is small and the position weighs little: it does not teach the
kept pieces that happen to be next. (Normalising p̃ without the weight m would, at full strength. Filling the bucket
into q as a constant, or leaving p unnormalised, gives the same gradient as this.) T² keeps the gradient's size when T
changes (1503.02531 §2).

Where only K of the kept pieces are known (a cache), the rest r = 1 − Σ p̃ is one answer, which the student gives with
its own mass outside the K, q°: KL_K = Σ p̃ log(p̃ / q) + r log(r / q°). By the chain rule again

    KL(p̃ ‖ q) − KL_K = r · KL(p̃ outside the K ‖ q outside the K) ≥ 0

so KL_K never exceeds the divergence, grows with K, and misses only the order within what is rare.

The student's rows beyond its tokenizer are pieces of which p̃ is zero: they are part of q and pushed down.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lilliput.inherit.teacher_logits import Answer, TeacherView, compute_dtype, head_logits
from lilliput.model.gemm import multiply
from lilliput.model.loss import IGNORE, chunk_rows


@dataclass(frozen=True)
class Mix:
    """share: of the teacher in the loss, 0 to 1. temperature: T, of both distributions in the divergence."""

    share: float
    temperature: float


class Loss(NamedTuple):
    """Sums over the targets, nats: the mixture, which has a gradient, and its two parts, unweighted (the divergence
    m · KL(p̃ ‖ q) at temperature T, without T²)."""

    mixed: Tensor
    cross_entropy: Tensor
    divergence: Tensor


def mixed_loss(x_ND: Tensor, w_VD: Tensor, targets_N: Tensor, view: TeacherView, mix: Mix) -> Loss:
    """The loss of a student whose logits are x · wᵀ.

    x_ND: final states. w_VD: head. targets_N: ids, −100 where nothing is scored. view: the teacher's answers to the
    same N positions. Summed in fp32 (float64 states: in float64).
    """
    mixed, entropy, divergence = _Mixed.apply(x_ND, w_VD, targets_N, view, mix)  # type: ignore[no-untyped-call]
    return Loss(mixed, entropy, divergence)


class _Mixed(torch.autograd.Function):
    """As in `model.loss`: gradients are found chunk by chunk in the forward pass, the backward pass scales them."""

    @staticmethod
    def forward(
        ctx: Any, x_ND: Tensor, w_VD: Tensor, targets_N: Tensor, view: TeacherView, mix: Mix
    ) -> tuple[Tensor, Tensor, Tensor]:
        dtype, vocab = compute_dtype(x_ND), w_VD.shape[0]
        x, w = x_ND.to(dtype), w_VD.to(dtype)
        exact = torch.promote_types(dtype, torch.float32)
        sums = torch.zeros(2, dtype=exact, device=x.device)
        dw_DV = torch.zeros(w.shape[1], vocab, dtype=exact, device=x.device)
        dx_parts = []
        rows = chunk_rows(max(vocab, view.rows), x.device)
        for begin in range(0, len(x), rows):
            x_CD, target_C = x[begin : begin + rows], targets_N[begin : begin + rows]
            answer = view.answer(begin, begin + len(x_CD), vocab)
            parts, g_CV = _chunk(head_logits(x_CD, w), target_C, answer, mix)
            sums += parts
            g_CV = g_CV.to(dtype)
            dx_parts.append(multiply(g_CV, w.t()))
            dw_DV += multiply(x_CD.t(), g_CV.t())
        ctx.save_for_backward(torch.cat(dx_parts), dw_DV)
        ctx.dtypes = (x_ND.dtype, w_VD.dtype)
        entropy, divergence = sums
        ctx.mark_non_differentiable(entropy, divergence)
        return (1 - mix.share) * entropy + mix.share * mix.temperature**2 * divergence, entropy, divergence

    @staticmethod
    def backward(ctx: Any, grad: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        dx_ND, dw_DV = ctx.saved_tensors
        return (dx_ND * grad).to(ctx.dtypes[0]), (dw_DV.t() * grad).to(ctx.dtypes[1]), None, None, None


def _chunk(logits_CV: Tensor, target_C: Tensor, answer: Answer, mix: Mix) -> tuple[Tensor, Tensor]:
    """(summed cross-entropy and divergence, gradient of the mixture with respect to the logits) of one chunk."""
    scored_C1 = (target_C != IGNORE)[:, None]
    index_C1 = torch.where(scored_C1, target_C[:, None], 0)
    log_CV = torch.log_softmax(logits_CV, 1)
    entropy_C1 = -log_CV.gather(1, index_C1)
    # d CE / d logits = softmax − onehot; T² · d KL / d logits = T · (softmax of logits / T − what is aimed at).
    g_CV = log_CV.exp().scatter_add_(1, index_C1, torch.full_like(entropy_C1, -1.0))
    g_CV *= scored_C1 * (1 - mix.share)
    softened_CV = log_CV if mix.temperature == 1 else torch.log_softmax(logits_CV / mix.temperature, 1)
    divergence_C1, pull_CV = _divergence(softened_CV, answer)
    weight_C1 = scored_C1 * answer.kept
    g_CV += pull_CV.mul_(weight_C1 * (mix.share * mix.temperature))
    sums = torch.stack([(scored_C1 * entropy_C1).sum(), (weight_C1 * divergence_C1).sum()])
    return sums, g_CV


def _divergence(log_CV: Tensor, answer: Answer) -> tuple[Tensor, Tensor]:
    """(KL(p̃ ‖ q) of each position, its gradient with respect to what `log_CV` is the log-softmax of)."""
    p_CK, known = answer.logs.exp(), answer.logs.shape[1]
    pull_CV = log_CV.exp()
    if answer.pieces is None:
        divergence_C1 = (p_CK * (answer.logs - log_CV[:, :known])).sum(1, keepdim=True)
        pull_CV[:, :known] -= p_CK
        return divergence_C1, pull_CV
    divergence_C1 = (p_CK * (answer.logs - log_CV.gather(1, answer.pieces))).sum(1, keepdim=True)
    if known < log_CV.shape[1]:
        rest_C1 = answer.rest
        outside_CV = log_CV.scatter(1, answer.pieces, -torch.inf)
        outside_C1 = outside_CV.logsumexp(1, keepdim=True)
        divergence_C1 += torch.xlogy(rest_C1, rest_C1) - rest_C1 * outside_C1
        pull_CV -= rest_C1 * (outside_CV - outside_C1).exp()
    return divergence_C1, pull_CV.scatter_add_(1, answer.pieces, -p_CK)

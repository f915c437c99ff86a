"""The mixed loss against torch's own functions, against differences, and against what its formulas promise."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from lilliput.inherit import distil_loss
from lilliput.inherit.distil_loss import Mix, mixed_loss
from lilliput.inherit.teacher_logits import Answer


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several chunks and a short last one."""
    monkeypatch.setattr(distil_loss, "chunk_rows", lambda rows, device: 16)


@dataclass
class Given:
    """A teacher of given logits (N, V), of which the student has `kept`; k: only the likeliest of these are told."""

    logits: Tensor
    kept: list[int]
    temperature: float = 1.0
    k: int | None = None

    @property
    def rows(self) -> int:
        return self.logits.shape[1]

    def answer(self, begin: int, end: int, vocab: int) -> Answer:
        p_CV = torch.softmax(self.logits[begin:end] / self.temperature, 1)
        mass_C1 = p_CV[:, self.kept].sum(1, keepdim=True)
        among_CK = p_CV[:, self.kept] / mass_C1
        if self.k is None:
            return Answer(None, among_CK.log(), torch.zeros_like(mass_C1), mass_C1)
        p_CK, pieces_CK = among_CK.topk(self.k, 1)
        rest_C1 = 1 - p_CK.sum(1, keepdim=True) if self.k < len(self.kept) else torch.zeros_like(mass_C1)
        return Answer(pieces_CK, p_CK.log(), rest_C1.clamp(min=0), mass_C1)


def problem(vocab: int = 23, teacher: int = 31, rows: int = 40, seed: int = 0, dtype: Any = torch.float64) -> Any:
    draw = torch.Generator().manual_seed(seed)
    x_ND = torch.randn(rows, 6, generator=draw, dtype=dtype).requires_grad_()
    w_VD = torch.randn(vocab, 6, generator=draw, dtype=dtype).requires_grad_()
    targets_N = torch.randint(0, vocab, (rows,), generator=draw)
    targets_N[::5] = -100
    return x_ND, w_VD, targets_N, torch.randn(rows, teacher, generator=draw, dtype=dtype) * 2


def plain(x_ND: Tensor, w_VD: Tensor, targets_N: Tensor, view: Given, mix: Mix) -> Tensor:
    """The same loss of whole logits, by torch's own functions."""
    logits_NV, scored_N = x_ND @ w_VD.t(), targets_N >= 0
    entropy = F.cross_entropy(logits_NV, targets_N, reduction="sum")
    told = view.answer(0, len(x_ND), w_VD.shape[0])
    log_NV = F.log_softmax(logits_NV / mix.temperature, 1)
    pieces_NK = torch.arange(told.logs.shape[1]).expand(told.logs.shape) if told.pieces is None else told.pieces
    inside_NK = log_NV.gather(1, pieces_NK)
    each_N = F.kl_div(inside_NK, told.logs, log_target=True, reduction="none").sum(1)
    if float(told.rest.sum()) > 0:
        outside_N1 = 1 - inside_NK.exp().sum(1, keepdim=True)
        each_N = each_N + F.kl_div(outside_N1.log(), told.rest, reduction="none")[:, 0]
    return (1 - mix.share) * entropy + mix.share * mix.temperature**2 * (each_N * told.kept[:, 0])[scored_N].sum()


# Same pieces; a part of the teacher's, in its order; more rows than the tokenizer has pieces, on either side.
KEPT = {"all": list(range(23)), "cut": [*range(0, 30, 2)], "padded student": list(range(18))}


@pytest.mark.parametrize("k", [None, 1, 5])
@pytest.mark.parametrize("kept", KEPT)
@pytest.mark.parametrize(("share", "temperature"), [(0.5, 1.0), (1.0, 2.0), (0.3, 0.7)])
def test_value_and_gradients_equal_the_plain_loss(kept: str, share: float, temperature: float, k: int | None) -> None:
    x_ND, w_VD, targets_N, logits = problem()
    view, mix = Given(logits, KEPT[kept], temperature, k), Mix(share, temperature)
    wanted = plain(x_ND, w_VD, targets_N, view, mix)
    found = mixed_loss(x_ND, w_VD, targets_N, view, mix)
    torch.testing.assert_close(found.mixed, wanted)
    parts = (1 - share) * found.cross_entropy + share * temperature**2 * found.divergence
    torch.testing.assert_close(parts, found.mixed.detach())
    left, right = (torch.autograd.grad(loss * 0.3, [x_ND, w_VD]) for loss in (found.mixed, wanted))
    for ours, theirs in zip(left, right, strict=True):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("k", [None, 3])
def test_gradients_against_differences(k: int | None) -> None:
    x_ND, w_VD, targets_N, logits = problem(vocab=7, teacher=9, rows=5)
    view = Given(logits, [0, 2, 3, 4, 6, 8], 1.5, k)
    assert torch.autograd.gradcheck(
        lambda x, w: mixed_loss(x, w, targets_N, view, Mix(0.6, 1.5)).mixed, (x_ND, w_VD), eps=1e-6, atol=1e-6
    )


@settings(max_examples=25, deadline=None)
@given(st.integers(2, 30), st.integers(0, 6), st.integers(0, 4), st.sampled_from([0.5, 1.0, 3.0]), st.data())
def test_less_is_known_of_fewer_pieces_and_never_too_much(
    pieces: int, dropped: int, padded: int, temperature: float, data: st.DataObject
) -> None:
    """KL_k grows with k up to the divergence, and the difference is what the chain rule says."""
    seed = data.draw(st.integers(0, 99))
    x_ND, w_VD, targets_N, logits = problem(pieces + padded, pieces + dropped, rows=6, seed=seed)
    kept = sorted(data.draw(st.permutations(range(pieces + dropped)))[:pieces])
    mix = Mix(1.0, temperature)
    full = Given(logits, kept, temperature)
    told = [
        mixed_loss(x_ND, w_VD, targets_N, Given(logits, kept, temperature, k), mix).divergence
        for k in range(1, pieces + 1)
    ]
    whole = mixed_loss(x_ND, w_VD, targets_N, full, mix).divergence
    assert all(less <= more + 1e-9 for less, more in zip([0.0, *told], [*told, whole], strict=True))
    torch.testing.assert_close(told[-1], whole)
    k = data.draw(st.integers(1, pieces))
    missed = _within_the_rest(x_ND, w_VD, targets_N, full, k)
    torch.testing.assert_close(whole - told[k - 1], missed, atol=1e-9, rtol=1e-6)


def _within_the_rest(x_ND: Tensor, w_VD: Tensor, targets_N: Tensor, full: Given, k: int) -> Tensor:
    """Σ m · r · KL(p̃ outside the k ‖ q outside the k), with q over all the student's rows."""
    told = full.answer(0, len(x_ND), 0)
    q_NV = torch.softmax(x_ND.detach() @ w_VD.detach().t() / full.temperature, 1)
    total = torch.zeros((), dtype=q_NV.dtype)
    for row in torch.nonzero(targets_N >= 0)[:, 0].tolist():
        p_K = told.logs[row].exp()
        outside = torch.ones(q_NV.shape[1], dtype=torch.bool)
        outside[p_K.topk(k).indices] = False
        if k < len(p_K):
            p_R, q_R = p_K[outside[: len(p_K)]], q_NV[row][outside]
            rest = p_R.sum()
            q_R = (q_R / q_R.sum())[: len(p_R)]
            total += told.kept[row, 0] * (p_R * (p_R / rest / q_R).log()).sum()
    return total


def test_the_bucket_weighs_and_teaches_nothing() -> None:
    """The same answers among the kept pieces, with half of the mass dropped, count half."""
    x_ND, w_VD, targets_N, logits = problem(vocab=20, teacher=20)
    alone = mixed_loss(x_ND, w_VD, targets_N, Given(logits, list(range(20))), Mix(1.0, 1.0))
    bucket = torch.cat([logits, logits.logsumexp(1, keepdim=True)], 1)
    half = mixed_loss(x_ND, w_VD, targets_N, Given(bucket, list(range(20))), Mix(1.0, 1.0))
    torch.testing.assert_close(half.mixed, alone.mixed / 2)


def test_nothing_scored_is_zero_and_so_are_its_gradients() -> None:
    x_ND, w_VD, targets_N, logits = problem()
    for k in (None, 4):
        view = Given(logits, list(range(23)), k=k)
        found = mixed_loss(x_ND, w_VD, torch.full_like(targets_N, -100), view, Mix(0.5, 1.0))
        gradients = torch.autograd.grad(found.mixed, [x_ND, w_VD])
        assert [float(value.detach().abs().sum()) for value in (*found, *gradients)] == [0.0] * 5


@pytest.mark.parametrize("k", [None, 3])
def test_a_student_that_is_sure_gives_finite_gradients(k: int | None) -> None:
    """Where the student has nothing at all outside the k."""
    x_ND, w_VD, targets_N, logits = problem(dtype=torch.float32)
    with torch.no_grad():
        x_ND *= 400
    found = mixed_loss(x_ND, w_VD, targets_N, Given(logits, list(range(23)), k=k), Mix(0.5, 1.0))
    for value in (found.mixed, *torch.autograd.grad(found.mixed, [x_ND, w_VD])):
        assert value.isfinite().all()


class _Largest(TorchDispatchMode):
    """The most numbers in one tensor that any operation makes."""

    numbers = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for one in out if isinstance(out, list | tuple) else [out]:
            if isinstance(one, Tensor):
                self.numbers = max(self.numbers, one.numel())
        return out


@pytest.mark.parametrize("k", [None, 9])
def test_no_array_of_all_positions_and_pieces(k: int | None) -> None:
    x_ND, w_VD, targets_N, logits = problem(vocab=100, teacher=120, rows=200)
    with _Largest() as largest:
        mixed_loss(x_ND, w_VD, targets_N, Given(logits, list(range(100)), k=k), Mix(0.5, 1.0)).mixed.backward()
    assert largest.numbers <= 16 * 120

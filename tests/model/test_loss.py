import pytest
import torch
from torch.nn.functional import cross_entropy as reference

from lilliput.model import loss
from lilliput.model.loss import cross_entropy


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch):
    """Several chunks and a short last one, at sizes a test can hold."""
    monkeypatch.setattr(loss, "chunk_rows", lambda vocab, device: 64)


def problem(rows: int = 200, width: int = 24, vocab: int = 131, scale: float = 1.0):
    torch.manual_seed(0)
    x_ND = (torch.randn(rows, width) * scale).requires_grad_()
    w_VD = torch.randn(vocab, width, requires_grad=True)
    targets_N = torch.randint(0, vocab, (rows,))
    targets_N[::7] = -100
    return x_ND, w_VD, targets_N


@pytest.mark.parametrize("scale", [1.0, 60.0])
@pytest.mark.parametrize("weighted", [False, True])
def test_value_and_gradients_equal_the_plain_loss(scale, weighted):
    x_ND, w_VD, targets_N = problem(scale=scale)
    weight_N = torch.rand(200) if weighted else torch.tensor(0.3)
    each_N = reference(x_ND @ w_VD.t(), targets_N, reduction="none")
    plain = (each_N * weight_N).sum()
    expected = torch.autograd.grad(plain, [x_ND, w_VD])
    if weighted:
        ours = (cross_entropy(x_ND, w_VD, targets_N, "none") * weight_N).sum()
    else:
        ours = cross_entropy(x_ND, w_VD, targets_N) * weight_N
    torch.testing.assert_close(ours, plain, rtol=1e-5, atol=1e-3)
    for found, wanted in zip(torch.autograd.grad(ours, [x_ND, w_VD]), expected, strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4 * wanted.abs().max().item())


def test_each_position():
    x_ND, w_VD, targets_N = problem()
    with torch.no_grad():
        each_N = cross_entropy(x_ND, w_VD, targets_N, "none")
        torch.testing.assert_close(cross_entropy(x_ND, w_VD, targets_N), each_N.sum())
        wanted_N = reference(x_ND @ w_VD.t(), targets_N, reduction="none")
    torch.testing.assert_close(each_N, wanted_N, rtol=1e-5, atol=1e-5)
    assert (each_N[::7] == 0).all()


def test_nothing_scored_gives_zero_and_zero_gradients():
    x_ND, w_VD, _ = problem()
    total = cross_entropy(x_ND, w_VD, torch.full((200,), -100))
    total.backward()
    assert total == 0
    assert x_ND.grad.abs().sum() == 0
    assert w_VD.grad.abs().sum() == 0


def test_an_infinite_state_shows_in_the_loss():
    x_ND, w_VD, targets_N = problem()
    with torch.no_grad():
        x_ND[1, 0] = torch.inf
    assert not cross_entropy(x_ND, w_VD, targets_N).isfinite()


def test_unknown_reduction():
    with pytest.raises(ValueError, match="mean"):
        cross_entropy(*problem(), "mean")

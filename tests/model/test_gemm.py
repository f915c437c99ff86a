import pytest
import torch
from torch.nn import functional as F

from lilliput.model import gemm

needs_onednn = pytest.mark.skipif(
    not hasattr(torch.ops.mkldnn, "_linear_pointwise"), reason="this PyTorch is built without oneDNN"
)


@needs_onednn
@pytest.mark.parametrize(("rows", "inside", "outside"), [(1, 5, 3), (50, 17, 64), (50, 64, 17), (33, 8, 8)])
@pytest.mark.parametrize("biased", [False, True])
def test_onednn_path_equals_torch(monkeypatch, rows, inside, outside, biased):
    monkeypatch.setattr(gemm, "ONEDNN", True)
    torch.manual_seed(0)
    x = torch.randn(2, rows, inside, requires_grad=True)
    w = torch.randn(outside, inside, requires_grad=True)
    b = torch.randn(outside, requires_grad=True) if biased else None
    grad = torch.randn(2, rows, outside)
    inputs = [tensor for tensor in (x, w, b) if tensor is not None]
    ours, theirs = gemm.linear(x, w, b), F.linear(x, w, b)
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)
    for found, wanted in zip(
        torch.autograd.grad(ours, inputs, grad), torch.autograd.grad(theirs, inputs, grad), strict=True
    ):
        assert found.is_contiguous()
        torch.testing.assert_close(found, wanted, atol=1e-3, rtol=1e-4)


@needs_onednn
def test_operators_keep_their_promises(monkeypatch):
    """Shapes, strides and gradients as torch.compile will assume them."""
    monkeypatch.setattr(gemm, "ONEDNN", True)
    x, w = torch.randn(2, 6, 5, requires_grad=True), torch.randn(7, 5, requires_grad=True)
    checks = ("test_schema", "test_autograd_registration", "test_faketensor")
    torch.library.opcheck(torch.ops.lilliput.linear.default, (x, w, None), test_utils=checks)
    grad = torch.randn(2, 6, 7)
    torch.library.opcheck(
        torch.ops.lilliput.linear_backward.default, (grad, x.detach(), w.detach()), test_utils=checks
    )
    states, targets = torch.randn(70, 5), torch.randint(0, 7, (70,))
    for args in ((states, w.detach(), targets, None), (states, w.detach(), targets, torch.rand(70))):
        torch.library.opcheck(torch.ops.lilliput.loss_gradients.default, args, test_utils=checks)
    torch.library.opcheck(
        torch.ops.lilliput.loss_each.default, (states, w.detach(), targets), test_utils=checks
    )


def test_other_types_go_to_torch():
    x, w = torch.randn(3, 4, dtype=torch.float64), torch.randn(5, 4, dtype=torch.float64)
    assert not gemm.usable(x, w)
    torch.testing.assert_close(gemm.linear(x, w), x @ w.t())


@needs_onednn
@pytest.mark.parametrize(("rows", "inside", "outside"), [(1, 96, 288), (20, 64, 192), (1, 512, 1024), (20, 128, 384)])
@pytest.mark.parametrize("biased", [False, True])
def test_what_writes_takes_the_quicker_library_and_training_always_the_same(rows, inside, outside, biased):
    torch.manual_seed(0)
    x, w = torch.randn(rows, inside), torch.randn(outside, inside) / inside**0.5
    b = torch.randn(outside) if biased else None
    found, trained = gemm.written_product(x, w, b), gemm.product(x, w, b)
    torch.testing.assert_close(found, trained, atol=1e-5, rtol=0)
    quicker = F.linear(x, w, b) if rows * inside * outside < gemm.SMALL else trained
    assert torch.equal(found, quicker)
    if gemm.ONEDNN:
        assert torch.equal(gemm.linear(x, w, b), trained)

"""Matrix products in fp32 on a CPU.

PyTorch sends fp32 products to MKL, which on AMD processors runs its AVX2 kernels: about 105 GFLOP/s a core on
Zen 5, where oneDNN's AVX-512 kernels, already inside PyTorch, reach 240. So on such processors the products of
a decoder are sent to oneDNN. Which library is used follows from the processor alone, never from a measured
time, so that a resumed run repeats its numbers.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F


def _prefers_onednn() -> bool:
    """Whether this processor is an AMD one with AVX-512 and PyTorch has the operator."""
    if torch.backends.cpu.get_cpu_capability() != "AVX512":
        return False
    if not torch._C._has_mkldnn or not hasattr(torch.ops.mkldnn, "_linear_pointwise"):
        return False
    try:
        return "AuthenticAMD" in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:  # not Linux: MKL it is
        return False


ONEDNN = _prefers_onednn()
# Multiplications below which the call of oneDNN's operator, about 10 µs, takes longer than the whole product by MKL.
# With one thread both are even at 0.7 to 1.1 million, with more at fewer.
SMALL = 1 << 18


def usable(x: Tensor, w: Tensor) -> bool:
    """Whether oneDNN takes the product of x and w: both fp32 on the CPU, no autocast."""
    return (
        x.device.type == "cpu"
        and x.dtype == w.dtype == torch.float32
        and ONEDNN
        and not torch.is_autocast_enabled("cpu")
    )


def product(x_MK: Tensor, w_NK: Tensor, bias_N: Tensor | None = None) -> Tensor:
    """x · wᵀ by oneDNN; no gradient. Slices of wider rows are copied first: oneDNN would build its kernel
    anew, some 20 ms, at every call."""
    out_MN: Tensor = torch.ops.mkldnn._linear_pointwise(_dense(x_MK), _dense(w_NK), bias_N, "none", [], "")
    return out_MN


def written_product(x_MK: Tensor, w_NK: Tensor, bias_N: Tensor | None = None) -> Tensor:
    """x · wᵀ + bias without a gradient, by the library that is quicker at this size: for the few rows of a model that
    writes. Training never comes here, so its numbers do not depend on it."""
    if x_MK.shape[0] * w_NK.numel() < SMALL:
        return F.linear(x_MK, w_NK, bias_N)
    return product(x_MK, w_NK, bias_N)


def _dense(x: Tensor) -> Tensor:
    return x if x.is_contiguous() or x.t().is_contiguous() else x.contiguous()


def weight_gradient(g_NO: Tensor, x_NI: Tensor) -> Tensor:
    """gᵀ · x, of shape (O, I). oneDNN is quicker with the larger of the two as its second factor."""
    if g_NO.shape[1] < x_NI.shape[1]:
        return product(g_NO.t(), x_NI.t())
    return product(x_NI.t(), g_NO.t()).t()


@torch.library.custom_op("lilliput::linear", mutates_args=())
def _linear(x: Tensor, w_OI: Tensor, bias: Tensor | None) -> Tensor:
    return product(x.flatten(0, -2), w_OI, bias).view(*x.shape[:-1], w_OI.shape[0])


@_linear.register_fake
def _(x: Tensor, w_OI: Tensor, bias: Tensor | None) -> Tensor:
    return x.new_empty(*x.shape[:-1], w_OI.shape[0])


@torch.library.custom_op("lilliput::linear_backward", mutates_args=())
def _linear_backward(grad: Tensor, x: Tensor, w_OI: Tensor) -> tuple[Tensor, Tensor]:
    g_NO, x_NI = grad.flatten(0, -2), x.flatten(0, -2)
    return product(g_NO, w_OI.t()).view_as(x), weight_gradient(g_NO, x_NI).contiguous()


@_linear_backward.register_fake
def _(grad: Tensor, x: Tensor, w_OI: Tensor) -> tuple[Tensor, Tensor]:
    return x.new_empty(x.shape), w_OI.new_empty(w_OI.shape)


def _save(ctx: torch.autograd.function.FunctionCtx, inputs: tuple[Tensor, ...], output: Tensor) -> None:
    ctx.save_for_backward(inputs[0], inputs[1])
    ctx.biased = inputs[2] is not None  # type: ignore[attr-defined]


def _differentiate(ctx: torch.autograd.function.FunctionCtx, grad: Tensor) -> tuple[Tensor | None, ...]:
    x, w_OI = ctx.saved_tensors  # type: ignore[attr-defined]
    dx, dw_OI = torch.ops.lilliput.linear_backward(grad, x, w_OI)
    db_O = grad.flatten(0, -2).sum(0) if ctx.biased else None  # type: ignore[attr-defined]
    return dx, dw_OI, db_O


_linear.register_autograd(_differentiate, setup_context=_save)


def multiply(x_MK: Tensor, w_NK: Tensor) -> Tensor:
    """x · wᵀ for code that computes its own gradient; by oneDNN where `usable`."""
    return product(x_MK, w_NK) if usable(x_MK, w_NK) else x_MK @ w_NK.t()


def linear(x: Tensor, w_OI: Tensor, bias: Tensor | None = None) -> Tensor:
    """x · wᵀ + bias, differentiable; by oneDNN where `usable`."""
    if usable(x, w_OI):
        out: Tensor = torch.ops.lilliput.linear(x, w_OI, bias)
        return out
    return F.linear(x, w_OI, bias)

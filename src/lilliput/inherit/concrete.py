"""Hard-concrete gates: random numbers from 0 to 1 which are exactly 0 or 1 with probability above nothing, and whose
distribution is moved by a gradient (Louizos, Welling & Kingma, 1712.01312; the constants and the choice at the end are
those of Sheared LLaMA, 2310.06694).

A gate z has one parameter logα. With u uniform on (ε, 1 − ε),

    s = sigmoid((ln u − ln(1 − u) + logα)/β)    z = min(1, max(0, s·(ζ − γ) + γ))
    P(z = 0) = sigmoid(β·ln(−γ/ζ) − logα)
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

BETA, GAMMA, ZETA, EPSILON = 2 / 3, -0.1, 1.1, 1e-6
# Every logα starts at N(5, .01²) and is kept within these after each update.
START, SPREAD = 5.0, 0.01
LOW, HIGH = math.log(0.01), math.log(100.0)
# Of logα/β where a gate is settled.
_SHARPNESS = 0.8


def start(*shape: int, generator: torch.Generator) -> Tensor:
    """First values of logα: N(5, .01²), fp32."""
    return START + SPREAD * torch.randn(shape, generator=generator)


def sample(logalpha: Tensor) -> Tensor:
    """Gates drawn with torch's own generator, of the shape of `logalpha`; differentiable."""
    u = torch.empty_like(logalpha).uniform_(EPSILON, 1 - EPSILON)
    return gate(u, logalpha)


def gate(u: Tensor, logalpha: Tensor) -> Tensor:
    """z of the random number u in (0, 1)."""
    s = torch.sigmoid((u.log() - torch.log1p(-u) + logalpha) / BETA)
    return (s * (ZETA - GAMMA) + GAMMA).clamp(0, 1)


def zero_probability(logalpha: Tensor) -> Tensor:
    """P(z = 0)."""
    return torch.sigmoid(BETA * math.log(-GAMMA / ZETA) - logalpha)


def expected_share(logalpha: Tensor) -> Tensor:
    """The mean of 1 − P(z = 0) over the last axis: the share of its members that is expected to stay."""
    return (1 - zero_probability(logalpha)).mean(-1)


def settled(logalpha: Tensor, count: int) -> Tensor:
    """Gates without chance: sigmoid(.8·logα/β), along the last axis all but the `count` largest exactly 0 (of equal
    ones the first stay); the survivors stay soft."""
    z = torch.sigmoid(_SHARPNESS * logalpha.detach() / BETA)
    kept = z.argsort(dim=-1, descending=True, stable=True)[..., :count]
    return torch.zeros_like(z).scatter(-1, kept, z.gather(-1, kept))

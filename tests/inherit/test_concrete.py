"""Hard-concrete gates against sampling, numeric integrals and gradients, and the formulas written down again."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import integrate, optimize, special

from lilliput.inherit import concrete


def z_of(u: np.ndarray, logalpha: float) -> np.ndarray:
    """The gate, in NumPy."""
    s = special.expit((np.log(u) - np.log(1 - u) + logalpha) / (2 / 3))
    return np.minimum(1, np.maximum(0, s * 1.2 - 0.1))


@pytest.mark.parametrize("logalpha", [-4.605, -1.6, 0.0, 1.0, 4.605])
def test_gates_have_the_distribution_of_their_formula(logalpha: float) -> None:
    torch.manual_seed(0)
    drawn = concrete.sample(torch.full((400_000,), logalpha)).numpy().astype(np.float64)
    wanted = float(concrete.zero_probability(torch.tensor(logalpha)))
    assert abs((drawn == 0).mean() - wanted) < 4 * math.sqrt(wanted * (1 - wanted) / drawn.size) + 1e-5
    # P(z = 0) is where the gate leaves 0, on the axis of u, found without the formula.
    edge = optimize.brentq(lambda u: special.expit((special.logit(u) + logalpha) * 1.5) * 1.2 - 0.1, 1e-9, 1 - 1e-9)
    assert wanted == pytest.approx(edge, abs=1e-6)
    mean, _ = integrate.quad(lambda u: z_of(np.float64(u), logalpha), 0, 1, limit=400)
    assert drawn.mean() == pytest.approx(mean, abs=4 * drawn.std() / math.sqrt(drawn.size) + 1e-6)
    assert 0 <= drawn.min() <= drawn.max() <= 1


def test_the_constants_are_the_papers() -> None:
    logalpha = torch.tensor([-1.0, 0.5], dtype=torch.float64)
    found = concrete.zero_probability(logalpha)
    np.testing.assert_allclose(found, special.expit(-2 / 3 * 2.3978952727983707 - logalpha.numpy()), rtol=1e-12)
    assert float(concrete.expected_share(logalpha)) == pytest.approx(float((1 - found).mean()))
    assert (math.log(0.01), math.log(100)) == (concrete.LOW, concrete.HIGH)
    first = concrete.start(5000, generator=torch.Generator().manual_seed(1))
    assert float(first.mean()) == pytest.approx(5, abs=1e-3)
    assert float(first.std()) == pytest.approx(0.01, rel=0.05)


def test_random_numbers_stay_off_the_ends() -> None:
    torch.manual_seed(0)
    assert concrete.sample(torch.full((200_000,), 0.0)).isfinite().all()
    ends = torch.tensor([1e-6, 1 - 1e-6])
    np.testing.assert_allclose(concrete.gate(ends, torch.zeros(2)), [0, 1])


def test_gradients_are_those_of_finite_differences() -> None:
    u = torch.tensor([0.2, 0.3, 0.5, 0.7, 0.9], dtype=torch.float64)
    logalpha = torch.tensor([1.2, 0.4, -0.3, -0.9, -1.5], dtype=torch.float64, requires_grad=True)
    z = concrete.gate(u, logalpha)
    np.testing.assert_allclose(z.detach(), z_of(u.numpy(), logalpha.detach().numpy()), rtol=1e-12)
    assert ((z > 0) & (z < 1)).all()
    assert torch.autograd.gradcheck(lambda one: concrete.gate(u, one), [logalpha])
    assert torch.autograd.gradcheck(concrete.expected_share, [logalpha])


@given(st.lists(st.sampled_from([-4.605, -1.0, 0.0, 0.5, 4.605]), min_size=1, max_size=12), st.data())
def test_the_lowest_gates_become_nothing_and_of_equal_ones_the_first_stay(values: list[float], data) -> None:
    count = data.draw(st.integers(1, len(values)))
    z = concrete.settled(torch.tensor([values, values[::-1]]), count)
    for row, own in zip(z, (values, values[::-1]), strict=True):
        kept = sorted(range(len(own)), key=lambda index: (-own[index], index))[:count]
        assert row.nonzero()[:, 0].tolist() == sorted(kept)
        wanted = special.expit(0.8 * np.array(own)[sorted(kept)] / (2 / 3))
        np.testing.assert_allclose(row[sorted(kept)], wanted, rtol=1e-6)

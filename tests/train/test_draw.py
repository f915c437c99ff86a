"""The draw: how many, of which, how often, and always the same."""

from itertools import permutations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from lilliput.train.draw import chance, draw

PARTS = st.lists(st.integers(1, 12), min_size=1, max_size=6)


def cut(sizes: list[int]) -> np.ndarray:
    return np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)


@given(sizes=PARTS, data=st.data(), weighting=st.sampled_from(["loss", "uniform", "top"]), seed=st.integers(0, 2**31))
@hypothesis_settings(max_examples=80, deadline=None)
def test_each_part_gives_exactly_its_quota_without_repeats(sizes, data, weighting, seed) -> None:
    parts = cut(sizes)
    quotas = np.array([data.draw(st.integers(0, size)) for size in sizes])
    numbers = st.one_of(st.floats(0, 50), st.sampled_from([float("nan"), float("inf"), float("-inf")]))
    losses = np.array(data.draw(st.lists(numbers, min_size=int(parts[-1]), max_size=int(parts[-1]))))
    temperature = data.draw(st.floats(1e-3, 1e3))
    found = draw(losses, parts, quotas, weighting=weighting, temperature=temperature, key=(seed, 1))
    assert np.array_equal(np.unique(found), found)
    assert np.array_equal(np.histogram(found, bins=[*parts[:-1], parts[-1] - 0.5])[0], quotas)
    again = draw(losses, parts, quotas, weighting=weighting, temperature=temperature, key=(seed, 1))
    assert np.array_equal(found, again)


def inclusion(p: np.ndarray, drawn: int) -> np.ndarray:
    """The chance of each unit to be among `drawn` successive draws, by adding up every order they can come in."""
    out = np.zeros(len(p))
    for order in permutations(range(len(p)), drawn):
        chance_of, left = 1.0, 1.0
        for unit in order:
            chance_of *= p[unit] / left
            left -= p[unit]
        out[list(order)] += chance_of
    return out


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
def test_units_are_drawn_as_often_as_successive_softmax_draws_say(temperature: float) -> None:
    losses, tries, drawn = np.array([4.0, 2.5, 3.0, 1.0, 3.5]), 3000, 2
    p = np.exp(losses / temperature) / np.exp(losses / temperature).sum()
    parts, quotas = np.array([0, 5]), np.array([drawn])
    counts = np.zeros(5)
    for seed in range(tries):
        counts[draw(losses, parts, quotas, weighting="loss", temperature=temperature, key=(seed, 1))] += 1
    expected = inclusion(p, drawn)
    assert expected.sum() == pytest.approx(drawn)
    deviation = np.sqrt(expected * (1 - expected) / tries)
    assert np.all(np.abs(counts / tries - expected) < 4 * deviation)


def test_uniform_draws_ignore_the_loss_and_top_ones_take_the_highest() -> None:
    losses, parts, quotas = np.arange(40.0), np.array([0, 20, 40]), np.array([5, 5])
    even = [draw(a, parts, quotas, weighting="uniform", temperature=1.0, key=(3, 1)) for a in (losses, None, -losses)]
    assert np.array_equal(even[0], even[1])
    assert np.array_equal(even[0], even[2])
    top = draw(losses, parts, quotas, weighting="top", temperature=1.0, key=(3, 1))
    assert top.tolist() == [15, 16, 17, 18, 19, 35, 36, 37, 38, 39]


def test_a_loss_that_is_no_number_is_drawn_last() -> None:
    losses = np.array([1.0, np.nan, 2.0, np.inf])
    for weighting in ("loss", "top"):
        found = draw(losses, np.array([0, 4]), np.array([2]), weighting=weighting, temperature=1.0, key=(0, 1))
        assert found.tolist() == [0, 2]


def test_a_low_temperature_is_top_and_a_high_one_uniform() -> None:
    losses, parts, quotas = np.linspace(1, 3, 30)[::-1].copy(), np.array([0, 30]), np.array([8])

    def drawn(weighting: str, temperature: float) -> list[int]:
        found = draw(losses, parts, quotas, weighting=weighting, temperature=temperature, key=(5, 2))
        return [int(unit) for unit in found]

    assert drawn("loss", 1e-3) == drawn("top", 1.0)
    assert drawn("loss", 1e9) == drawn("uniform", 1.0)


def test_chances_are_even_and_differ_by_seed_and_round() -> None:
    found = chance(np.arange(20_000), 7, 1)
    assert 0 < found.min() < 1e-3
    assert 1 - 1e-3 < found.max() < 1
    counts = np.histogram(found, 16, (0, 1))[0]
    # Chi-square with 15 degrees of freedom, p = 0.001.
    assert ((counts - 1250) ** 2 / 1250).sum() < 37.7
    assert abs(np.corrcoef(found[:-1], found[1:])[0, 1]) < 0.03
    assert abs(np.corrcoef(found, chance(np.arange(20_000), 7, 2))[0, 1]) < 0.03
    assert abs(np.corrcoef(found, chance(np.arange(20_000), 8, 1))[0, 1]) < 0.03


def test_the_draw_is_the_same_in_every_version() -> None:
    # What stands in a study's cells relies on it.
    found = draw(None, np.array([0, 10, 20]), np.array([3, 3]), weighting="uniform", temperature=1.0, key=(0, 1))
    assert found.tolist() == [1, 7, 9, 10, 13, 17]

"""A claim about a part of a difference: does an arm make up 60 % of what another lost?"""

from __future__ import annotations

import numpy as np
import pytest

from lilliput.evaluate.measured import ItemScores, Scores
from lilliput.lab.compared import Compared
from lilliput.lab.spec import Claim

SIZES = np.full(400, 100.0)


def scores(bits: float, seed: int, text: str = "t") -> Scores:
    """About so many bits per byte: documents differ, all arms alike, and each run a little."""
    documents = np.random.default_rng(0).normal(0, 5, 400)
    noise = np.random.default_rng(round(1000 * bits) + seed).normal(0, 0.3, 400)
    return Scores(bits * SIZES * np.log(2) + documents + noise, SIZES, text)


def cells(lora: float) -> dict[tuple[str, int], Scores]:
    arms = {"unshared": 2.0, "shared": 2.1, "lora": lora}
    return {(arm, seed): scores(bits, seed) for arm, bits in arms.items() for seed in range(3)}


def claim(**changes: object) -> Claim:
    fields = {"kind": "superiority", "arm": "lora", "versus": "shared", "to": "unshared", "part": 0.6, "delta": 0}
    return Claim(**{**fields, **changes})


@pytest.mark.parametrize(
    ("lora", "verdict", "gain"), [(2.02, "supported", 0.02), (2.08, "not supported", -0.04), (1.9, "supported", 0.14)]
)
def test_what_is_recovered_is_held_against_a_part_of_what_was_lost(lora: float, verdict: str, gain: float) -> None:
    found = Compared(cells(lora)).judge(claim(), "lora", "shared", "unshared")
    assert found["verdict"] == verdict
    assert found["effect"]["gain"] == pytest.approx(gain, abs=0.002)
    assert found["effect"]["low"] < found["effect"]["gain"] < found["effect"]["high"]
    # By hand: 60 % of the way from 2.1 to 2.0 is 2.04.
    whole = Compared(cells(lora)).judge(claim(to=None, part=None), "lora", "shared")
    assert whole["effect"]["gain"] == pytest.approx(2.1 - lora, abs=0.002)


def test_the_level_between_is_a_mixture_item_by_item() -> None:
    one, two = ItemScores(np.array([1.0, 0.0, 1.0]), "d"), ItemScores(np.array([0.0, 0.0, 1.0]), "d")
    between = one.blended(two, 0.25)
    assert between.results.tolist() == [0.75, 0.0, 1.0]
    assert between.value == pytest.approx(0.75 * one.value + 0.25 * two.value)


def test_other_documents_or_no_seed_in_common_are_not_measured() -> None:
    there = cells(2.02)
    other = {**there, **{("unshared", seed): scores(2.0, seed, "other") for seed in range(3)}}
    assert Compared(other).judge(claim(), "lora", "shared", "unshared")["verdict"] == "not measured"
    without = {key: value for key, value in there.items() if key[0] != "unshared"}
    assert Compared(without).judge(claim(), "lora", "shared", "unshared")["verdict"] == "not measured"

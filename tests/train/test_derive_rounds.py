"""Rounds settled with the run: what is said, what is refused; and the law of the rate by the batch."""

import math

import pytest
from test_derive import MILLION
from train_support import CPU

from lilliput.errors import ConfigError
from lilliput.recipe import RateLaw, RoundSettings, TrainSettings
from lilliput.train.config import TrainConfig
from lilliput.train.derive import derive, forward_flops
from lilliput.train.rounds import Plan, Rounds, first_reading


def settle(rounds: dict[str, object], corpus: int = 5_000_000, **asked: object) -> tuple[TrainConfig, list[str]]:
    train = TrainSettings(**{"tokens": 3_000_000, "batch_tokens": 6144, "threads": 1, **asked})  # type: ignore[arg-type]
    return derive(train, MILLION, corpus, 3 * corpus, 7, CPU, rounds=RoundSettings(**rounds))  # type: ignore[arg-type]


def test_one_round_changes_nothing() -> None:
    plain = derive(
        TrainSettings(tokens=3_000_000, batch_tokens=6144, threads=1), MILLION, 5_000_000, 15_000_000, 7, CPU
    )
    assert settle({"count": 1, "rate": 0.25}) == plain


def test_the_horizon_is_that_of_all_rounds() -> None:
    config, notes = settle({"count": 2})
    assert config.rounds == Rounds(2, 0.5, 8, "loss", 1.0, "batch")
    assert config.tokens == pytest.approx(3_000_000, abs=6144)
    assert config.lr == settle({"count": 1})[0].lr
    told = "\n".join(notes)
    assert "round 1 = 326 steps: 2M tokens of the corpus" in told
    assert "round 2 = 162 steps: 995k tokens read again: 162 of 326 batches, drawn by loss" in told
    cost = forward_flops(MILLION, 326 * 6144)
    assert f"before it 2M tokens are scored, {cost:.2e} FLOPs" in told
    again = TrainConfig.from_dict(config.to_dict())
    assert again == config


@pytest.mark.parametrize(
    ("rounds", "said", "scored"),
    [
        ({"weighting": "top"}, "those with the highest loss", 7824),
        ({"weighting": "uniform"}, "drawn evenly", 1171),
        ({"weighting": "fresh"}, "of the corpus, read on", 1171),
        ({"rate": 1.0}, "drawn evenly", 1171),
        ({"unit": "sequence", "temperature": 0.5}, "windows, drawn by loss (softmax at temperature 0.5)", 7824),
    ],
)
def test_each_kind_says_what_it_reads_and_scores(rounds: dict[str, object], said: str, scored: int) -> None:
    config, notes = settle({"count": 2, **rounds})
    assert any(said in note for note in notes)
    plan = Plan.of(config)
    assert plan is not None
    found = plan.scored(1, (5_000_000 - 1) // 256)
    assert found == pytest.approx(scored, abs=60)
    # A corpus that is read more than once is scored once.
    assert plan.scored(1, 500) == 500


def test_what_a_teacher_is_asked_about_is_the_first_round_alone() -> None:
    config, _ = settle({"count": 2})
    assert (first_reading(config).steps, first_reading(config).rounds) == (326, None)
    fresh, _ = settle({"count": 2, "weighting": "fresh"})
    assert first_reading(fresh) == fresh
    assert first_reading(settle({"count": 1})[0]).steps == 488


@pytest.mark.parametrize(
    ("rounds", "corpus", "asked", "expected"),
    [
        ({"count": 9}, 5_000_000, {"tokens": 30_000}, "too short for 9 rounds"),
        ({"count": 2, "parts": 200}, 5_000_000, {}, "not one of each of 200 parts"),
        ({"count": 2, "parts": 2}, 300_000, {}, "more than the whole corpus"),
    ],
)
def test_what_cannot_be_is_refused(rounds, corpus, asked, expected) -> None:
    with pytest.raises(ConfigError, match=expected) as caught:
        settle(rounds, corpus, **asked)
    assert caught.value.mend


# --- the law -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("power", [0.5, 1.0])
@pytest.mark.parametrize("batch", [1536, 6144, 24_576])
def test_the_rate_follows_the_batch_by_its_power(power: float, batch: int) -> None:
    law = RateLaw(lr=0.004, batch_tokens=6144, power=power)
    config, notes = settle({"count": 1}, lr_law=law, batch_tokens=batch)
    assert config.lr == pytest.approx(0.004 * (batch / 6144) ** power)
    assert config.min_lr == pytest.approx(0.1 * config.lr)
    assert any("the law asked for (2402.02791 §4.1)" in note for note in notes)


def test_the_papers_own_law() -> None:
    law = RateLaw(lr=1e-4, batch_tokens=1_000_000, power=0.5)
    # 4096 windows of 1024: about 4M tokens a batch.
    config, _ = settle({"count": 1}, 10**12, lr_law=law, batch_tokens=4_194_304, tokens=10**11)
    assert config.lr == pytest.approx(1e-4 * math.sqrt(4.194304))


def test_a_law_that_goes_too_far_is_refused() -> None:
    law = RateLaw(lr=1.0, batch_tokens=1024, power=1.0)
    with pytest.raises(ConfigError, match="above 1") as caught:
        settle({"count": 1}, lr_law=law)
    assert caught.value.where == "train.lr_law"

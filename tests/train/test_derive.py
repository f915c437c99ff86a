"""The formulas, by hand; and that no request leads to settings that cannot run."""

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import example, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from train_support import CPU, SHAPE

from lilliput.errors import CheckpointError, ConfigError
from lilliput.model.config import ModelConfig
from lilliput.recipe import TrainSettings
from lilliput.train.config import TrainConfig
from lilliput.train.derive import derive, effective_tokens, flops, micro_limit

MILLION = ModelConfig(
    vocab_size=1024,
    depth=4,
    width=128,
    heads=4,
    kv_heads=4,
    head_dim=32,
    ffn=384,
    context=256,
    bos_id=0,
    eos_id=1,
)


def settle(model: ModelConfig = MILLION, corpus: int = 5_000_000, **asked: object) -> tuple[TrainConfig, list[str]]:
    return derive(TrainSettings(**asked), model, corpus, 3 * corpus, 7, CPU)  # type: ignore[arg-type]


def test_cost_counts_the_head_once_and_no_look_up() -> None:
    tied = MILLION.parameters()
    assert flops(MILLION, 10) == 60 * tied
    untied = ModelConfig(**{**MILLION.__dict__, "tied": False})
    assert flops(untied, 10) == flops(MILLION, 10)


def test_what_is_left_out_follows_the_formulas() -> None:
    config, notes = settle(corpus=100_000_000)
    horizon = 20 * MILLION.parameters()
    cost = flops(MILLION, horizon)
    assert config.batch_sequences == round(0.2920 * cost**0.3271 / 256)
    assert config.lr == pytest.approx(0.3118 * cost**-0.125)
    assert config.min_lr == pytest.approx(0.1 * config.lr)
    assert config.tokens == pytest.approx(horizon, rel=0.01)
    assert config.warmup_steps == int(min(max(100, 0.02 * config.steps), 0.1 * config.steps))
    assert config.beta2 == 0.99
    assert config.seed == 7
    text = "\n".join(notes)
    names = ("batch", "micro batch", "tokens", "epochs", "lr", "warm-up", "β2", "save every", "threads")
    for name in (*names, "compile", "precision", "evaluate every"):
        assert f"{name} = " in text
    assert "2401.02954" in text
    assert "2203.15556" in text


def test_what_is_set_is_kept() -> None:
    asked = {
        "tokens": 1_000_000,
        "batch_tokens": 4096,
        "lr": 0.002,
        "warmup": 5,
        "beta2": 0.9,
        "clip": 0.5,
        "micro_batch": 3,
        "save_every": 9,
        "eval_every": 11,
        "threads": 1,
        "schedule": "wsd",
        "decay": 0.25,
        "compile": False,
        "precision": "fp32",
    }
    config, _ = settle(**asked)
    assert (config.batch_sequences, config.micro_sequences, config.steps) == (16, 3, 244)
    assert (config.lr, config.warmup_steps, config.beta2, config.clip) == (0.002, 5, 0.9, 0.5)
    assert (config.save_every, config.eval_every, config.threads) == (9, 11, 1)
    assert (config.schedule, config.decay_steps, config.compile) == ("wsd", 61, False)


def test_bytes_and_epochs_become_tokens_of_this_corpus() -> None:
    by_bytes, notes = settle(bytes=3_000_000)
    by_epochs, _ = settle(epochs=0.2)
    assert by_bytes.tokens == by_epochs.tokens
    assert by_bytes.tokens == pytest.approx(1_000_000, rel=0.02)
    assert any("3.000 bytes a token" in note for note in notes)


def test_repeated_data_are_told_and_warned_of() -> None:
    _, once = settle(epochs=1)
    assert not any(note.startswith("warning") for note in once)
    _, often = settle(epochs=6)
    assert any(note.startswith("warning: 6.0 epochs") for note in often)
    assert effective_tokens(100, 1) == 100
    assert effective_tokens(100, 4) == pytest.approx(100 + 1539 * (1 - math.exp(-3 / 15.39)))
    assert effective_tokens(100, 1e6) < 100 * 16.4


def test_long_batches_take_the_lower_beta2() -> None:
    assert settle(batch_tokens=65_536)[0].beta2 == 0.95


def test_impossible_requests_say_where_and_how_to_mend() -> None:
    for asked in ({"batch_tokens": 100}, {"warmup": 10**6}):
        with pytest.raises(ConfigError) as error:
            settle(**asked)
        assert error.value.where
        assert error.value.mend
    with pytest.raises(ConfigError, match="fewer than one window"):
        settle(corpus=256)


def test_compiling_is_decided_by_arithmetic(monkeypatch: pytest.MonkeyPatch) -> None:
    assert settle(tokens=1_000_000)[0].compile is False
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CXX", raising=False)
    _, notes = settle(tokens=10**10)
    assert any(note.startswith("compile = False: no C++ compiler") for note in notes)
    with pytest.raises(ConfigError, match="C\\+\\+ compiler"):
        settle(compile=True)


@hypothesis_settings(max_examples=60, deadline=None)
@example(depth=34, width=256, tokens=22_879_722)  # rounded down, this batch would fit in one pass less
@given(depth=st.integers(1, 40), width=st.sampled_from([32, 96, 128, 256]), tokens=st.integers(2_000_000, 50_000_000))
def test_memory_hardly_moves_the_batch(depth: int, width: int, tokens: int) -> None:
    """The number of steps follows from the formula, not from how many windows happen to fit."""
    shape = replace(SHAPE, depth=depth, width=width, heads=width // 32, kv_heads=width // 32, head_dim=32)
    asked = TrainSettings(tokens=tokens)
    config, _ = derive(asked, shape, 10**9, 4 * 10**9, 0, CPU)
    wanted = 0.2920 * flops(shape, tokens) ** 0.3271 / shape.context
    passes = math.ceil(config.batch_sequences / config.micro_sequences)
    assert abs(config.batch_sequences - wanted) <= passes / 2 + 1
    assert config.batch_sequences == passes * config.micro_sequences


def test_micro_batches_shrink_as_models_grow() -> None:
    wide = ModelConfig(**{**MILLION.__dict__, "width": 2048, "heads": 16, "head_dim": 128, "ffn": 8192})
    assert micro_limit(SHAPE, CPU, "fp32") > micro_limit(MILLION, CPU, "fp32") > micro_limit(wide, CPU, "fp32")
    assert micro_limit(wide, CPU, "fp32") >= 1


@given(
    tokens=st.one_of(st.none(), st.integers(1, 10**12)),
    corpus=st.integers(257, 10**9),
    batch=st.one_of(st.none(), st.integers(256, 10**7)),
    micro=st.one_of(st.none(), st.integers(1, 1000)),
    schedule=st.sampled_from(["cosine", "wsd", "constant"]),
)
@hypothesis_settings(max_examples=200, deadline=None)
def test_settings_always_run(
    tokens: int | None, corpus: int, batch: int | None, micro: int | None, schedule: str
) -> None:
    asked = {"tokens": tokens, "batch_tokens": batch, "micro_batch": micro, "schedule": schedule}
    config, _ = derive(TrainSettings(**asked), MILLION, corpus, 3 * corpus, 0, CPU)  # type: ignore[arg-type]
    assert 1 <= config.micro_sequences <= config.batch_sequences
    assert 0 <= config.warmup_steps <= config.steps
    assert config.save_every >= 1
    assert 0 < config.lr <= 1e-2
    assert TrainConfig.from_dict(config.to_dict()) == config


def test_a_resumed_run_keeps_what_its_machine_decided_and_refuses_other_settings() -> None:
    begun, _ = settle(threads=1)
    now, _ = settle(threads=4)
    assert now.resumed_from(begun) == begun
    other, _ = settle(lr=0.001)
    with pytest.raises(CheckpointError, match=r"lr 0\.\d+ → 0\.001"):
        other.resumed_from(begun)
    assert settle(save_every=3)[0].resumed_from(begun).save_every == 3


def test_settings_of_another_version_are_refused() -> None:
    config, _ = settle()
    with pytest.raises(CheckpointError, match="hyperdrive"):
        TrainConfig.from_dict({**config.to_dict(), "hyperdrive": 1})


@pytest.mark.parametrize(
    "wrong", [{"steps": 0}, {"lr": 0.0}, {"schedule": "zigzag"}, {"precision": "fp8"}, {"keep": 1}]
)
def test_settings_that_cannot_run_name_the_field(wrong: dict[str, object]) -> None:
    config, _ = settle()
    with pytest.raises(ConfigError) as error:
        TrainConfig.from_dict({**config.to_dict(), **wrong})
    assert error.value.where == f"train.{next(iter(wrong))}"


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_takes_bf16() -> None:
    config, _ = derive(TrainSettings(), MILLION, 10**7, 3 * 10**7, 0, torch.device("cuda"))
    assert config.precision == "bf16"

"""Decoding speed: what is measured is what `generate` does; every figure is there and consistent; errors come home."""

import mmap
import os
import signal
import statistics
from functools import partial
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lilliput.errors import ConfigError, ModelError
from lilliput.evaluate.apart import ApartError, call_apart, memory_mark, memory_since
from lilliput.evaluate.speed import feeds, measure_apart, measure_speed, random_model, rewinds, speed_of_shape, write
from lilliput.export.weights import read_weights
from lilliput.model import ModelConfig
from lilliput.model.generate import Generator, generate


def _shape(**sizes) -> ModelConfig:
    usual = {"vocab_size": 96, "depth": 2, "width": 32, "heads": 4, "kv_heads": 2, "head_dim": 8, "ffn": 48}
    return ModelConfig(**{**usual, "context": 24, "bos_id": 0, "eos_id": 1, **sizes})


MODEL = random_model(_shape())


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 3), st.integers(1, 40), st.integers(1, 70), st.integers(0, 9))
def test_the_ids_written_are_those_of_greedy_generate(batch, prefix, new, seed):
    prompt_BT = torch.randint(96, (batch, prefix), generator=torch.Generator().manual_seed(seed))
    writer = Generator(MODEL, batch)
    theirs = torch.stack(list(generate(MODEL, prompt_BT, new, temperature=0)))
    for _ in range(2):  # a writer that has been used writes the same again
        with torch.inference_mode():
            ours = torch.stack(list(write(writer, prompt_BT, new)))
        assert torch.equal(ours, theirs)


@given(st.integers(1, 60), st.integers(1, 80), st.integers(1, 300))
def test_every_new_id_is_one_feed_within_the_context(context, prefix, new):
    fed = list(feeds(context, prefix, new))
    assert len(fed) == new
    assert all(position >= 0 and length >= 1 and position + length <= context for position, length in fed)
    assert rewinds(context, prefix, new) == sum(position == 0 for position, _ in fed) - 1
    if prefix + new - 1 <= context:
        assert rewinds(context, prefix, new) == 0


def test_a_measurement_is_complete_and_consistent():
    told = torch.get_num_threads()
    speed = measure_speed(MODEL, batch=3, prefix=2, new=40, warmups=1, repeats=3)
    assert (speed.batch, speed.prefix, speed.new, len(speed.runs)) == (3, 2, 40, 3)
    assert speed.seconds == statistics.median(speed.runs)
    assert speed.per_sequence == pytest.approx(40 / speed.seconds)
    assert speed.total == pytest.approx(3 * speed.per_sequence)
    assert 0 < speed.first_token_ms < 1e3 * max(speed.runs)
    assert (speed.device, speed.dtype, speed.threads, speed.peak_mb) == ("cpu", "fp32", told, None)
    assert speed.rewinds == 2  # 24 positions hold 2 + 23 of the 40; half of them are read again, twice
    assert speed.to_dict()["runs"] == list(speed.runs)


def test_nothing_stops_at_the_end_of_text():
    model = random_model(_shape())
    with torch.no_grad():
        model.model.embed_tokens.weight[1] = 1.0
        model.model.norm.weight.fill_(1.0)
        for block in model.model.layers:
            block.mlp.down_proj.weight.zero_()
            block.self_attn.o_proj.weight.zero_()
    first = next(generate(model, torch.ones(1, 2, dtype=torch.long), 1, temperature=0))
    assert first.item() == model.config.eos_id
    with torch.inference_mode():
        assert len(list(write(Generator(model, 1), torch.ones(1, 2, dtype=torch.long), 12))) == 12


def test_equal_seeds_give_equal_random_models():
    again, other = random_model(_shape(), 0).state_dict(), random_model(_shape(), 1).state_dict()
    for name, tensor in MODEL.state_dict().items():
        assert torch.equal(tensor, again[name])
    assert not torch.equal(again["model.embed_tokens.weight"], other["model.embed_tokens.weight"])


def test_a_fresh_process_measures_memory_threads_and_dtype():
    weights = 4e-6 * (large := _shape(vocab_size=4096, width=512, ffn=1376, depth=3)).parameters()
    found = speed_of_shape(large, new=3, warmups=0, repeats=1, threads=1)
    # The model, its writer's copy, and not much beside.
    assert 1.5 * weights < found.peak_mb < 4 * weights + 30
    assert (found.threads, found.dtype) == (1, "fp32")
    small = speed_of_shape(_shape(), batch=2, new=3, warmups=0, repeats=1, threads=2, dtype="bf16")
    assert (small.threads, small.dtype, small.batch) == (2, "bf16", 2)
    assert small.peak_mb < found.peak_mb


def test_what_goes_wrong_in_the_fresh_process_is_told_here(tmp_path):
    with pytest.raises(ModelError, match=r"no model\.safetensors"):
        measure_apart(partial(read_weights, tmp_path, _shape()), new=2)
    with pytest.raises(ApartError, match=r"code 9 .*__main__"):
        call_apart(partial(os._exit, 9))
    with pytest.raises(ApartError, match=r"code -9 .* memory"):
        call_apart(partial(signal.raise_signal, signal.SIGKILL))


@pytest.mark.parametrize("wrong", [{"new": 0}, {"prefix": 0}, {"batch": -1}, {"repeats": 0}, {"warmups": -1}])
def test_counts_that_measure_nothing_are_refused(wrong):
    (name,) = wrong
    with pytest.raises(ConfigError, match=f"{name} is"):
        measure_speed(MODEL, **wrong)
    with pytest.raises(ConfigError, match=f"{name} is"):
        speed_of_shape(_shape(), **wrong)


def test_a_type_that_is_not_known_is_refused():
    with pytest.raises(ConfigError, match="no such dtype"):
        speed_of_shape(_shape(), dtype="int3")


def test_memory_since_a_mark_is_the_growth_of_the_peak():
    mark = memory_mark(torch.device("cpu"))
    # Fresh pages of the system: what earlier tests freed stays in the heap, and an array would lie in that.
    with mmap.mmap(-1, 120_000_000) as taken:
        for _ in range(114):
            taken.write(bytes(1 << 20))
    grown = memory_since(mark, torch.device("cpu"))
    # A process that held more before gives some of it back on the way.
    assert 0.5 * 120e6 < grown < 1.2 * 120e6 or not Path("/proc/self/clear_refs").exists()

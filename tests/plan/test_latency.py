"""Predicted speed: its laws, whatever the prices; the fit against SciPy and against known prices."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lilliput.evaluate.speed import feeds
from lilliput.model import ModelConfig
from lilliput.plan import latency
from lilliput.plan.latency import PRICES, Calibration, features, fit_prices, fit_training, training_flops
from lilliput.plan.probes import DECODE_SHAPES, Point, Step
from lilliput.train.derive import flops


def _shape(depth=4, width=128, heads=4, kv_heads=4, ffn=352, vocab_size=2048, context=512, **more) -> ModelConfig:
    return ModelConfig(
        depth=depth, width=width, heads=heads, kv_heads=kv_heads, head_dim=width // heads, ffn=ffn,
        vocab_size=vocab_size, context=context, bos_id=0, eos_id=0, **more,
    )  # fmt: skip


# Seconds each, about what a machine of today charges.
USUAL = dict.fromkeys(PRICES, 1e-11) | {"fixed": 3e-5, "layer": 1e-4, "layer, cold": 3e-5, "element": 5e-10}
USUAL |= {"logit": 1e-9, "weight byte and row": 2e-12, "cache": 3e-7, "score": 1e-9}


def _calibration(prices=None, dtype="fp32") -> Calibration:
    return Calibration(dtype, dict(prices or USUAL), 1e-3, (64.0, 256.0, 768.0), (5e10, 1e11, 2e11), {"fit_error": 0.0})


calibrations = st.builds(
    lambda factors: _calibration({name: USUAL[name] * factor for name, factor in zip(PRICES, factors, strict=True)}),
    st.lists(st.floats(0, 10), min_size=len(PRICES), max_size=len(PRICES)).filter(lambda found: found[0] > 0.01),
)
shapes = st.builds(
    lambda depth, heads, group, head_dim, ffn, vocab, context, tied: ModelConfig(
        depth=depth, width=heads * group * head_dim, heads=heads * group, kv_heads=heads, head_dim=head_dim, ffn=ffn,
        vocab_size=vocab, context=context, bos_id=0, eos_id=0, tied=tied,
    ),
    st.integers(1, 24), st.integers(1, 4), st.integers(1, 4), st.sampled_from((8, 16, 64)), st.integers(8, 3000),
    st.integers(32, 40_000), st.sampled_from((32, 256, 600)), st.booleans(),
)  # fmt: skip
writing = st.fixed_dictionaries(
    {"batch": st.sampled_from((1, 2, 20)), "prefix": st.integers(1, 40), "new": st.integers(1, 600)}
)


@settings(max_examples=60, deadline=None)
@given(calibrations, shapes, writing)
def test_more_of_anything_never_takes_less_time(calibration, shape, how):
    seconds = calibration.decode_seconds(shape, **how)
    assert seconds > 0
    wider = replace(shape, width=2 * shape.width, head_dim=2 * shape.head_dim)
    larger = [
        replace(shape, depth=shape.depth + 1),
        wider,
        replace(shape, ffn=shape.ffn + 8),
        replace(shape, vocab_size=shape.vocab_size + 64),
    ]
    for other in larger:
        assert calibration.decode_seconds(other, **how) >= seconds * (1 - 1e-12)
    assert calibration.decode_seconds(shape, **{**how, "new": how["new"] + 1}) >= seconds * (1 - 1e-3)
    if how["batch"] > 1:
        assert calibration.decode_seconds(shape, **{**how, "batch": how["batch"] + 1}) >= seconds * (1 - 1e-12)
    assert calibration.tokens_per_second(shape, **how) == pytest.approx(how["new"] / seconds)


@settings(max_examples=60, deadline=None)
@given(calibrations, shapes, writing)
def test_the_sum_is_that_over_every_feed(calibration, shape, how):
    """Gathering positions into groups changes hardly anything."""
    fed = np.array(list(feeds(shape.context, how["prefix"], how["new"])), float)
    amounts = features(shape, how["batch"], fed[:, 0], fed[:, 1], 4)
    one_by_one = float((amounts @ np.array([calibration.prices[name] for name in PRICES])).sum())
    assert calibration.decode_seconds(shape, **how) == pytest.approx(one_by_one, rel=0.02)


def test_shared_heads_and_half_the_bytes_are_cheaper_and_pangu_blocks_dearer():
    plain, calibration = _shape(), _calibration()
    seconds = calibration.decode_seconds(plain)
    assert calibration.decode_seconds(replace(plain, kv_heads=1)) < seconds
    assert _calibration(dtype="bf16").decode_seconds(plain) < seconds
    blocks = calibration.decode_seconds(replace(plain, family="pangu", shortcut=-1, series=-1))
    assert seconds < blocks < 1.5 * seconds


def test_a_text_that_outgrows_the_context_costs_the_reading_again():
    long, short = _shape(context=512), _shape(context=64)
    # Without what a shorter past saves: the attention, and memory that the cache takes from the weights.
    saved = [name for name in PRICES if name.startswith("cache") or name.endswith((" 1", " 2", " 3", "cold"))]
    calibration = _calibration({**USUAL, "score": 0.0, **dict.fromkeys(saved, 0.0)})
    assert calibration.decode_seconds(short, new=400) > calibration.decode_seconds(long, new=400)


def test_a_longer_context_costs_its_attention():
    short, long = _shape(context=256), _shape(context=512)
    assert flops(short, 1000) == flops(long, 1000)
    assert training_flops(long, 1000) - training_flops(short, 1000) == 6 * 4 * 128 * 256 * 1000
    calibration = _calibration()
    # Half as many passes, each of twice the tokens: the calls of a pass are spread over more.
    assert calibration.train_seconds(long, 10**6, 4) > calibration.train_seconds(short, 10**6, 8)


def test_training_seconds_follow_tokens_flops_and_width():
    calibration, shape = _calibration(), _shape(width=256)
    seconds = calibration.train_seconds(shape, 1_000_000, 8)
    assert calibration.train_seconds(shape, 2_000_000, 8) == pytest.approx(2 * seconds)
    assert calibration.train_seconds(shape, 1_000_000, 16) < seconds  # fewer calls
    passes = 1_000_000 / (8 * 512)
    assert seconds == pytest.approx(passes * 4 * 1e-3 + training_flops(shape, 1_000_000) / 1e11)
    between = calibration.train_seconds(_shape(width=128), 10**6, 8) - passes * 4 * 1e-3
    assert 5e10 < training_flops(_shape(width=128), 10**6) / between < 1e11
    widest = calibration.train_seconds(_shape(width=2048), 10**6, 8) - passes * 4 * 1e-3
    assert training_flops(_shape(width=2048), 10**6) / widest == pytest.approx(2e11)


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 12), st.integers(1, 8), st.integers(0, 10_000))
def test_the_fit_is_scipys(rows, columns, seed):
    scipy_nnls = pytest.importorskip("scipy.optimize").nnls
    random = np.random.default_rng(seed)
    a, b = random.normal(size=(rows, columns)), random.normal(size=rows)
    ours, (theirs, _) = latency._non_negative(a, b), scipy_nnls(a, b)
    assert (ours >= 0).all()
    assert np.linalg.norm(a @ ours - b) == pytest.approx(np.linalg.norm(a @ theirs - b), abs=1e-7)


def test_known_prices_are_found_from_the_probes():
    """Times made from prices are predicted again, also for shapes between the probes."""
    truth = _calibration()
    points = []
    for depth, width, heads, kv_heads, ffn, vocab in DECODE_SHAPES:
        shape = _shape(depth, width, heads, kv_heads, ffn, vocab)
        for batch in (1, 4, 20):
            for position in (8.0, 160.0, 480.0):
                amounts = features(shape, batch, np.array([position]), np.ones(1), 4)[0]
                points.append(Point(shape, batch, position, float(amounts @ np.array(list(truth.prices.values())))))
    found = replace(truth, prices=fit_prices(points, "fp32"))
    for shape in (_shape(), _shape(12, 192, 6, 2, 512, 8192), _shape(3, 640, 10, 10, 1728, 4096)):
        for batch in (1, 20):
            seconds = found.decode_seconds(shape, batch=batch)
            assert seconds == pytest.approx(truth.decode_seconds(shape, batch=batch), rel=0.01)


def test_known_rates_are_found_from_the_steps():
    sizes = ((4, 64, 2, 2, 176, 256, 128), (4, 64, 2, 2, 176, 1024, 128), (2, 256, 4, 4, 704, 2048, 128))
    shapes = [_shape(*size) for size in sizes]
    rates = (2e10, 2e10, 9e10)
    steps = []
    for shape, windows, rate in zip(shapes, (1, 16, 8), rates, strict=True):
        steps.append(Step(shape, windows, shape.depth * 2e-3 + training_flops(shape, windows * 128) / rate))
    layer, found = fit_training(steps)
    assert layer == pytest.approx(2e-3)
    assert found == pytest.approx({64.0: 2e10, 256.0: 9e10})


def test_steps_that_contradict_one_another_still_give_usable_rates():
    small, large = _shape(4, 64, 2, 2, 176, 256, 128), _shape(4, 64, 2, 2, 176, 1024, 128)
    for seconds in ((0.5, 0.1), (1e-6, 0.1)):
        layer, found = fit_training([Step(small, 1, seconds[0]), Step(large, 16, seconds[1])])
        assert layer >= 0
        assert all(rate > 0 for rate in found.values())

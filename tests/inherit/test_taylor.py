"""Taylor scores against gradients taken another way, and against the loss itself by finite differences."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from neuron_support import SHAPES, SPACES, by_hand, check, decoder, group, ids, kill, places
from torch import Tensor
from torch.nn import functional as F

from lilliput.errors import ConfigError, ModelError
from lilliput.inherit.neurons import choose
from lilliput.inherit.taylor import HOWS, calibration, taylor, taylor_bytes
from lilliput.model import Decoder
from lilliput.model.carve import carve_model
from lilliput.tokenizer.load import Tokenizer
from lilliput.tokenizer.train import train_tokenizer

ROWS = ids(10, 9)


def loss_of(model: Decoder, row: Tensor) -> Tensor:
    """Mean nats of one sequence, from the logits."""
    return F.cross_entropy(model(row[None, :-1])[0], row[1:])


def formulas(model: Decoder, rows: list[Tensor]) -> dict[str, dict[str, np.ndarray]]:
    """By kind the scores, straightforwardly: every sequence's gradients at once, float64."""
    names, weights = zip(*model.named_parameters(), strict=True)
    each = [torch.autograd.grad(loss_of(model, row), weights) for row in rows]
    w = {name: weight.detach().double().numpy() for name, weight in zip(names, weights, strict=True)}
    stacked = [torch.stack(found).double().numpy() for found in zip(*each, strict=True)]
    g = dict(zip(names, (found.mean(0) for found in stacked), strict=True))
    h = dict(zip(names, ((found**2).mean(0) for found in stacked), strict=True))
    vector = by_hand(model, lambda name: w[name] * g[name])
    return {
        "vector": {space: np.abs(sums) for space, sums in vector.items()},
        "first": by_hand(model, lambda name: np.abs(w[name] * g[name])),
        "second": by_hand(model, lambda name: w[name] ** 2 * h[name]),
        "mix": by_hand(model, lambda name: np.abs(w[name] * g[name] - 0.5 * w[name] ** 2 * h[name])),
    }


@pytest.mark.parametrize("changes", SHAPES.values(), ids=SHAPES)
def test_scores_are_their_formulas_by_hand(changes: dict[str, Any]) -> None:
    model = decoder(**changes)
    wanted = formulas(model, list(ROWS))
    for how in HOWS:
        check(taylor(model, [ROWS], how), wanted[how], rtol=1e-4, atol=1e-6)


def test_each_sequence_weighs_the_same_whatever_its_length() -> None:
    model = decoder(tied=False)
    rows = [row[: 2 + number % 8] for number, row in enumerate(ids(12, 9))]
    padded = torch.full((12, 9), -100)
    for number, row in enumerate(rows):
        padded[number, : len(row)] = row
    wanted = formulas(model, rows)
    for how in HOWS:
        check(taylor(model, [padded], how), wanted[how], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("changes", [SHAPES[name] for name in ("biased", "pangu", "qwen3")])
def test_the_vector_score_is_the_slope_of_the_loss_as_a_group_fades(changes: dict[str, Any]) -> None:
    """d L(w·(1 + s) on the group) / ds at 0, by central differences of two widths (Richardson)."""
    model = decoder(**changes)
    scores = taylor(model, [ROWS], "vector")

    def loss(parts: list[tuple[str, Any]], s: float) -> float:
        other = {name: weight.detach().clone() for name, weight in model.named_parameters()}
        for name, index in parts:
            other[name][index] *= 1 + s
        with torch.no_grad():
            args = (ROWS[:, :-1], ROWS[:, 1:], "none")
            return float(torch.func.functional_call(model, other, args).double().mean())

    for space, place in places(model.config):
        parts = group(model, space, *place)
        wide, near = ((loss(parts, s) - loss(parts, -s)) / (2 * s) for s in (0.01, 0.005))
        assert getattr(scores, space)[place] == pytest.approx(abs((4 * near - wide) / 3), abs=1e-3, rel=1e-3)


@settings(max_examples=6, deadline=None)
@given(st.lists(st.integers(1, 9), max_size=4, unique=True), st.sampled_from(HOWS))
def test_how_rows_are_put_together_changes_nothing(cuts: list[int], how: str) -> None:
    model = decoder()
    one = taylor(model, [ROWS], how)
    padded = [F.pad(part, (0, 3), value=-100) for part in torch.tensor_split(ROWS, sorted(cuts))]
    other = taylor(model, [*padded, torch.full((2, 5), -100)], how)
    assert all(np.array_equal(getattr(one, space), getattr(other, space)) for space in SPACES)


@pytest.mark.parametrize(("c", "layer", "j"), [(0.2, 0, 9), (5.0, 1, 0)])
def test_a_neuron_scaled_up_and_down_keeps_its_scores(c: float, layer: int, j: int) -> None:
    """w·g of every weight stays as it was, since g falls as w grows."""
    model, other = decoder(), decoder()
    mlp = other.model.layers[layer].mlp
    with torch.no_grad():
        mlp.up_proj.weight[j] *= c
        mlp.down_proj.weight[:, j] /= c
    for how in HOWS:
        wanted = {space: getattr(taylor(model, [ROWS], how), space) for space in SPACES}
        check(taylor(other, [ROWS], how), wanted, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("how", HOWS)
@pytest.mark.parametrize("changes", [SHAPES[name] for name in ("mha", "biased", "pangu")])
def test_what_is_dead_goes_first_and_is_not_missed(changes: dict[str, Any], how: str) -> None:
    model = decoder(**changes)
    config = model.config
    for layer, j in ((0, 2), (1, 7)):
        kill(model, "ffn", layer, j)
    heads = max(1, config.kv_heads // 2)
    for layer in range(2) if config.kv_heads > 1 else ():
        for head in range(heads):
            kill(model, "kv_head", layer, (head + layer) % config.kv_heads)
    scores = taylor(model, [ROWS], how)
    kept = choose(scores, config, (0, 1), hidden=12, ffn=9, kv_heads=heads)
    assert kept.ffn == tuple(tuple(n for n in range(10) if n != dead) for dead in (2, 7))
    with torch.no_grad():
        torch.testing.assert_close(carve_model(model, kept)(ROWS), model(ROWS), atol=1e-5, rtol=1e-5)
    kill(model, "hidden", 7)
    assert taylor(model, [ROWS], how).hidden.argmin() == 7


def test_the_model_comes_back_as_it_was() -> None:
    model = decoder()
    model.model.norm.weight.requires_grad_(False)
    up = model.model.layers[0].mlp.up_proj.weight
    up.grad = torch.ones_like(up)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with torch.no_grad():
        taylor(model, [ROWS], "mix")
    with pytest.raises(ModelError, match="context"):
        taylor(model, [ids(10, 40)], "mix")
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert not model.model.norm.weight.requires_grad
    for name, parameter in model.named_parameters():
        assert (parameter.grad is None) == (parameter is not up), name
        assert not parameter._post_accumulate_grad_hooks
    assert torch.equal(up.grad, torch.ones_like(up))


def test_what_cannot_be_scored_is_refused() -> None:
    model = decoder()
    with pytest.raises(ConfigError, match="gives 9 sequences") as caught:
        taylor(model, [ROWS[:9], torch.full((3, 9), -100), ids(3, 1)], "first")
    assert caught.value.mend
    with pytest.raises(ConfigError, match="third"):
        taylor(model, [ROWS], "third")
    with torch.no_grad():
        model.model.norm.weight[3] = float("nan")
    with pytest.raises(ModelError, match="not finite"):
        taylor(model, [ROWS], "first")


TEXTS = [f"document {number}: the cat sat on the mat and the dog on the log" for number in range(60)]


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train_tokenizer(TEXTS, 300)


def test_calibration_packs_whole_documents_in_an_order_of_the_seed(tokenizer: Tokenizer) -> None:
    found = calibration(tokenizer, TEXTS, 16, sequences=20, seed=1)
    assert [tuple(window.shape) for window in found] == [(1, 17)] * 20
    assert all(torch.equal(one, two) for one, two in zip(found, calibration(tokenizer, TEXTS, 16, 20, 1), strict=True))
    assert not torch.equal(found[0], calibration(tokenizer, TEXTS, 16, 20, 2)[0])
    # Neighbours share one token, so together they are one stream of documents between BOS and EOS.
    stream = [*(int(token) for window in found for token in window[0, :-1]), int(found[-1][0, -1])]
    assert stream[0] == tokenizer.bos_id
    held: list[list[int]] = [[]]
    for token in stream:
        if token in (tokenizer.bos_id, tokenizer.eos_id):
            held.append([])
        else:
            held[-1].append(token)
    whole = [tokenizer.decode(document) for document in held[:-1] if document]
    assert len(whole) == len(set(whole)) > 3
    assert set(whole) <= set(TEXTS)
    # More text than is asked for is not read; less gives what there is.
    assert len(calibration(tokenizer, TEXTS, 16, sequences=10_000)) < 10_000


def test_too_little_text_is_refused(tokenizer: Tokenizer) -> None:
    for documents in ([], TEXTS[:3]):
        with pytest.raises(ConfigError, match=r"gives \d sequences of 64 tokens") as caught:
            calibration(tokenizer, documents, 64)
        assert caught.value.mend


def test_memory_counts_what_each_kind_holds() -> None:
    config = decoder().config
    tables = 4 * config.parameters()
    assert taylor_bytes(config) - taylor_bytes(config, "first") == tables
    assert taylor_bytes(config, "vector") == taylor_bytes(config, "second") == taylor_bytes(config, "first")
    assert taylor_bytes(config, "mix", 8) < taylor_bytes(config, "mix", 16) == taylor_bytes(config)


_MEASURE = """
import re, sys, torch
from pathlib import Path
from lilliput.inherit.taylor import taylor, taylor_bytes
from lilliput.model import Decoder, ModelConfig, initialise
def memory(key):
    return 1024 * int(re.search(rf"{key}:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])
config = ModelConfig(vocab_size=4096, depth=4, width=256, heads=4, kv_heads=4, head_dim=64, ffn=704, bos_id=0, eos_id=1,
                     context=128)
before = memory("VmRSS")
model = Decoder(config)
initialise(model, 0)
taylor(model, [torch.randint(0, 4096, (10, 129), generator=torch.Generator().manual_seed(0))], sys.argv[1])
print(memory("VmHWM") - before, taylor_bytes(config, sys.argv[1]))
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="Linux says how much memory a process has")
@pytest.mark.parametrize("how", ["first", "mix"])
def test_memory_is_about_what_was_stated(how: str) -> None:
    done = subprocess.run([sys.executable, "-c", _MEASURE, how], capture_output=True, text=True, check=True)
    measured, stated = map(int, done.stdout.split())
    assert 0.75 * stated < measured < 1.2 * stated

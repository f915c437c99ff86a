"""Leaving layers out is the identity in their place; the measures are what their formulas say."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lilliput.errors import ConfigError
from lilliput.evaluate.bits import bits_per_byte, windows
from lilliput.inherit.layers import choose_layers, score_layers, state_distances, without
from lilliput.model import Decoder, ModelConfig, initialise
from lilliput.tokenizer.load import Tokenizer
from lilliput.tokenizer.train import train_tokenizer

TEXTS = ["the cat sat on the mat and the dog sat on the log", "a hat for the cat", "dogs and logs and mats " * 8]


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train_tokenizer(TEXTS * 20, 300)


@pytest.fixture(scope="module")
def model(tokenizer: Tokenizer) -> Decoder:
    config = ModelConfig(
        vocab_size=tokenizer.vocab_size, depth=5, width=32, heads=4, kv_heads=2, head_dim=8, ffn=64,
        bos_id=tokenizer.bos_id, eos_id=tokenizer.eos_id, context=32,
    )  # fmt: skip
    model = Decoder(config)
    initialise(model, 3)
    return model


def test_a_layer_left_out_is_the_identity(model: Decoder) -> None:
    """Against the same model whose layers write nothing to the residual stream."""
    silent = Decoder(model.config)
    silent.load_state_dict(model.state_dict())
    with torch.no_grad():
        for layer in (1, 2):
            silent.model.layers[layer].self_attn.o_proj.weight.zero_()
            silent.model.layers[layer].mlp.down_proj.weight.zero_()
    ids_BT = torch.randint(0, 200, (3, 20), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        want = silent(ids_BT)
        with without(model, 1, 2) as skipped:
            assert len(skipped.model.layers) == 3
            torch.testing.assert_close(skipped(ids_BT), want)
        assert len(model.model.layers) == 5


def test_every_skip_is_measured(model: Decoder, tokenizer: Tokenizer) -> None:
    found = score_layers(model, tokenizer, TEXTS, also={"layers": lambda one: float(len(one.model.layers))})
    assert found.base["bits_per_byte"] == bits_per_byte(model, tokenizer, TEXTS, title=None).value
    assert {span: len(row) for span, row in found.skips["bits_per_byte"].items()} == {1: 5, 2: 4, 3: 3}
    assert found.skips["layers"] == {1: (4.0,) * 5, 2: (3.0,) * 4, 3: (2.0,) * 3}
    with without(model, 2, 1):
        second = bits_per_byte(model, tokenizer, TEXTS, title=None).value
    assert found.skips["bits_per_byte"][1][2] == second
    assert found.importance()[2] == pytest.approx(second - found.base["bits_per_byte"])
    assert len(model.model.layers) == 5


@contextmanager
def _watched(model: Decoder, states: list[torch.Tensor]) -> Iterator[None]:
    """Every layer's input goes to `states`."""
    layers = model.model.layers
    hooks = [layer.register_forward_pre_hook(lambda _, given: states.append(given[0][0])) for layer in layers]
    yield
    for hook in hooks:
        hook.remove()


def test_the_distances_follow_their_formulas(model: Decoder, tokenizer: Tokenizer) -> None:
    text = "the cat"
    influence, angular = state_distances(model, tokenizer, [text], [1, 2])
    ids_BT = torch.tensor([[tokenizer.bos_id, *tokenizer.encode(text)][:-1]])
    states: list[torch.Tensor] = []
    with _watched(model, states), torch.no_grad():
        model.model(ids_BT)
    for layer in range(4):
        one, two = states[layer].double(), states[layer + 1].double()
        cosine = (one * two).sum(-1) / one.norm(dim=-1) / two.norm(dim=-1)
        assert influence[layer] == pytest.approx(float(1 - cosine.mean()), abs=1e-9)
        assert angular[1][layer] == pytest.approx(float((cosine.arccos() / math.pi).mean()), abs=1e-9)
    assert [len(angular[span]) for span in (1, 2)] == [5, 4]


def test_a_layer_that_does_nothing_has_no_influence(model: Decoder, tokenizer: Tokenizer) -> None:
    silent = Decoder(model.config)
    silent.load_state_dict(model.state_dict())
    with torch.no_grad():
        silent.model.layers[3].self_attn.o_proj.weight.zero_()
        silent.model.layers[3].mlp.down_proj.weight.zero_()
    found = score_layers(silent, tokenizer, TEXTS, spans=[1])
    assert found.influence[3] == pytest.approx(0, abs=1e-12)
    assert found.importance()[3] == pytest.approx(0, abs=1e-6)
    assert min(found.influence[:3]) > 1e-4


def test_long_documents_count_each_position_once(model: Decoder, tokenizer: Tokenizer) -> None:
    """The mean over a document of several windows is that of its positions, not of its windows."""
    document = "dogs and logs and mats " * 40
    tokens = len(tokenizer.encode(document))
    assert tokens > 3 * model.config.context
    influence, _ = state_distances(model, tokenizer, [document], [1])
    ids = np.array([tokenizer.bos_id, *tokenizer.encode(document)])
    found = []
    for window in windows(ids, model.config.context):
        states: list[torch.Tensor] = []
        with _watched(model, states), torch.no_grad():
            model.model(torch.from_numpy(window.ids[None, :-1]))
        one, two = (state[-window.scored :].double() for state in states[:2])
        found += (1 - (one * two).sum(-1) / one.norm(dim=-1) / two.norm(dim=-1)).tolist()
    assert len(found) == tokens
    assert influence[0] == pytest.approx(np.mean(found), abs=1e-9)


@given(st.integers(1, 40), st.data())
def test_every_choice_is_rising_and_of_the_size_asked(depth: int, data: st.DataObject) -> None:
    count = data.draw(st.integers(1, depth))
    importance = data.draw(st.lists(st.floats(-1, 1), min_size=depth, max_size=depth))
    for how in ("importance", "ends", "uniform", "first"):
        kept = choose_layers(how, depth, count, importance)
        assert len(kept) == count == len(set(kept))
        assert list(kept) == sorted(kept)
        assert kept[0] >= 0
        assert kept[-1] < depth
    if count >= 2:
        assert choose_layers("uniform", depth, count)[::count - 1] == (0, depth - 1)
        assert choose_layers("ends", depth, count)[-1] == depth - 1


def test_the_most_important_are_kept() -> None:
    assert choose_layers("importance", 6, 3, [0.9, 0.1, 0.2, 0.05, 0.3, 0.8]) == (0, 4, 5)
    assert choose_layers("ends", 12, 6) == (0, 1, 2, 5, 8, 11)
    assert choose_layers("keep=0,2,5", 6, 3) == (0, 2, 5)


@pytest.mark.parametrize(
    ("how", "count"),
    [("first", 0), ("first", 7), ("keep=1,0", 2), ("keep=0,9", 2), ("keep=a", 1), ("keep=0,1", 3), ("best", 2)],
)
def test_impossible_choices_are_refused(how: str, count: int) -> None:
    with pytest.raises(ConfigError) as caught:
        choose_layers(how, 6, count)
    assert caught.value.mend

"""Self-speculative decoding gives the greedy text, whatever the model, the draft and the prompt."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from model_support import SHAPES, decoder, ids

from lilliput.errors import ConfigError, ModelError
from lilliput.model.generate import generate
from lilliput.model.speculate import Speculation, speculate


def greedy(model, prompt, max_new, stops=()):
    return [int(new) for new in generate(model, prompt, max_new, temperature=0, stop_ids=stops)]


@settings(max_examples=60, deadline=None)
@given(
    shape=st.sampled_from(sorted(SHAPES)),
    depth=st.integers(2, 5),
    seed=st.integers(0, 10_000),
    layer=st.integers(1, 4),
    length=st.integers(1, 12),
    prompt=st.integers(1, 30),
    max_new=st.integers(0, 60),
    data=st.data(),
)
def test_the_text_is_the_greedy_one(shape, depth, seed, layer, length, prompt, max_new, data):
    own = SHAPES[shape] if "share" in SHAPES[shape] else {**SHAPES[shape], "depth": depth}
    model = decoder(seed, **{**own, "context": 24}).eval()
    depth = model.config.depth
    if data.draw(st.booleans()):  # later layers that say little, so that drafts are taken often
        with torch.no_grad():
            for later in model.model.layers[1:]:
                for matrix in (later.self_attn.o_proj.weight, later.mlp.down_proj.weight):
                    matrix.mul_(0.05)
    how = Speculation(min(layer, depth - 1), length)
    stops = data.draw(st.sampled_from([(), (3, 50), tuple(range(0, 97, 4))]))
    written = [int(new) for new in speculate(model, ids(1, prompt, seed=seed), max_new, how, stops)]
    assert written == greedy(model, ids(1, prompt, seed=seed), max_new, stops)
    assert 0 <= how.accepted <= how.drafted


def test_drafts_are_taken_where_the_other_layers_do_nothing():
    model = decoder(depth=3).eval()
    with torch.no_grad():
        for later in model.model.layers[1:]:
            later.self_attn.o_proj.weight.zero_()
            later.mlp.down_proj.weight.zero_()
    how = Speculation(1, 4)
    written = [int(new) for new in speculate(model, ids(1, 3), 41, how)]
    assert written == greedy(model, ids(1, 3), 41)
    # One token after the prompt, then eight steps of four drafts and one choice.
    assert (how.drafted, how.accepted, how.acceptance()) == (32, 32, 1.0)


@pytest.mark.parametrize(
    ("layer", "length", "message"),
    [(0, 3, "layer 0 cannot draft"), (3, 3, "has 3 layers"), (1, 0, "draft of 0"), (1, 64, "context of 64")],
)
def test_what_cannot_draft_is_refused(layer, length, message):
    with pytest.raises(ConfigError, match=message):
        speculate(decoder(depth=3), ids(1, 3), 5, Speculation(layer, length))


def test_one_text_at_a_time():
    with pytest.raises(ModelError, match="2 prompts"):
        speculate(decoder(depth=3), ids(2, 3), 5, Speculation(1, 3))

"""Heads that begin turned to the tokens beside them: where they look, and that it is BERT all the same."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lilliput.model.encoder import Classifier, Encoder, initialise_encoder
from lilliput.model.encoder_config import EncoderConfig
from lilliput.model.neighbours import steps, turned, waves


def config(**changes):
    sizes = {"vocab_size": 400, "depth": 2, "width": 96, "heads": 3, "ffn": 192, "context": 128, "dropout": 0.0}
    special = {"pad_id": 0, "cls_id": 2, "sep_id": 3, "mask_id": 4}
    return EncoderConfig(**{**sizes, **special, "init": "neighbours", **changes})


def attention(model, ids_BS):
    """What the first layer's heads look at: (heads, S, S), the mean over the texts."""
    x_BSD = model.bert.embeddings(ids_BS, ids_BS >= 0)
    own = model.bert.encoder.layer[0].attention.self
    heads, size = model.config.heads, model.config.head_dim
    q, k = (part(x_BSD).view(*x_BSD.shape[:2], heads, size).transpose(1, 2) for part in (own.query, own.key))
    return (q @ k.transpose(2, 3) / math.sqrt(size)).softmax(-1).mean(0)


def test_each_head_looks_at_its_neighbour():
    model = Encoder(config())
    initialise_encoder(model, 0)
    ids = torch.randint(5, 400, (4, 128), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        seen_HSS = attention(model, ids)
    assert steps(3) == [-1, 1, -2]
    for head, places in enumerate(steps(3)):
        inner = torch.arange(4, 124)
        assert (seen_HSS[head, inner].argmax(-1) == inner + places).float().mean() > 0.97
        assert seen_HSS[head, inner, inner + places].mean() > 0.3


@given(st.integers(1, 32), st.integers(0, 200), st.integers(-5, 5))
def test_turning_a_wave_moves_it_to_another_place(pairs, place, places):
    wave, frequencies = waves(256, pairs)
    at = place + places
    if at < 0:
        return
    assert torch.allclose(turned(frequencies, places) @ wave[place], wave[at], atol=2e-4)
    assert torch.allclose(wave.norm(dim=1), torch.ones(256), atol=1e-5)


def test_the_rest_is_fan_in_and_a_convolution_keeps_that_whole():
    for made in (config(), config(conv=1, channels=4), config(heads=96)):
        turn, plain = Encoder(made), Encoder(config(conv=made.conv, channels=4, heads=made.heads, init="fan-in"))
        initialise_encoder(turn, 3)
        initialise_encoder(plain, 3)
        changed = {name for name, one in turn.state_dict().items() if not torch.equal(one, plain.state_dict()[name])}
        layer = "bert.encoder.layer.0.attention.self"
        expected = {"bert.embeddings.position_embeddings.weight", f"{layer}.query.weight", f"{layer}.key.weight"}
        assert changed == (expected if not made.conv and made.heads == 3 else set())


def test_transformers_computes_the_same(tmp_path):
    transformers = pytest.importorskip("transformers")
    made = config()
    model = Encoder(made)
    initialise_encoder(model, 0)
    other = transformers.BertForMaskedLM(transformers.BertConfig(**made.to_hf())).eval()
    other.load_state_dict(model.state_dict(), strict=False)
    other.tie_weights()
    ids = torch.randint(5, 400, (2, 50), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        assert torch.allclose(model.eval()(ids), other(ids).logits, atol=1e-4)


def test_a_classifier_that_starts_afresh_is_left_to_bert():
    model = Classifier(config(init="constant"), 3)
    initialise_encoder(model, 0)
    assert float(model.bert.embeddings.position_embeddings.weight.detach().std()) == pytest.approx(0.02, rel=0.05)

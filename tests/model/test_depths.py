"""Mixture of depths: no position's prediction depends on what follows; written, read and trained alike."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from model_support import config, decoder, ids
from torch.nn import functional as F

from lilliput.errors import ConfigError, ModelError
from lilliput.model.carve import carve_model, whole
from lilliput.model.decoder import Decoder
from lilliput.model.depths import taken
from lilliput.model.early_exit import Exits
from lilliput.model.generate import Generator, generate
from lilliput.model.init import initialise
from lilliput.model.speculate import Speculation
from lilliput.model.tree import TreeReader
from lilliput.plan.cost import decode_flops
from lilliput.recipe import load_recipe
from lilliput.train.config import TrainConfig
from lilliput.train.depths import Routed
from lilliput.train.derive import flops
from lilliput.train.loop import train

SHAPES = {
    "half": {"depth": 4, "capacity": 0.5},
    "gqa": {"depth": 5, "heads": 4, "kv_heads": 2, "width": 48, "head_dim": 12, "routed_every": 1, "tied": False},
    "third": {"depth": 6, "routed_every": 3, "attention_bias": True, "mlp_bias": True},
}


def mixture(seed: int = 0, **changes: object) -> Decoder:
    """Predictors that choose about half of the positions."""
    model = decoder(seed, family="mixture-of-depths", **changes).eval()
    with torch.no_grad():
        for index in model.config.routed_layers():
            model.model.layers[index].predictor.weight.mul_(10)
            model.model.layers[index].router.weight.mul_(3)
    return model


def by_hand(model: Decoder, text: torch.Tensor) -> torch.Tensor:
    """Logits of one text (T,), each routed layer run on the chosen positions alone, one list at a time."""
    x = model.model.embed_tokens(text)[None]
    for index, layer in enumerate(model.model.layers):
        cos, sin = model.model.turns(len(text))
        if index not in model.config.routed_layers():
            x = layer(x, cos, sin)
            continue
        places = [at for at in range(len(text)) if x[0, at] @ layer.predictor.weight + layer.predictor.bias > 0]
        if not places:
            continue
        part = x[:, places]
        mid = part + layer.self_attn(layer.input_layernorm(part), cos[places], sin[places])
        out = mid + layer.mlp(layer.post_attention_layernorm(mid))
        x = x.clone()
        x[:, places] += (out - part) * (part @ layer.router.weight)[..., None]
    return model.model.norm(x)[0] @ model.head_weight().T


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_the_pass_is_its_formula(shape):
    model = mixture(**shape)
    text = ids(3, 40)
    found = model(text)
    shares = []
    for row in range(3):
        torch.testing.assert_close(found[row], by_hand(model, text[row]), atol=2e-4, rtol=1e-4)
    x = model.model.embed_tokens(text)
    for index, layer in enumerate(model.model.layers):
        if index in model.config.routed_layers():
            shares.append(layer.chosen(x).float().mean().item())
        x = layer(x, *model.model.turns(40))
    assert any(0.1 < share < 0.9 for share in shares), shares


@settings(max_examples=25, deadline=None)
@given(shape=st.sampled_from(sorted(SHAPES)), seed=st.integers(0, 1000), cut=st.integers(1, 39))
def test_what_follows_changes_nothing_before(shape, seed, cut):
    model = mixture(seed, **SHAPES[shape])
    text, other = ids(1, 40, seed=seed), ids(1, 40, seed=seed + 1)
    other[:, :cut] = text[:, :cut]
    torch.testing.assert_close(model(text)[:, :cut], model(other)[:, :cut], atol=1e-4, rtol=1e-4)


def test_choosing_by_rank_does_depend_on_it():
    model = mixture(**SHAPES["half"])
    layer, x = model.model.layers[1], torch.randn(1, 16, 40, generator=torch.Generator().manual_seed(0))
    other = x.clone()
    other[:, 8:] += 100 * layer.router.weight.detach()
    one, two = (layer(text, *model.model.turns(16), by_rank=True)[0] for text in (x, other))
    assert not torch.allclose(one[:, :8], two[:, :8])


def test_by_rank_the_highest_are_taken_and_the_predictor_is_judged():
    model = mixture(**SHAPES["half"])
    layer, x = model.model.layers[1], torch.randn(2, 10, 40, generator=torch.Generator().manual_seed(0))
    x.requires_grad_()
    out, nats = layer(x, *model.model.turns(10), by_rank=True)
    weight = x @ layer.router.weight
    chosen = (weight >= weight.topk(5, dim=1).values[:, -1:]).float()
    assert torch.equal((out != x).any(-1), chosen.bool())
    logits = x @ layer.predictor.weight + layer.predictor.bias
    wanted = F.binary_cross_entropy_with_logits(logits, chosen, reduction="none")
    torch.testing.assert_close(nats, wanted, atol=1e-4, rtol=1e-4)
    grads = torch.autograd.grad(nats.sum(), [x, *layer.parameters()], allow_unused=True)
    names = ["x", *(name for name, _ in layer.named_parameters())]
    assert [n for n, g in zip(names, grads, strict=True) if g is not None] == ["predictor.weight", "predictor.bias"]


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_writing_from_the_cache_is_reading_the_whole(shape):
    model = mixture(**shape)
    text = ids(3, 40)
    writer = Generator(model, 3)
    found = [writer.feed(text[:, :7])] + [writer.feed(text[:, at : at + 1]) for at in range(7, 40)]
    torch.testing.assert_close(torch.stack(found, 1), model(text)[:, 6:], atol=2e-4, rtol=1e-4)
    assert 0 < writer.counted.float().mean() < 1
    alone = [int(new) for new in generate(model, text[:1, :5], 90, temperature=0)]
    together = [int(new[0]) for new in generate(model, text[:, :5], 90, temperature=0)]
    assert alone == together


@torch.no_grad()
def test_a_tree_of_texts_is_read_as_each_text():
    model = mixture(**SHAPES["half"])
    first, second = ids(1, 12), ids(1, 12, seed=1)
    second[:, :6] = first[:, :6]
    tree = torch.cat((first, second[:, 6:]), 1)
    depth = torch.tensor([[*range(12), *range(6, 12)]])
    end = torch.tensor([[18] * 6 + [12] * 6 + [18] * 6])
    states = TreeReader(model).read(tree, depth, end) * model.model.norm.weight
    logits = states @ model.head_weight().T
    torch.testing.assert_close(logits[:12], model(first)[0], atol=2e-4, rtol=1e-4)
    torch.testing.assert_close(logits[12:], model(second)[0, 6:], atol=2e-4, rtol=1e-4)


class Stream:
    """Text in which each token follows from the one before."""

    tokens = (np.cumsum(np.arange(3000) % 7 + 1) % 97).astype(np.int64)

    def windows(self, context: int) -> int:
        return (len(self.tokens) - 1) // context

    def batch(self, indices: np.ndarray, context: int) -> np.ndarray:
        return np.stack([self.tokens[i * context : i * context + context + 1] for i in indices])


def test_training_teaches_text_and_predictors_and_resumes_exactly(tmp_path: Path):
    shape = config(family="mixture-of-depths", depth=2, capacity=0.25, context=32)
    how = TrainConfig(
        steps=60, batch_sequences=8, micro_sequences=4, context=32, lr=1e-2, min_lr=1e-3, warmup_steps=5, save_every=40
    )
    nets = Decoder(shape), Decoder(shape)
    for net in nets:
        initialise(net, 0)
    windows = torch.from_numpy(Stream().batch(np.arange(16), 32))
    before = Routed().loss(nets[0], windows).item() / (16 * 32)
    train(nets[0], Stream(), how, tmp_path / "whole", device=torch.device("cpu"))
    after = Routed().loss(nets[0], windows).item() / (16 * 32)
    assert after < before - 0.5
    nets[0].eval()
    x = nets[0].model.layers[0](nets[0].model.embed_tokens(windows[:, :-1]), *nets[0].model.turns(32))
    layer = nets[0].model.layers[1]
    ranked = torch.zeros(16, 32).scatter(1, layer.router(x).topk(taken(0.25, 32), dim=1).indices, 1.0).bool()
    right = layer.chosen(x)[ranked].float().mean(), 1 - layer.chosen(x)[~ranked].float().mean()
    assert sum(right) / 2 > 0.65, right
    shutil.copytree(tmp_path / "whole/checkpoints/step-00000040", tmp_path / "again/checkpoints/step-00000040")
    train(nets[1], Stream(), how, tmp_path / "again", device=torch.device("cpu"))
    other = nets[1].state_dict()
    assert all(torch.equal(tensor, other[name]) for name, tensor in nets[0].state_dict().items())


def test_what_it_costs():
    shape = config(family="mixture-of-depths", depth=4, capacity=0.25)
    plain = config(depth=4)
    assert shape.routed_layers() == (1, 3)
    assert sum(p.numel() for p in Decoder(shape).parameters()) == shape.parameters()
    assert shape.parameters() == plain.parameters() + 2 * (2 * 40 + 1)
    saved = 2 * 0.75 * plain.layer_matrix_parameters()
    assert flops(plain, 1000) - flops(shape, 1000) == pytest.approx(6 * 1000 * (saved - 2 * 81))
    assert decode_flops(plain, 0) - decode_flops(shape, 0) == pytest.approx(2 * saved)
    assert {"capacity", "routed_every"}.isdisjoint(plain.identity())
    assert shape.identity()["capacity"] == 0.25


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"capacity": 1.0}, "share of the positions"),
        ({"capacity": 0.0}, "share of the positions"),
        ({"routed_every": 0}, "routed_every is 0"),
        ({"family": "llama", "capacity": 0.5}, "no routed layers"),
        ({"family": "pangu", "capacity": 0.5}, "no routed layers"),
        ({"shortcut": 8}, "PanGu"),
    ],
)
def test_what_cannot_be_is_refused(changes, message):
    with pytest.raises(ModelError, match=message):
        config(**{"family": "mixture-of-depths", **changes})


def test_it_goes_with_no_other_way_to_skip_layers():
    model = mixture(depth=4)
    with pytest.raises(ConfigError, match="no exits"):
        Exits.of(model.config, 0.5)
    with pytest.raises(ConfigError, match="no first layers"):
        Speculation(1, 2).check(model.config)
    with pytest.raises(ConfigError, match="has no routed layer where one in 4 is"):
        load_recipe("tiny", ["model.family=mixture-of-depths", "model.depth=3", "model.routed_every=4"])
    for asked in ("model.capacity=0.2", "model.family=pangu model.routed_every=2"):
        with pytest.raises(ConfigError, match="is for model"):
            load_recipe("tiny", asked.split())
    with pytest.raises(ConfigError, match="skips layers by itself"):
        load_recipe("tiny", ["model.family=mixture-of-depths", "train.exit_loss=0.2"])


def test_a_vocabulary_is_cut_and_layers_are_not():
    model = mixture(depth=4)
    kept = whole(model.config)
    child = carve_model(model, kept)
    torch.testing.assert_close(child(ids(1, 9)), model(ids(1, 9)), atol=0, rtol=0)
    fewer = type(kept)(**{**vars(kept), "layers": (0, 1, 2), "ffn": kept.ffn[:3], "kv_head": kept.kv_head[:3]})
    with pytest.raises(ModelError, match="would route others"):
        carve_model(model, fewer)

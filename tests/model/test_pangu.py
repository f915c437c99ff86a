"""PanGu-π blocks: the formulas written down plainly, the exact start, what training does with them, their spaces."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from model_support import config, decoder, ids
from torch.nn import functional as F

from lilliput.model import Decoder, ModelConfig, initialise, spaces
from lilliput.model.carve import take
from lilliput.model.config import default_shortcut
from lilliput.model.init import sigma
from lilliput.model.pangu import Shortcut
from lilliput.train.config import TrainConfig
from lilliput.train.loop import train
from lilliput.train.metrics import read_metrics
from lilliput.train.optimizer import build_optimizer

ARMS = {"both": {}, "shortcut": {"series": 1}, "series": {"shortcut": 0}}


def pair(seed: int = 0, **changes: object) -> tuple[Decoder, Decoder]:
    """A fresh model with blocks and the plain one with the same seed."""
    shape = config(family="pangu", **changes)
    models = Decoder(shape), Decoder(replace(shape, family="llama", shortcut=0, series=1))
    for model in models:
        initialise(model, seed)
    return models


@pytest.mark.parametrize("arm", ARMS.values(), ids=ARMS)
@pytest.mark.parametrize("biased", [False, True])
def test_the_start_is_the_plain_network(arm, biased):
    blocks, plain = pair(attention_bias=biased, mlp_bias=biased, **arm)
    state = blocks.state_dict()
    assert all(torch.equal(state[name], tensor) for name, tensor in plain.state_dict().items())
    torch.testing.assert_close(blocks(ids(3, 33)), plain(ids(3, 33)), atol=1e-5, rtol=0)
    losses = [model(ids(3, 33), ids(3, 33, seed=1)) for model in (blocks, plain)]
    torch.testing.assert_close(*losses, atol=0, rtol=1e-6)
    for loss in losses:
        loss.backward()
    for name, parameter in plain.named_parameters():
        found = dict(blocks.named_parameters())[name].grad
        torch.testing.assert_close(found, parameter.grad, atol=1e-4, rtol=1e-3)


def test_the_shortcut_is_its_formula():
    shortcut = Shortcut(config(family="pangu", shortcut=6)).double()
    torch.manual_seed(0)
    for parameter in shortcut.parameters():
        torch.nn.init.normal_(parameter)
    x_ND = torch.randn(5, 40, dtype=torch.float64)
    z_NS = x_ND @ shortcut.in_proj.weight.T
    wanted = (z_NS * 0.5 * (1 + torch.erf(z_NS / math.sqrt(2)))) @ shortcut.out_proj.weight.T
    torch.testing.assert_close(shortcut(x_ND), wanted)


def test_attention_and_shortcut_read_the_normed_input_and_the_identity_does_not():
    model = decoder(family="pangu", series=1)
    block, x_BTD = model.model.layers[0], torch.randn(2, 9, 40)
    cos, sin = model.model.cos[:9], model.model.sin[:9]
    inner, plain = block.input_layernorm(x_BTD), super(type(block.self_attn), block.self_attn)
    middle = plain.forward(inner, cos, sin) + x_BTD + block.self_attn.shortcut(inner)
    wanted = middle + block.mlp(block.post_attention_layernorm(middle))
    torch.testing.assert_close(block(x_BTD, cos, sin), wanted)


def test_the_series_is_its_formula_on_the_gate():
    mlp = decoder(family="pangu", shortcut=0).model.layers[1].mlp
    x_ND = torch.randn(5, 40)
    gate_NF = x_ND @ mlp.gate_proj.weight.T
    terms = [
        F.silu(getattr(mlp.act_fn, f"scale_{i}") * gate_NF + getattr(mlp.act_fn, f"shift_{i}")) for i in (1, 2)
    ]
    wanted = (sum(terms) * (x_ND @ mlp.up_proj.weight.T)) @ mlp.down_proj.weight.T
    torch.testing.assert_close(mlp(x_ND), wanted, atol=1e-5, rtol=1e-4)


def test_the_new_tensors_learn_from_the_first_step():
    model, _ = pair()
    model(ids(2, 20), ids(2, 20, seed=1)).backward()
    moving = {name for name, p in model.named_parameters() if p.grad.abs().min() > 0 and ".layers.1." in name}
    for name in ("mlp.act_fn.scale_1", "mlp.act_fn.shift_1", "mlp.act_fn.scale_2", "mlp.act_fn.shift_2"):
        assert f"model.layers.1.{name}" in moving
    assert "model.layers.1.self_attn.shortcut.out_proj.weight" in moving


@pytest.mark.parametrize("kind", ["constant", "gpt2", "gpt2-residual", "internlm", "depth", "fan-in"])
def test_starting_weights_of_the_shortcut(kind):
    model = Decoder(config(family="pangu", width=640, shortcut=64, depth=2, init=kind))
    initialise(model, 0)
    wanted = {"gpt2": 0.02 / 2, "fan-in": 1 / math.sqrt(640)}.get(kind, 0.02)
    for layer in model.model.layers:
        shortcut = layer.self_attn.shortcut
        assert shortcut.in_proj.weight.std().item() == pytest.approx(wanted, rel=0.02)
        assert not shortcut.out_proj.weight.any()
    assert sigma("model.layers.1.self_attn.shortcut.in_proj.weight", (64, 640), kind, 2) == pytest.approx(wanted)


def test_a_seed_decides_each_tensor():
    one, again, other = (pair(seed)[0].state_dict() for seed in (1, 1, 2))
    name = "model.layers.0.self_attn.shortcut.in_proj.weight"
    assert torch.equal(one[name], again[name])
    assert not torch.equal(one[name], other[name])


def carved(model: Decoder, kept: dict[str, torch.Tensor], **sizes: int) -> Decoder:
    """The child that keeps these members of each space."""
    child = Decoder(replace(model.config, **sizes))
    own = child.state_dict()
    for name, axes in spaces(model).items():
        own[name].copy_(take(model.state_dict()[name], axes, kept))
    return child


@pytest.mark.parametrize(
    ("space", "field", "writers"),
    [
        ("ffn", "ffn", ["mlp.down_proj"]),
        ("bottleneck", "shortcut", ["self_attn.shortcut.out_proj"]),
    ],
)
def test_a_masked_parent_is_the_carved_child(space, field, writers):
    model = decoder(family="pangu", shortcut=8)
    size = getattr(model.config, field)
    kept = torch.randperm(size, generator=torch.Generator().manual_seed(0))[: size // 2].sort().values
    child = carved(model, {space: kept}, **{field: len(kept)})
    mask = torch.zeros(size).index_fill(0, kept, 1.0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if any(name.endswith(f"{writer}.weight") for writer in writers):
                parameter.mul_(mask)
        torch.testing.assert_close(model(ids(2, 20)), child(ids(2, 20)), atol=1e-5, rtol=0)


@pytest.mark.parametrize("family", ["llama", "pangu"])
def test_a_masked_width_is_the_carved_child(family):
    """Masked channels are zero in the residual stream; a norm of fewer channels is scaled by √(kept / all)."""
    model = decoder(family=family, tied=False)
    kept = torch.randperm(40, generator=torch.Generator().manual_seed(0))[:20].sort().values
    child = carved(model, {"hidden": kept}, width=20, norm_eps=model.config.norm_eps * 2)
    with torch.no_grad():
        for name, parameter in child.named_parameters():
            if "norm" in name:
                parameter.mul_(math.sqrt(2))
        mask = torch.zeros(40).index_fill(0, kept, 1.0)
        for name, parameter in model.named_parameters():
            if name.endswith(("o_proj.weight", "mlp.down_proj.weight", "out_proj.weight")):
                parameter.mul_(mask[:, None])
            elif name.endswith("embed_tokens.weight"):
                parameter.mul_(mask)
        torch.testing.assert_close(model(ids(2, 20)), child(ids(2, 20)), atol=1e-5, rtol=0)


@settings(max_examples=40, deadline=None)
@given(
    family=st.sampled_from(["llama", "pangu"]), depth=st.integers(1, 3), head_dim=st.integers(1, 6),
    kv_heads=st.integers(1, 3), groups=st.integers(1, 3), factor=st.integers(1, 3), ffn=st.integers(1, 50),
    vocab_size=st.integers(1, 60), tied=st.booleans(), attention_bias=st.booleans(), mlp_bias=st.booleans(),
    shortcut=st.integers(1, 9), series=st.integers(1, 2),
)  # fmt: skip
def test_parameters_of_any_shape_are_counted_exactly(family, head_dim, kv_heads, groups, factor, **sizes):
    if family == "llama":
        sizes |= {"shortcut": 0, "series": 1}
    heads = kv_heads * groups
    shape = ModelConfig(
        family=family, head_dim=2 * head_dim, heads=heads, kv_heads=kv_heads, width=heads * factor,
        bos_id=0, eos_id=0, context=8, **sizes,
    )  # fmt: skip
    model = Decoder(shape)
    assert shape.parameters() == sum(parameter.numel() for parameter in model.parameters())
    assert ModelConfig.from_hf(shape.to_hf()) == shape


@given(width=st.integers(8, 40_000))
def test_the_bottleneck_is_a_32nd_in_steps(width):
    size = default_shortcut(width)
    assert size % (32 if width >= 1024 else 8) == 0
    assert size == 8 or abs(size - width / 32) <= (16 if width >= 1024 else 4)


def test_what_is_left_out_follows_from_the_family():
    assert (config().shortcut, config().series) == (0, 1)
    assert (config(family="pangu").shortcut, config(family="pangu").series) == (8, 2)
    assert config(family="pangu", width=1280).shortcut == 32
    alone = config(family="pangu", series=1)
    assert (alone.shortcut, alone.series) == (8, 1)


RUN = TrainConfig(
    steps=6, batch_sequences=4, micro_sequences=2, context=16, lr=5e-3, min_lr=5e-4, warmup_steps=1, seed=3, threads=1
)  # fmt: skip


class Windows:
    """A corpus of one rule: each token follows from the one before."""

    def __init__(self) -> None:
        self.tokens = np.cumsum(np.arange(2000) % 7) % 97

    def windows(self, context: int) -> int:
        return (len(self.tokens) - 1) // context

    def batch(self, indices: np.ndarray, context: int) -> np.ndarray:
        return np.stack([self.tokens[i * context : i * context + context + 1] for i in indices]).astype(np.int64)


def test_training_begins_where_the_plain_network_does_and_moves_every_new_tensor(tmp_path):
    blocks, plain = pair()
    before = {name: tensor.clone() for name, tensor in blocks.state_dict().items()}
    losses = []
    for model, folder in ((blocks, "blocks"), (plain, "plain")):
        train(model, Windows(), RUN, tmp_path / folder, device=torch.device("cpu"))
        losses.append([row["loss"] for row in read_metrics(tmp_path / folder / "metrics.jsonl")])
    assert losses[0][0] == pytest.approx(losses[1][0], rel=1e-6)
    assert losses[0][1:] != losses[1][1:]
    after = blocks.state_dict()
    new = [name for name in after if name not in plain.state_dict()]
    assert len(new) == 3 * 6
    assert all((after[name] != before[name]).all() for name in new)


def test_scales_and_shifts_do_not_decay():
    model, _ = pair()
    decaying, resting = build_optimizer(model, RUN).param_groups
    assert decaying["weight_decay"] > 0 == resting["weight_decay"]
    placed = {id(p): "decays" for p in decaying["params"]} | {id(p): "rests" for p in resting["params"]}
    where = {name: placed[id(p)] for name, p in model.named_parameters()}
    assert {where[name] for name in where if ".act_fn." in name} == {"rests"}
    assert {where[name] for name in where if ".shortcut." in name} == {"decays"}

"""The masked model against one masked by hooks; its gates folded and carved away; targets met; gradients."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import settings as limits
from hypothesis import strategies as st
from mask_support import hooked, smaller
from neuron_support import SHAPES, decoder, ids
from torch.testing import assert_close

from lilliput.errors import ModelError, UserError
from lilliput.inherit import concrete
from lilliput.inherit.fold import Gates, fold, kept_of
from lilliput.inherit.lagrangian import Masking, penalty, sparsity_wanted
from lilliput.inherit.masked import MaskedDecoder, check_target
from lilliput.model.carve import Kept, carve_model

RELATIVES = {name: shape for name, shape in SHAPES.items() if not name.startswith("pangu")}
RELATIVES |= {
    "mistral": {"kv_heads": 2, "model_type": "mistral", "tied": False},
    "qwen3-tied": {"kv_heads": 4, "model_type": "qwen3", "qk_norm": True, "attention_bias": True},
}
SMALL = {"depth": 2, "width": 8, "kv_heads": 1, "ffn": 6}
EIGHT = {"depth": 3, "width": 12}


def scattered(model: MaskedDecoder, seed: int = 0) -> MaskedDecoder:
    """Its masks all over their range, among them equal ones."""
    noise = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for logalpha in model.masks.values():
            logalpha.uniform_(concrete.LOW, concrete.HIGH, generator=noise)
            logalpha[..., 1:2] = logalpha[..., :1]
    return model


def masked(seed: int = 0, sizes: dict[str, int] = SMALL, **shape: object) -> MaskedDecoder:
    teacher = decoder(seed, **{**EIGHT, **shape})
    if teacher.config.kv_heads == 1:
        sizes = {**sizes, "width": 4}
    return scattered(MaskedDecoder(teacher, smaller(teacher.config, **{**sizes, "kv_heads": 1})), seed)


@pytest.mark.parametrize("shape", RELATIVES.values(), ids=RELATIVES)
def test_it_computes_what_hooks_would(shape: dict[str, object]) -> None:
    """In training, behind gates by chance, and settled; loss and logits."""
    model, teacher = masked(**shape), decoder(**{**EIGHT, **shape})
    text = ids(3, 12)
    for training in (True, False):
        model.train(training)
        torch.manual_seed(5)
        gates = model.drawn() if training else model.settled()
        oracle = hooked(teacher, gates)
        torch.manual_seed(5)
        assert_close(model(text[:, :-1]), oracle(text[:, :-1]), atol=1e-5, rtol=1e-5)
        torch.manual_seed(5)
        assert_close(model(text[:, :-1], text[:, 1:].contiguous()), oracle(text[:, :-1], text[:, 1:].contiguous()))


@pytest.mark.parametrize("shape", RELATIVES.values(), ids=RELATIVES)
def test_folding_and_carving_change_no_logit(shape: dict[str, object]) -> None:
    model = masked(**shape).eval()
    child, kept = model.child()
    assert child.config == model.target
    assert kept == kept_of(model.settled(), model.config)
    with torch.no_grad():
        assert_close(child(ids(3, 12)), model(ids(3, 12)), atol=1e-5, rtol=1e-5)


def hard(size: tuple[int, ...], kept: tuple[int, ...]) -> torch.Tensor:
    z = torch.zeros(size)
    z[..., list(kept)] = 1.0
    return z


@pytest.mark.parametrize("space", ["hidden", "ffn", "kv_head", "layers"])
@pytest.mark.parametrize("shape", ["gqa", "biased", "qwen3"])
def test_behind_hard_gates_the_teacher_is_its_carved_child(space: str, shape: str) -> None:
    teacher = decoder(depth=3, **RELATIVES[shape])
    sizes = {"hidden": {"width": 8}, "ffn": {"ffn": 3}, "kv_head": {"kv_heads": 1}, "layers": {"depth": 2}}
    gates = {
        "hidden": Gates(hidden=hard((12,), (0, 1, 3, 4, 6, 8, 9, 11))),
        "ffn": Gates(ffn=hard((3, 10), (1, 4, 9))),
        "kv_head": Gates(kv_head=hard((3, teacher.config.kv_heads), (1,))),
        "layers": Gates(layers=hard((3,), (0, 2))),
    }[space]
    model = MaskedDecoder(teacher, smaller(teacher.config, **sizes[space]))
    assert model.cut == (space,)
    kept = kept_of(gates, teacher.config)
    child = carve_model(teacher, kept)
    assert child.config == model.target
    with torch.no_grad():
        assert_close(model.behind(gates, ids(2, 12)), child(ids(2, 12)), atol=1e-5, rtol=1e-5)
    # Gates of 1 change no weight.
    folded = carve_model(fold(teacher, gates), kept).state_dict()
    assert all(torch.equal(folded[name], tensor) for name, tensor in child.state_dict().items())


@st.composite
def targets(draw: st.DrawFn) -> MaskedDecoder:
    kv_heads, group = draw(st.integers(1, 3)), draw(st.integers(1, 2))
    unit = 6 * group
    shape: dict[str, int] = {
        "depth": draw(st.integers(1, 3)),
        "kv_heads": kv_heads,
        "heads": kv_heads * group,
        "width": unit * draw(st.integers(1, 3)),
        "head_dim": 2 * draw(st.integers(1, 2)),
        "ffn": draw(st.integers(1, 9)),
    }
    teacher = decoder(draw(st.integers(0, 5)), tied=draw(st.booleans()), **shape)
    sizes = {name: draw(st.integers(1, shape[name])) for name in ("depth", "ffn", "kv_heads")}
    heads = sizes["kv_heads"] * group
    sizes["width"] = heads * draw(st.integers(1, shape["width"] // heads))
    return scattered(MaskedDecoder(teacher, smaller(teacher.config, **sizes)), draw(st.integers(0, 5)))


@limits(max_examples=40, deadline=None)
@given(targets())
def test_every_target_is_met_exactly(model: MaskedDecoder) -> None:
    child, kept = model.eval().child()
    assert child.config == model.target
    assert child.state_dict().keys() == type(child)(model.target).state_dict().keys()
    assert len(kept.hidden) == model.target.width
    with torch.no_grad():
        assert_close(child(ids(2, 8)), model(ids(2, 8)), atol=1e-5, rtol=1e-4)


def test_a_target_of_the_teachers_shape_is_the_teacher() -> None:
    teacher = decoder()
    model = MaskedDecoder(teacher, teacher.config).train()
    assert model.cut == ()
    assert torch.equal(model(ids(2, 8)), teacher(ids(2, 8)))
    child, _ = model.child()
    assert all(torch.equal(child.state_dict()[name], tensor) for name, tensor in teacher.state_dict().items())


def test_penalties_follow_their_formula_and_every_layer_counts() -> None:
    model = masked(kv_heads=2)
    with torch.no_grad():
        model.lambda1.copy_(torch.tensor([0.5, -1.0, 2.0, 0.25]))
        model.lambda2.copy_(torch.tensor([1.0, 3.0, 0.5, 2.0]))
    assert model.cut == ("hidden", "ffn", "kv_head", "layers")
    wanted = {"hidden": 1 / 3, "ffn": 0.4, "kv_head": 0.5, "layers": 1 / 3}
    total = 0.0
    for index, space in enumerate(model.cut):
        assert sparsity_wanted(model, space) == pytest.approx(wanted[space])
        stays = 1 - torch.sigmoid(2 / 3 * torch.tensor(0.1 / 1.1).log() - model.masks[space].detach())
        excess = (1 - stays.mean(-1)) - 0.7 * wanted[space]
        assert excess.numel() == (3 if space in ("ffn", "kv_head") else 1)
        one, two = (float(part.detach()[index]) for part in (model.lambda1, model.lambda2))
        total += float((one * excess + two * excess**2).mean())
    assert float(penalty(model, 0.7).detach()) == pytest.approx(total, rel=1e-5)


def test_gradients_of_the_mask_loss_are_those_of_finite_differences() -> None:
    """Of cross-entropy and penalty together, along random directions in each space, in the weights and in λ."""
    model = masked(kv_heads=2, attention_bias=True, mlp_bias=True)
    with torch.no_grad():
        model.lambda1.normal_(generator=torch.Generator().manual_seed(1))
        model.lambda2.fill_(2.0)
        for logalpha in model.masks.values():
            logalpha.clamp_(-1.5, 2.5)
    objective = Masking(1.0, 0.1, 10, {})
    objective.begin(model, 5)
    windows = ids(4, 13)

    def value() -> float:
        torch.manual_seed(3)
        with torch.no_grad():
            likelihood = float(model(windows[:, :-1], windows[:, 1:].contiguous()))
            return likelihood + 48 * float(penalty(model, 0.5))

    torch.manual_seed(3)
    loss = objective.loss(model, windows)
    torch.manual_seed(3)
    assert float(loss.detach()) == float(model(windows[:, :-1], windows[:, 1:].contiguous()).detach())
    loss.backward()
    named = dict(model.named_parameters())
    noise = torch.Generator().manual_seed(2)
    weights = "decoder.model.layers.1.mlp.down_proj.weight"
    for name in (*(f"masks.{space}" for space in model.cut), "lambda1", "lambda2", weights):
        parameter = named[name]
        way = torch.sign(parameter.grad) + torch.randn(parameter.shape, generator=noise) * 0.1
        start, step = parameter.detach().clone(), 2e-3
        found = []
        for sign in (1, -1):
            with torch.no_grad():
                parameter.copy_(start + sign * step * way)
                found.append(value())
        with torch.no_grad():
            parameter.copy_(start)
        assert (found[0] - found[1]) / (2 * step) == pytest.approx(float((parameter.grad * way).sum()), rel=2e-2), name


def test_penalties_gradients_to_the_last_digits() -> None:
    model = masked(kv_heads=2).double()
    with torch.no_grad():
        model.lambda1.uniform_(-1, 1)
        model.lambda2.uniform_(0, 3)
    parameters = [*model.masks.values(), model.lambda1, model.lambda2]
    assert torch.autograd.gradcheck(lambda *given: penalty(model, 0.5), parameters)


def test_padding_weighs_nothing() -> None:
    model = masked(kv_heads=2)
    with torch.no_grad():
        model.lambda1.fill_(1.0)
    objective = Masking(1.0, 0.1, 0, {})
    objective.begin(model, 0)
    objective.loss(model, torch.full((2, 9), -100)).backward()
    assert all(not p.grad.any() for p in model.parameters() if p.grad is not None)


@pytest.mark.parametrize(
    ("changes", "where"),
    [
        ({"depth": 5}, "depth"),
        ({"width": 24}, "width"),
        ({"kv_heads": 3, "heads": 6}, "kv_heads"),
        ({"ffn": 11}, "ffn"),
        ({"heads": 2}, "heads"),
        ({"vocab_size": 20}, "vocab_size"),
        ({"tied": False}, "tied"),
        ({"head_dim": 2}, "head_dim"),
    ],
)
def test_targets_that_cannot_be_are_refused_by_name(changes: dict[str, object], where: str) -> None:
    teacher = decoder()
    with pytest.raises(ModelError) as caught:
        MaskedDecoder(teacher, replace(teacher.config, **changes))
    assert caught.value.where == where
    assert caught.value.mend


@pytest.mark.parametrize("layers", [(0, 1, 2), (0,), (1, 0), (0, 3), (0, 0), ()])
def test_layers_that_cannot_be_are_refused(layers: tuple[int, ...]) -> None:
    teacher = decoder(depth=3)
    with pytest.raises(UserError) as caught:
        check_target(teacher.config, replace(teacher.config, depth=2), layers)
    assert caught.value.where == "layers"
    assert caught.value.mend


def test_pangu_blocks_are_refused() -> None:
    teacher = decoder(family="pangu")
    for refused in (lambda: MaskedDecoder(teacher, teacher.config), lambda: fold(teacher, Gates())):
        with pytest.raises(ModelError, match="pangu"):
            refused()


def test_a_tied_head_is_not_divided_by_nearly_nothing() -> None:
    teacher = decoder()
    gate = torch.ones(12)
    gate[7] = 1e-5
    with pytest.raises(ModelError) as caught:
        fold(teacher, Gates(hidden=gate))
    assert caught.value.where == "hidden channel 7"
    fold(decoder(tied=False), Gates(hidden=gate))
    fold(teacher, Gates(hidden=torch.where(gate < 1, 0.0, gate)))


def test_members_are_named_for_the_layers_that_stay() -> None:
    config = decoder(depth=3).config
    gates = Gates(layers=hard((3,), (1,)), ffn=torch.rand(3, 10) + 0.1)
    gates.ffn[1, 2:] = 0
    assert kept_of(gates, config) == Kept((1,), tuple(range(12)), ((0, 1),), ((0, 1),))

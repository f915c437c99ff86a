"""The decoder against transformers, in logits and gradients."""

import pytest
import torch
from model_support import SHAPES, config, decoder, ids

from lilliput.device import compiler
from lilliput.errors import ModelError
from lilliput.model import Decoder

KINDS = {"llama": {}, "pangu": {"family": "pangu"}, "qwen3": {"model_type": "qwen3", "qk_norm": True}}


def peer(model: Decoder):
    """The transformers model with the same weights; for a family of ours the class that we ship on top of it."""
    transformers = pytest.importorskip("transformers")
    if model.config.family == "pangu":
        from lilliput.export.blocks import modeling_lilliput_pangu as ours

        kind, settings = ours.LilliputPanguForCausalLM, ours.LilliputPanguConfig
    elif model.config.family == "shared":
        from lilliput.export.blocks import modeling_lilliput_shared as shared

        kind, settings = shared.LilliputSharedForCausalLM, shared.LilliputSharedConfig
    else:
        settings = transformers.CONFIG_MAPPING[model.config.model_type]
        kind = transformers.MODEL_FOR_CAUSAL_LM_MAPPING[settings]
    theirs = kind(settings.from_dict(model.config.to_hf()))
    state = dict(model.state_dict())
    if model.config.tied:
        state["lm_head.weight"] = state["model.embed_tokens.weight"]
    theirs.load_state_dict(state, strict=True)
    return theirs.eval()


@pytest.mark.parametrize("changes", SHAPES.values(), ids=SHAPES)
def test_logits_and_gradients_equal_transformers(changes):
    model = decoder(**changes)
    llama = peer(model)
    ids_BT, targets_BT = ids(3, 33), ids(3, 33, seed=1)
    torch.testing.assert_close(model(ids_BT), llama(ids_BT).logits, atol=1e-4, rtol=0)

    model(ids_BT, targets_BT).backward()
    logits_BTV = llama(ids_BT).logits
    loss = torch.nn.functional.cross_entropy(logits_BTV.flatten(0, 1), targets_BT.flatten(), reduction="sum")
    loss.backward()
    theirs = dict(llama.named_parameters())
    for name, parameter in model.named_parameters():
        scale = theirs[name].grad.abs().max()
        assert (parameter.grad - theirs[name].grad).abs().max() <= 1e-4 * scale, name


def test_a_later_position_never_changes_an_earlier_one():
    model, ids_BT = decoder(), ids(2, 20)
    changed_BT = ids_BT.clone()
    changed_BT[:, 12:] = (changed_BT[:, 12:] + 1) % 97
    torch.testing.assert_close(model(ids_BT)[:, :12], model(changed_BT)[:, :12], atol=1e-6, rtol=0)
    assert (model(ids_BT)[:, 12] - model(changed_BT)[:, 12]).abs().max() > 1e-2


def test_too_long_a_sequence_is_refused():
    with pytest.raises(ModelError, match="context of 64"):
        decoder()(ids(1, 65))


def test_a_step_repeats_bit_for_bit():
    def gradients() -> list[torch.Tensor]:
        model = decoder()
        model(ids(4, 64), ids(4, 64, seed=1)).backward()
        return [parameter.grad for parameter in model.parameters()]

    for first, second in zip(gradients(), gradients(), strict=True):
        assert torch.equal(first, second)


def test_a_new_decoder_is_zero_and_leaves_the_generator_alone():
    before = torch.random.get_rng_state()
    model = Decoder(config(attention_bias=True, mlp_bias=True))
    assert torch.equal(torch.random.get_rng_state(), before)
    assert all(p.abs().sum() == 0 for name, p in model.named_parameters() if "norm" not in name)


@pytest.mark.parametrize("changes", KINDS.values(), ids=KINDS)
def test_compiled_equals_eager(changes):
    if compiler() is None:
        pytest.skip("no C++ compiler")
    changes = {"heads": 4, "kv_heads": 2, "tied": False, **changes}
    eager, compiled = decoder(**changes), decoder(**changes)
    for block in compiled.model.layers:
        block.compile(dynamic=False)
    ids_BT, targets_BT = ids(2, 32), ids(2, 32, seed=1)
    losses = [model(ids_BT, targets_BT) for model in (eager, compiled)]
    torch.testing.assert_close(*losses)
    for loss in losses:
        loss.backward()
    for one, other in zip(eager.parameters(), compiled.parameters(), strict=True):
        assert (one.grad - other.grad).abs().max() <= 1e-4 * one.grad.abs().max()


@pytest.mark.parametrize("changes", KINDS.values(), ids=KINDS)
def test_half_precision_runs_and_is_close(changes):
    model = decoder(**changes)
    exact = model(ids(2, 16), ids(2, 16, seed=1))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rough = model(ids(2, 16), ids(2, 16, seed=1))
    rough.backward()
    assert rough.dtype == torch.float32
    torch.testing.assert_close(rough, exact, rtol=0.05, atol=0)
    assert all(p.grad.isfinite().all() for p in model.parameters())
    with torch.no_grad():
        assert model.bfloat16()(ids(2, 16)).dtype == torch.float32

import pytest
import torch
from model_support import config

from lilliput.model import Decoder, initialise


def start(seed: int, **changes: object) -> dict[str, torch.Tensor]:
    model = Decoder(config(**changes))
    initialise(model, seed)
    return model.state_dict()


DEPTH = 3
HALF, SCALED = 0.5**0.5, (2 * DEPTH) ** -0.5
# For each kind of start the factor on σ = 0.02 that its formula gives to each matrix of the layers 0, 1, 2.
FORMULAS: dict[str, dict[str, tuple[float, float, float]]] = {
    "constant": {},
    "gpt2": dict.fromkeys(("q", "k", "v", "o", "gate", "up", "down"), (SCALED,) * 3),
    "gpt2-residual": dict.fromkeys(("o", "down"), (SCALED,) * 3),
    "internlm": dict.fromkeys(("o", "gate"), (SCALED,) * 3),
    "depth": {
        **dict.fromkeys(("q", "k"), (2**0.5, (2**0.5 + 1) / 2, 1.0)),
        **dict.fromkeys(("v", "o"), (HALF, (HALF + 1) / 2, 1.0)),
    },
}


@pytest.mark.parametrize("kind", FORMULAS)
def test_standard_deviations_layer_by_layer(kind):
    formula = FORMULAS[kind]
    for name, tensor in start(0, width=120, ffn=400, vocab_size=500, depth=DEPTH, init=kind).items():
        if tensor.ndim == 1:
            assert torch.equal(tensor, torch.ones_like(tensor)), name
            continue
        parts = name.split(".")
        matrix = parts[-2].removesuffix("_proj")
        factor = formula[matrix][int(parts[2])] if parts[1] == "layers" and matrix in formula else 1.0
        assert tensor.std().item() == pytest.approx(0.02 * factor, rel=0.02), name
        assert abs(tensor.mean().item()) < 0.002 * factor, name


def test_one_layer_alone_is_the_first():
    state = start(0, width=120, ffn=400, vocab_size=500, depth=1, init="depth")
    spread = state["model.layers.0.self_attn.q_proj.weight"].std().item()
    assert spread == pytest.approx(0.02 * 2**0.5, rel=0.02)


def test_fan_in_follows_the_inputs():
    for name, tensor in start(0, width=120, ffn=400, vocab_size=500, depth=DEPTH).items():
        if tensor.ndim == 2:
            scale = SCALED if name.endswith(("o_proj.weight", "down_proj.weight")) else 1.0
            assert tensor.std().item() == pytest.approx(scale * tensor.shape[1] ** -0.5, rel=0.02), name


def test_seed_and_name_decide_whatever_the_threads_and_the_other_tensors():
    threads = torch.get_num_threads()
    one = start(7)
    try:
        torch.set_num_threads(threads + 1)
        again = start(7, depth=5)
    finally:
        torch.set_num_threads(threads)
    same = [name for name in one if not name.endswith(("o_proj.weight", "down_proj.weight"))]
    assert all(torch.equal(one[name], again[name]) for name in same)
    other = start(8)
    assert not any(torch.equal(one[name], other[name]) for name in one if one[name].ndim == 2)


def test_biases_start_at_zero():
    state = start(0, attention_bias=True, mlp_bias=True)
    assert all(tensor.abs().sum() == 0 for name, tensor in state.items() if name.endswith("bias"))

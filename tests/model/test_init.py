import pytest
import torch
from model_support import config

from lilliput.model import Decoder, initialise


def start(seed: int, **changes: object) -> dict[str, torch.Tensor]:
    model = Decoder(config(**changes))
    initialise(model, seed)
    return model.state_dict()


@pytest.mark.parametrize(("kind", "scale"), [("constant", 1.0), ("gpt2-residual", (2 * 3) ** -0.5)])
def test_standard_deviations(kind, scale):
    for name, tensor in start(0, width=120, ffn=400, vocab_size=500, init=kind).items():
        if tensor.ndim == 1:
            assert torch.equal(tensor, torch.ones_like(tensor)), name
            continue
        wanted = 0.02 * (scale if name.endswith(("o_proj.weight", "down_proj.weight")) else 1.0)
        assert tensor.std().item() == pytest.approx(wanted, rel=0.05), name
        assert abs(tensor.mean().item()) < 0.1 * wanted, name


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

"""Starting weights.

Each tensor's numbers depend only on the seed and its name: not on the order of tensors, the number of
threads, the device or the processor's vector width. (NumPy's Philox counter generator, keyed by both.)
"""

from __future__ import annotations

import hashlib
import math
import re

import numpy as np
import torch
from torch import Tensor

from lilliput.model.byte_pool_config import BytePoolConfig
from lilliput.model.config import ModelConfig
from lilliput.model.decoder import Decoder

SIGMA = 0.02  # GPT-2's; the paper does not print its own (2402.02791 §3.1)

_RESIDUAL_OUTPUTS = ("self_attn.o_proj.weight", "mlp.down_proj.weight")
_ZERO = (
    ".bias", ".lora_B.weight", ".predictor.weight", ".shortcut.out_proj.weight",
    ".act_fn.shift_1", ".act_fn.shift_2", ".act_fn.scale_2",
)  # fmt: skip
_LAYER = re.compile(r"model\.layers\.(\d+)\.")


def sigma(name: str, shape: tuple[int, ...], kind: str, depth: int) -> float:
    """Standard deviation of a matrix of `shape` (outputs, inputs). With σ = 0.02, and 2·depth residual branches:

    "constant": σ for all. "gpt2-residual": as GPT-2 has it, σ/√(2·depth) for the matrices that write to the residual
    stream, so that its variance does not grow with depth. "fan-in": 1/√inputs in place of σ, with the same scaling.
    That is 0.02 at width 2,500, where 0.02 comes from, and 0.1 at width 100: at tiny widths 0.02 starts so small
    that the first steps drown what the embedding says (results/initialisation).

    PanGu-π Pro's others (2402.02791 §3.1, App. B): "gpt2": σ/√(2·depth) for every matrix of a layer. "internlm":
    that for the attention's output and the MLP's gate alone. "depth": queries and keys fall from √2·σ in the first
    layer to σ in the last, values and attention outputs rise from σ/√2 to σ, linearly in the layer; the MLP has σ.

    The first matrix of a PanGu-π shortcut is of no kind's exceptions: "gpt2" scales it as every matrix of a layer, the
    others leave it at σ or 1/√inputs. (The second starts at zero.) So is the first of a LoRA, A. What layers share
    starts as the first of them has it.
    """
    base = SIGMA if kind != "fan-in" else 1 / math.sqrt(shape[1])
    layer = _LAYER.match(name)
    if layer is None:
        return base
    if kind == "depth":
        return base * _by_depth(name, int(layer[1]) / max(1, depth - 1))
    return base / math.sqrt(2 * depth) if name.endswith(_SCALED[kind]) else base


# Endings of the layers' matrices that are scaled by 1/√(2·depth), by kind of start.
_SCALED: dict[str, tuple[str, ...]] = {
    "constant": (),
    "gpt2-residual": _RESIDUAL_OUTPUTS,
    "fan-in": _RESIDUAL_OUTPUTS,
    "gpt2": ("_proj.weight",),
    "internlm": ("self_attn.o_proj.weight", "mlp.gate_proj.weight"),
}


def _by_depth(name: str, place: float) -> float:
    """The factor on σ at `place`, 0 in the first layer and 1 in the last."""
    if name.endswith(("q_proj.weight", "k_proj.weight")):
        return math.sqrt(2) + (1 - math.sqrt(2)) * place
    if name.endswith(("v_proj.weight", "o_proj.weight")):
        return math.sqrt(0.5) + (1 - math.sqrt(0.5)) * place
    return 1.0


def start(name: str, shape: tuple[int, ...], config: ModelConfig, seed: int) -> Tensor:
    """The first weights of the tensor `name` in a model of `config`, fp32: matrices normal, norms one, biases zero."""
    if name.endswith(_ZERO):
        return torch.zeros(shape)
    if name.endswith(".router.weight"):  # as a row of a fan-in matrix; of its predictor nothing is known yet
        return drawn(name, shape, seed).mul_(1 / math.sqrt(shape[0]))
    if len(shape) != 2:
        return torch.ones(shape)
    spread = sigma(name, shape, config.init, config.depth)
    if isinstance(config, BytePoolConfig) and config.init == "fan-in":
        spread *= config.start_factor(name)
    return drawn(name, shape, seed).mul_(spread)


def drawn(name: str, shape: tuple[int, ...], seed: int) -> Tensor:
    """Standard normal numbers that depend on the seed and the tensor's name alone, fp32."""
    key = hashlib.sha256(f"{seed}/{name}".encode()).digest()[:16]
    stream = np.random.Generator(np.random.Philox(key=int.from_bytes(key, "little")))
    return torch.from_numpy(stream.standard_normal(shape, dtype=np.float32))


def initialise(model: Decoder, seed: int) -> None:
    """Fill the model by its `config.init` (`start`). PanGu-π's additions start as nothing (pangu.py), so that the
    model is the plain one with the same seed. In place."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(start(name, tuple(parameter.shape), model.config, seed))

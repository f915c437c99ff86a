"""Starting weights.

Each tensor's numbers depend only on the seed and its name: not on the order of tensors, the number of
threads, the device or the processor's vector width. (NumPy's Philox counter generator, keyed by both.)
"""

from __future__ import annotations

import hashlib
import math

import numpy as np
import torch

from lilliput.model.decoder import Decoder

SIGMA = 0.02  # GPT-2's; the paper does not print its own (2402.02791 §3.1)

_RESIDUAL_OUTPUTS = ("self_attn.o_proj.weight", "mlp.down_proj.weight")


def sigma(name: str, shape: tuple[int, ...], kind: str, depth: int) -> float:
    """Standard deviation of a matrix of `shape` (outputs, inputs).

    kind "constant": 0.02 for all. "gpt2-residual": the same, but the matrices that write to the residual stream
    are scaled by 1/√(2·depth), so that its variance does not grow with depth. "fan-in": 1/√inputs with the same
    scaling. That is 0.02 at width 2,500, where 0.02 comes from, and 0.1 at width 100: at tiny widths 0.02 starts
    so small that the first steps drown what the embedding says (results/initialisation).
    """
    base = SIGMA if kind != "fan-in" else 1 / math.sqrt(shape[1])
    if kind != "constant" and name.endswith(_RESIDUAL_OUTPUTS):
        return base / math.sqrt(2 * depth)
    return base


def initialise(model: Decoder, seed: int) -> None:
    """Fill the model by its `config.init`: matrices normal, norms one, biases zero. In place."""
    config = model.config
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim == 2:
                key = hashlib.sha256(f"{seed}/{name}".encode()).digest()[:16]
                stream = np.random.Generator(np.random.Philox(key=int.from_bytes(key, "little")))
                values = stream.standard_normal(tuple(parameter.shape), dtype=np.float32)
                values *= sigma(name, tuple(parameter.shape), config.init, config.depth)
                parameter.copy_(torch.from_numpy(values))
            else:
                parameter.fill_(0.0 if name.endswith(".bias") else 1.0)

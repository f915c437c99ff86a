"""Tiny models, and their groups written down by name: the oracle that knows nothing of the declared spaces."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lilliput.inherit.neurons import Scores
from lilliput.model import Decoder, ModelConfig, initialise

SHAPES: dict[str, dict[str, Any]] = {
    "mha": {"kv_heads": 4, "tied": False},
    "gqa": {"kv_heads": 2},
    "one-kv-head": {"kv_heads": 1, "head_dim": 6},
    "biased": {"kv_heads": 2, "attention_bias": True, "mlp_bias": True, "tied": False},
    "pangu": {"kv_heads": 2, "family": "pangu", "shortcut": 5},
    "pangu-biased": {"kv_heads": 4, "family": "pangu", "shortcut": 3, "attention_bias": True, "mlp_bias": True},
    "qwen2": {"kv_heads": 2, "model_type": "qwen2", "attention_bias": True, "output_bias": False},
    "qwen3": {"kv_heads": 2, "model_type": "qwen3", "qk_norm": True, "tied": False},
}
SPACES = ("hidden", "ffn", "kv_head", "layers")


def decoder(seed: int = 0, **changes: Any) -> Decoder:
    """A decoder whose every tensor, norms and biases too, is random."""
    shape = {
        "vocab_size": 23, "depth": 2, "width": 12, "heads": 4, "kv_heads": 2, "head_dim": 4, "ffn": 10,
        "bos_id": 0, "eos_id": 1, "context": 16, **changes,
    }  # fmt: skip
    model = Decoder(ModelConfig(**shape))
    initialise(model, seed)
    noise = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=noise) * 0.2)
    return model


def ids(rows: int, length: int, seed: int = 0) -> Tensor:
    return torch.randint(0, 23, (rows, length), generator=torch.Generator().manual_seed(seed))


def _ffn(layer: int, j: int) -> Iterator[tuple[str, Any]]:
    mlp = f"model.layers.{layer}.mlp."
    for name in ("gate_proj.weight", "gate_proj.bias", "up_proj.weight", "up_proj.bias"):
        yield mlp + name, np.s_[j]
    yield mlp + "down_proj.weight", np.s_[:, j]
    for term in (1, 2):
        yield f"{mlp}act_fn.scale_{term}", np.s_[j]
        yield f"{mlp}act_fn.shift_{term}", np.s_[j]


def _kv_head(config: ModelConfig, layer: int, k: int) -> Iterator[tuple[str, Any]]:
    attention = f"model.layers.{layer}.self_attn."
    each = config.head_dim
    key = slice(k * each, (k + 1) * each)
    group = config.heads // config.kv_heads
    query = slice(k * group * each, (k + 1) * group * each)
    for kind in ("weight", "bias"):
        yield f"{attention}q_proj.{kind}", np.s_[query]
        yield f"{attention}k_proj.{kind}", np.s_[key]
        yield f"{attention}v_proj.{kind}", np.s_[key]
    yield attention + "o_proj.weight", np.s_[:, query]


def _hidden(config: ModelConfig, c: int) -> Iterator[tuple[str, Any]]:
    yield "model.embed_tokens.weight", np.s_[:, c]
    yield "lm_head.weight", np.s_[:, c]
    yield "model.norm.weight", np.s_[c]
    for layer in range(config.depth):
        at = f"model.layers.{layer}."
        for norm in ("input_layernorm.weight", "post_attention_layernorm.weight"):
            yield at + norm, np.s_[c]
        for reader in ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "mlp.gate_proj", "mlp.up_proj"):
            yield f"{at}{reader}.weight", np.s_[:, c]
        for writer in ("self_attn.o_proj", "mlp.down_proj"):
            yield f"{at}{writer}.weight", np.s_[c]
            yield f"{at}{writer}.bias", np.s_[c]
        yield at + "self_attn.shortcut.in_proj.weight", np.s_[:, c]
        yield at + "self_attn.shortcut.out_proj.weight", np.s_[c]


def group(model: Decoder, space: str, *place: int) -> list[tuple[str, Any]]:
    """(tensor, index) of all parts of one group: hidden c; ffn and kv_head layer, number; layers l."""
    config, names = model.config, set(model.state_dict())
    if space == "layers":
        return [(name, ...) for name in names if name.startswith(f"model.layers.{place[0]}.")]
    parts = {"ffn": _ffn, "kv_head": lambda *at: _kv_head(config, *at), "hidden": lambda c: _hidden(config, c)}
    return [(name, index) for name, index in parts[space](*place) if name in names]


def places(config: ModelConfig) -> list[tuple[str, tuple[int, ...]]]:
    """Every group of a model."""
    layers = range(config.depth)
    return [
        *(("hidden", (c,)) for c in range(config.width)),
        *(("ffn", (layer, j)) for layer in layers for j in range(config.ffn)),
        *(("kv_head", (layer, k)) for layer in layers for k in range(config.kv_heads)),
        *(("layers", (layer,)) for layer in layers),
    ]


def by_hand(model: Decoder, value: Callable[[str], np.ndarray]) -> dict[str, np.ndarray]:
    """By space the sums over every group of value(name), the array of a tensor."""
    config = model.config
    found = {
        "hidden": np.zeros(config.width),
        "ffn": np.zeros((config.depth, config.ffn)),
        "kv_head": np.zeros((config.depth, config.kv_heads)),
        "layers": np.zeros(config.depth),
    }
    for space, place in places(config):
        found[space][place] = sum(value(name)[index].sum() for name, index in group(model, space, *place))
    return found


def check(scores: Scores, wanted: dict[str, np.ndarray], rtol: float = 1e-12, atol: float = 0.0) -> None:
    for space in SPACES:
        found = getattr(scores, space)
        assert found.dtype == np.float64
        np.testing.assert_allclose(found, wanted[space], rtol=rtol, atol=atol, err_msg=space)


def kill(model: Decoder, space: str, *place: int) -> None:
    """Put zeros into a whole group."""
    with torch.no_grad():
        for name, index in group(model, space, *place):
            model.get_parameter(name)[index] = 0

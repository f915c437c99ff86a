"""Turn a model to fewer key-value heads: grouped-query conversion (2305.13245 §2.1; 2402.02791 App. A).

Neighbouring key-value heads are put together in groups of one size, each of which becomes one head. Query heads are
untouched, and each of them then reads its old head's group; so this is no carve, which would take query heads along.
Rotary positions need no care: they turn all heads alike and are linear, so a mean of keys is turned as the keys were.

Ways: "mean", the arithmetic mean of the group's key and value rows (and biases), which both papers take; and what
2305.13245 §3.3 compares it with: "first", the group's first head, and "random", heads that start afresh, as in a new
model of the child's shape and the parent's `init`. Where the heads of each group are equal, mean and first leave the
model's function as it is; elsewhere the loss jumps, and further training (5 % of the tokens in both papers) is needed.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import starmap

import torch
from torch import Tensor

from lilliput.errors import ModelError
from lilliput.model.carve import check_declared, take
from lilliput.model.config import ModelConfig
from lilliput.model.decoder import Decoder
from lilliput.model.init import start
from lilliput.model.spaces import declared, shapes

WAYS = ("mean", "first", "random")


def grouped_config(config: ModelConfig, groups: int) -> ModelConfig:
    """The shape with `groups` key-value heads; ModelError where they do not divide those of `config`."""
    if groups < 1 or config.kv_heads % groups:
        divisors = [str(number) for number in range(1, config.kv_heads + 1) if config.kv_heads % number == 0]
        raise ModelError(
            f"{config.kv_heads} key-value heads cannot be put together in {groups} groups of one size",
            where="kv_heads",
            mend=f"ask for {' or '.join(divisors)}",
        )
    return replace(config, kv_heads=groups)


def group_heads(
    tensors: Iterable[tuple[str, Tensor]], config: ModelConfig, groups: int, how: str = "mean", seed: int = 0
) -> Iterator[tuple[str, Tensor]]:
    """The tensors of the model with `groups` key-value heads, from those of one of the shape `config`.

    Works through `tensors` one at a time and holds none of them. All but keys and values come back themselves, and
    with as many groups as heads these too, but for "random". seed: of "random" alone.
    Raises ModelError at once for an unknown way or a number of groups that does not divide, and on its way for a
    tensor that such a model does not have.
    """
    if how not in WAYS:
        raise ModelError(f"unknown way {how!r} to group heads", where="kv_heads", mend=f"one of {', '.join(WAYS)}")
    child, wanted, axes = grouped_config(config, groups), shapes(config), declared(config)
    sizes = shapes(child)
    members = config.kv_heads // groups

    def group(name: str, tensor: Tensor) -> tuple[str, Tensor]:
        check_declared(name, tensor, wanted)
        dimensions = [axis for axis in axes[name] if axis.at is None]
        spaces = [axis.space for axis in dimensions]
        if "kv_head" not in spaces:
            return name, tensor
        if how == "random":
            return name, start(name, sizes[name], child, seed).to(device=tensor.device, dtype=tensor.dtype)
        if how == "first" or members == 1:
            return name, take(tensor, dimensions, {"kv_head": torch.arange(groups) * members})
        at = spaces.index("kv_head")
        apart = (*tensor.shape[:at], groups, members, dimensions[at].inner, *tensor.shape[at + 1 :])
        return name, tensor.reshape(apart).mean(at + 1).flatten(at, at + 1)

    # As in carve: a loop's variable would keep each tensor in memory while the next one is read.
    return starmap(group, tensors)


def group_model(model: Decoder, groups: int, how: str = "mean", seed: int = 0) -> Decoder:
    """A model with `groups` key-value heads and weights of its own, on the same device and of the same type. Errors
    as for `group_heads`."""
    first = next(model.parameters())
    child = Decoder(grouped_config(model.config, groups)).to(device=first.device, dtype=first.dtype)
    own = child.state_dict()
    for name, tensor in group_heads(model.state_dict().items(), model.config, groups, how, seed):
        own[name].copy_(tensor)
    return child.train(model.training)

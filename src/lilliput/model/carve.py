"""Cut a smaller model out of a bigger one, along the axes that spaces.py declares.

A child has the parent's numbers and nothing else: whole rows and columns stay or go, none is changed. So it equals the
masked parent, which keeps its shape and computes with zeros in the place of what was dropped:

- ffn, kv_head: the dropped neurons' activations, and the outputs of the dropped heads, are zero.
- layers: a dropped layer is the identity.
- vocab: the logits of dropped pieces are not looked at, and no text has them.
- hidden: what every writer of the residual stream (embedding, attention, feed-forward, shortcut) writes to a dropped
  channel is zero, and every RMSNorm divides its sum of squares by the number of kept channels: a mean over the
  survivors, x / √(Σ x² / kept + ε). The zeros alone are not enough. With the parent's own divisor each norm's output
  would be √(all / kept) times as large as the child's (and ε so much larger); the child's is the right one, since a
  norm's purpose is a mean square of one over the channels that there are.

What layers share is cut once, so all that use it keep the same members, and no layer goes (sharing.py).

A key-value head takes its query heads with it (spaces.PARENT) and head_dim stays. Kept numbers increase, so the rotary
order inside a head, the grouping of the heads and the order of the layers stay as they were.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise, starmap

import torch
from torch import Tensor

from lilliput.errors import ModelError
from lilliput.model.config import ModelConfig
from lilliput.model.decoder import Decoder
from lilliput.model.sharing import Sharing
from lilliput.model.spaces import PARENT, Axis, layers_of, shapes, sizes, templates


@dataclass(frozen=True)
class Kept:
    """The members of each space that a child keeps, by the parent's numbers, increasing.

    ffn, kv_head: one tuple for each kept layer, all of one length, since a child is homogeneous. vocab: None for all.
    """

    layers: tuple[int, ...]
    hidden: tuple[int, ...]
    ffn: tuple[tuple[int, ...], ...]
    kv_head: tuple[tuple[int, ...], ...]
    vocab: tuple[int, ...] | None = None


def whole(config: ModelConfig) -> Kept:
    """Everything: the carve that is the identity."""
    return Kept(
        layers=tuple(range(config.depth)),
        hidden=tuple(range(config.width)),
        ffn=(tuple(range(config.ffn)),) * config.depth,
        kv_head=(tuple(range(config.kv_heads)),) * config.depth,
    )


def child_config(config: ModelConfig, kept: Kept) -> ModelConfig:
    """The child's shape: head_dim, context, family and its blocks as the parent's, bos and eos renumbered.

    Raises ModelError where `kept` does not fit the parent, is not the same number in every layer or leaves nothing,
    where bos or eos is not kept, and for a shape that no model may have (a width that the heads do not divide).
    """
    _check(config, kept)
    bos_id, eos_id = (_renumbered(config, kept, name) for name in ("bos_id", "eos_id"))
    kv_heads = len(kept.kv_head[0])
    return replace(
        config,
        vocab_size=config.vocab_size if kept.vocab is None else len(kept.vocab),
        depth=len(kept.layers),
        width=len(kept.hidden),
        heads=kv_heads * (config.heads // config.kv_heads),
        kv_heads=kv_heads,
        ffn=len(kept.ffn[0]),
        bos_id=bos_id,
        eos_id=eos_id,
    )


def carve(
    tensors: Iterable[tuple[str, Tensor]], config: ModelConfig, kept: Kept
) -> Iterator[tuple[str, Tensor]]:
    """The child's tensors from the parent's, in their order.

    Works through `tensors` one at a time and holds none of them, so that a parent's files may be far larger than
    memory; it may be given a part of them. Layers are renumbered, a dropped layer's tensors left out. A tensor of
    which nothing is cut comes back itself, not a copy.
    Raises ModelError at once as `child_config` does, and on its way for a tensor that a parent of this shape does not
    have or that has another shape.
    """
    child_config(config, kept)
    wanted, places = shapes(config), _places(config, kept)

    def cut(name: str, tensor: Tensor) -> tuple[str, Tensor] | None:
        check_declared(name, tensor, wanted)
        place = places.get(name)
        return None if place is None else (place.name, take(tensor, place.axes, place.members))

    # A loop's variable would keep each tensor in memory while the next one is read.
    return filter(None, starmap(cut, tensors))


def carve_model(model: Decoder, kept: Kept) -> Decoder:
    """A child with weights of its own, on the parent's device and of its type. Errors as for `child_config`."""
    first = next(model.parameters())
    child = Decoder(child_config(model.config, kept)).to(device=first.device, dtype=first.dtype)
    own = child.state_dict()
    for name, tensor in carve(model.state_dict().items(), model.config, kept):
        own[name].copy_(tensor)
    return child.train(model.training)


def take(tensor: Tensor, axes: Sequence[Axis], kept: Mapping[str, Tensor]) -> Tensor:
    """The part of `tensor` that belongs to the kept members of each space, in the order given.

    axes: one for each dimension (those with `at` take none). kept: space → member numbers (int64, on the CPU); a space
    that is not named stays whole. Where nothing is cut the tensor itself comes back.
    """
    dimensions = [axis for axis in axes if axis.at is None]
    for dimension, axis in enumerate(dimensions):
        if axis.space in kept:
            members = kept[axis.space]
            rows = (members[:, None] * axis.inner + torch.arange(axis.inner)).flatten()
            if len(rows) != tensor.shape[dimension] or not torch.equal(rows, torch.arange(len(rows))):
                tensor = tensor.index_select(dimension, rows.to(tensor.device))
    return tensor


@dataclass(frozen=True)
class _Place:
    """Where a parent's tensor goes: its name in the child, its axes, and the members that stay of each space."""

    name: str
    axes: tuple[Axis, ...]
    members: Mapping[str, Tensor]


def _places(config: ModelConfig, kept: Kept) -> dict[str, _Place]:
    """For every tensor that is not dropped, by its name in the parent."""
    common = {"hidden": torch.tensor(kept.hidden)}
    if kept.vocab is not None:
        common["vocab"] = torch.tensor(kept.vocab)
    layers = [
        _with_children({**common, "ffn": torch.tensor(ffn), "kv_head": torch.tensor(kv_head)}, sizes(config))
        for ffn, kv_head in zip(kept.ffn, kept.kv_head, strict=True)
    ]
    places: dict[str, _Place] = {}
    for template, axes in templates(config).items():
        if "{layer}" not in template:
            places[template] = _Place(template, axes, common)
            continue
        stored = layers_of(template, config)
        for new, (old, members) in enumerate(zip(kept.layers, layers, strict=True)):
            if old not in stored:
                continue
            places[template.format(layer=old)] = _Place(template.format(layer=new), axes, members)
    return places


def _with_children(members: dict[str, Tensor], size: Mapping[str, int]) -> dict[str, Tensor]:
    """`members` with those of the spaces that follow another one."""
    for space, parent in PARENT.items():
        each = size[space] // size[parent]
        members[space] = (members[parent][:, None] * each + torch.arange(each)).flatten()
    return members


def check_declared(name: str, tensor: Tensor, wanted: Mapping[str, tuple[int, ...]]) -> None:
    """Refuse a tensor that is not among `wanted` (name → shape): ModelError."""
    if name not in wanted:
        reason = "a model of this shape has no such tensor"
        raise ModelError(reason, where=name, mend="give the config.json that belongs to the weights")
    if tuple(tensor.shape) != wanted[name]:
        reason = f"its shape is {tuple(tensor.shape)}, not {wanted[name]}"
        raise ModelError(reason, where=name, mend="give the config.json that belongs to the weights")


def _check(config: ModelConfig, kept: Kept) -> None:
    """Refuse what no child can be made of: ModelError names the space and the layer."""
    _check_members(kept.layers, config.depth, "layers")
    _check_members(kept.hidden, config.width, "hidden")
    if config.capacity and len(kept.layers) < config.depth:
        reason = "a mixture of depths without some of its layers would route others"
        raise ModelError(reason, where="layers", mend="keep all of them")
    if kept.vocab is not None:
        _check_members(kept.vocab, config.vocab_size, "vocab")
    for space, layers, size in (("ffn", kept.ffn, config.ffn), ("kv_head", kept.kv_head, config.kv_heads)):
        if len(layers) != len(kept.layers):
            reason = f"{len(layers)} layers are given, but {len(kept.layers)} layers are kept"
            raise ModelError(reason, where=space, mend="give one choice for each kept layer")
        for layer, members in zip(kept.layers, layers, strict=True):
            _check_members(members, size, f"{space} of layer {layer}")
            if len(members) != len(layers[0]):
                raise ModelError(
                    f"it keeps {len(members)}, but layer {kept.layers[0]} keeps {len(layers[0])}",
                    where=f"{space} of layer {layer}",
                    mend="keep the same number in every layer",
                )
    if config.share is not None:
        _check_shared(config, config.share, kept)


def _check_shared(config: ModelConfig, share: Sharing, kept: Kept) -> None:
    """What layers share is cut once: all that use it keep the same of it, and none of them goes."""
    if len(kept.layers) < config.depth:
        reason = "layers that share weights cannot be left out"
        raise ModelError(reason, where="layers", mend=f"keep all {config.depth}")
    for space, part, layers in (("ffn", "mlp.down_proj", kept.ffn), ("kv_head", "self_attn.o_proj", kept.kv_head)):
        for layer, owner in enumerate(share.owners(part, config.depth)):
            if layers[layer] != layers[owner]:
                reason = f"it keeps others than layer {owner}, with which it shares what is cut"
                mend = "keep the same in both"
                raise ModelError(reason, where=f"{space} of layer {layer}", mend=mend)


def _check_members(members: Sequence[int], size: int, where: str) -> None:
    if not members:
        raise ModelError("nothing is kept", where=where, mend=f"keep at least one of {size}")
    for number in members:
        if not 0 <= number < size:
            raise ModelError(f"{number} is out of range", where=where, mend=f"use numbers from 0 to {size - 1}")
    for before, after in pairwise(members):
        if before >= after:
            wrong = f"{after} is kept twice" if members.count(after) > 1 else f"{after} stands behind {before}"
            raise ModelError(wrong, where=where, mend="name each number once, in increasing order")


def _renumbered(config: ModelConfig, kept: Kept, name: str) -> int:
    """The child's number of the parent's bos or eos."""
    number: int = getattr(config, name)
    if kept.vocab is None:
        return number
    if number not in kept.vocab:
        raise ModelError(f"{name}, the piece {number}, is not kept", where="vocab", mend=f"keep {number}")
    return kept.vocab.index(number)

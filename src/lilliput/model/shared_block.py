"""Layers that use each other's weights (sharing.py).

A layer holds what it stores; to the rest it has references that are no submodules, so that every tensor is there once:
in `state_dict`, for the optimizer, on disk. To others a `Use` looks like the map it stands for: its `matrix` is the
whole, W + B·A, so attention, feed-forward and the writer of text need not know of it. For the sum a pass takes
r·inputs·outputs multiplications, where B·(A·x) would take r·(inputs + outputs) for every token: at the widths of tiny
models the sum is the cheaper from some hundred tokens on, and a pass has thousands.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from torch import Tensor, nn

from lilliput.model.config import ModelConfig
from lilliput.model.layers import Block, Linear, RMSNorm
from lilliput.model.sharing import MATRICES, NORMS, Sharing


class Use(Linear):
    """x·(W + B·A)ᵀ + bias, W and the bias stored here or by the layer `first`; rank 0: without B·A."""

    def __init__(self, plain: Linear, first: Linear | None, rank: int) -> None:
        nn.Module.__init__(self)
        self.in_features, self.out_features = plain.in_features, plain.out_features
        if first is None:
            self._parameters |= plain._parameters
        # In a tuple, since a module set as an attribute would become a part of this one.
        self._first = (self if first is None else first,)
        self.rank = rank
        if rank:
            self.lora_A = Linear(self.in_features, rank, bias=False)
            self.lora_B = Linear(rank, self.out_features, bias=False)

    @property
    def weight(self) -> Tensor:  # type: ignore[override]
        """W, where it is stored."""
        return _stored(self._first[0], "weight")

    @property
    def matrix(self) -> Tensor:
        """What x is multiplied with (outputs, inputs)."""
        return self.weight + self.lora_B.weight @ self.lora_A.weight if self.rank else self.weight

    @property
    def bias(self) -> Tensor | None:  # type: ignore[override]
        """The bias of the first layer, if there is one."""
        return self._first[0]._parameters["bias"]


class UsedNorm(RMSNorm):
    """An RMSNorm with another layer's scales."""

    def __init__(self, first: RMSNorm) -> None:
        nn.Module.__init__(self)
        self._first, self.eps = (first,), first.eps

    @property
    def weight(self) -> Tensor:  # type: ignore[override]
        """The other layer's scales."""
        return _stored(self._first[0], "weight")


def _stored(module: nn.Module, name: str) -> Tensor:
    tensor = module._parameters[name]
    if tensor is None:
        raise AttributeError(name)
    return tensor


class SharedBlock(Block):
    """A layer of which some parts are those of a layer before. lent: its own parts that later ones use, with the number
    of their uses."""

    def __init__(self, config: ModelConfig, share: Sharing, before: Sequence[Block]) -> None:
        super().__init__(config)
        index, depth = len(before), config.depth
        self.lent: dict[str, int] = {}
        for part in (*NORMS, *MATRICES):
            owner = share.owners(part, depth)[index]
            first = before[owner].get_submodule(part) if owner < index else None
            if first is None and index in share.lent(part, depth):
                self.lent[part] = share.lent(part, depth)[index]
            adapted = index in share.adapted(part, depth)
            if first is not None or adapted:
                self._replace(part, first, share.lora if adapted else 0)

    def _replace(self, part: str, first: nn.Module | None, rank: int) -> None:
        parent, _, name = part.rpartition(".")
        place = self.get_submodule(parent)
        plain = getattr(place, name)
        if isinstance(first, RMSNorm):
            setattr(place, name, UsedNorm(first))
        else:
            setattr(place, name, Use(plain, first if isinstance(first, Linear) else None, rank))


def shared_layers(config: ModelConfig, share: Sharing) -> list[Block]:
    """The layers of a network that shares, first to last."""
    layers: list[Block] = []
    for _ in range(config.depth):
        layers.append(SharedBlock(config, share, layers))
    return layers


def lenders(model: nn.Module) -> Iterator[tuple[str, SharedBlock]]:
    """The layers whose weights others use, by name."""
    for name, module in model.named_modules():
        if isinstance(module, SharedBlock) and module.lent:
            yield name, module


def uses_of(model: nn.Module) -> dict[str, int]:
    """The parameters that several layers use, by name, each with the number of its uses."""
    return {
        f"{layer}.{part}.{name}": uses
        for layer, block in lenders(model)
        for part, uses in block.lent.items()
        for name, _ in block.get_submodule(part).named_parameters(recurse=False)
    }

"""Cut members of a space out of a tensor, along the axes that declare it (spaces.py)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from lilliput.model.spaces import Axis


def take(tensor: Tensor, axes: Sequence[Axis], kept: Mapping[str, Tensor]) -> Tensor:
    """The part of `tensor` that belongs to the kept members of each space, in the order given.

    axes: one for each dimension (those with `at` take none). kept: space → member numbers (int64); a space that
    is not named stays whole. Where nothing is cut the tensor itself comes back.
    """
    dimensions = [axis for axis in axes if axis.at is None]
    for dimension, axis in enumerate(dimensions):
        if axis.space in kept:
            members = kept[axis.space]
            rows = (members[:, None] * axis.inner + torch.arange(axis.inner)).flatten()
            if len(rows) != tensor.shape[dimension] or not torch.equal(rows, torch.arange(len(rows))):
                tensor = tensor.index_select(dimension, rows)
    return tensor

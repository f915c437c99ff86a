"""Which neurons, heads and hidden channels of a model matter, by their weights, and which of them to keep.

PanGu-π Pro §3.2. A group is all that falls away with one member of a space, found by the axes that spaces.py declares
and by nothing else:

- ffn: a neuron's rows of gate and up and its column of down (their biases; the scales and shifts of a series).
- kv_head: a key-value head's rows of k and v, and the rows of q and columns of o of its query heads. It is whole, since
  a child's heads share theirs as the parent's do.
- hidden: one channel's row or column of every matrix, of embedding, head and norms: one choice for the whole network.
- layers: every tensor of a layer.

The magnitude of a group is L_p = Σ|w|^p over its weights, p = 1 or 2, the sums in float64. A tied head is one tensor
with the embedding and counts once. taylor.py has the scores that look at the loss.
"""

from __future__ import annotations

import hashlib
import math
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import starmap

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from lilliput.errors import ConfigError, ModelError
from lilliput.inherit.layers import check_layers
from lilliput.model.architectures import ARCHITECTURES
from lilliput.model.carve import Kept, check_declared
from lilliput.model.config import ModelConfig
from lilliput.model.spaces import PARENT, declared, shapes, sizes
from lilliput.progress import Progress

HOWS = ("random", "l1", "l2")
Floats = npt.NDArray[np.float64]
# Elements of a tensor that are float64 at once.
_ELEMENTS = 1 << 16


@dataclass(frozen=True, eq=False)
class Scores:
    """How much each group matters: not negative, more is more, compared within one space (and layer) only.

    hidden: float64 (width,). ffn: (layers, ffn). kv_head: (layers, kv_heads). layers: (layers,).
    """

    hidden: Floats
    ffn: Floats
    kv_head: Floats
    layers: Floats


class Tally:
    """Sums over the groups of a model of `config`, fed one tensor at a time in any order."""

    def __init__(self, config: ModelConfig) -> None:
        self._axes, self._wanted, self._size = declared(config), shapes(config), sizes(config)
        # By tensor and space the sum of each member; small. They are added up in the declared order at the end, so that
        # no rounding, and no choice, depends on the order of a file.
        self._found: dict[str, dict[str, Floats]] = {}

    def add(self, name: str, value: Callable[..., Tensor], *tensors: Tensor) -> None:
        """Count the tensor `name`: value(*tensors) element by element, where the first of `tensors`, all of one shape,
        is the weight. `value` gets parts of them, as float64.

        Raises ModelError for a tensor that the model does not have or that came before, and for sums that are not
        finite.
        """
        check_declared(name, tensors[0], self._wanted)
        if name in self._found:
            raise ModelError("this tensor is there twice", where=name, mend="give each tensor once")
        found: dict[str, Floats] = {}
        sums = _sums(value, tensors)
        if not math.isfinite(float(sums[0].sum())):
            reason = "its numbers are not finite: it holds NaN or infinity, or the loss does"
            raise ModelError(reason, where=name, mend="give weights that the model works with")
        axes = [axis for axis in self._axes[name] if axis.at is None]
        for axis, each in zip(axes, sums, strict=True):
            space = PARENT.get(axis.space, axis.space)
            # A query head's rows lie in the block of its key-value head.
            members = each.reshape(self._size[space], -1).sum(1) if space in self._size else each
            found[space] = found.get(space, 0) + members.numpy()
        found["layer"] = sums[0].sum().numpy()
        self._found[name] = found

    def scores(self) -> Scores:
        """The sums' absolute values. Raises ModelError that names the tensors that never came."""
        missing = [name for name in self._axes if name not in self._found]
        if missing:
            more = f" and {len(missing) - 5} more" if len(missing) > 5 else ""
            reason = f"tensors are missing: {', '.join(missing[:5])}{more}"
            raise ModelError(reason, mend="give the config.json that belongs to the weights")
        size = self._size
        hidden = np.zeros(size["hidden"])
        layered = {"ffn": (size["ffn"],), "kv_head": (size["kv_head"],), "layer": ()}
        by_layer = {space: np.zeros((size["layer"], *each)) for space, each in layered.items()}
        for name, axes in self._axes.items():
            found = self._found[name]
            if "hidden" in found:
                hidden += found["hidden"]
            for layer in (axis.at for axis in axes if axis.at is not None):
                for space in by_layer.keys() & found.keys():
                    by_layer[space][layer] += found[space]
        ffn, kv_head, layers = (np.abs(by_layer[space]) for space in layered)
        return Scores(np.abs(hidden), ffn, kv_head, layers)


def _sums(value: Callable[..., Tensor], tensors: Sequence[Tensor]) -> list[Tensor]:
    """For each dimension of value(*tensors) the sums over all others, float64 on the CPU."""
    shape = tensors[0].shape
    step = max(1, _ELEMENTS // math.prod(shape[1:]))
    totals = [torch.zeros(size, dtype=torch.float64) for size in shape]
    for first in range(0, shape[0], step):
        part = value(*(tensor[first : first + step].detach().double() for tensor in tensors))
        for dimension, total in enumerate(totals):
            found = part.movedim(dimension, 0).reshape(part.shape[dimension], -1).sum(1).cpu()
            if dimension:
                total += found
            else:
                total[first : first + step] = found
    return totals


_VALUES: dict[str, Callable[[Tensor], Tensor]] = {"l1": torch.abs, "l2": torch.square}


def scores_of(tensors: Iterable[tuple[str, Tensor]], config: ModelConfig, how: str, seed: int = 0) -> Scores:
    """Score every group by its weights.

    tensors: all of a model, by name, of any type and in any order; one is held at a time. how: "l1" Σ|w|, "l2" Σ w²,
    or "random": a permutation's ranks, which follow from `seed` and the group's place alone (nothing is read).
    Raises ConfigError for another `how`; ModelError for tensors that are missing, that a model of this shape does not
    have or that are not finite.
    """
    if how == "random":
        return _random(config, seed)
    if how not in _VALUES:
        raise ConfigError(f"no such score: {how!r}", where="neurons", mend=f"one of {', '.join(HOWS)}")
    tally = Tally(config)
    done = 0
    with Progress(f"scoring weights by {how}", len(shapes(config)), "tensors") as bar:

        def add(name: str, tensor: Tensor) -> None:
            nonlocal done
            tally.add(name, _VALUES[how], tensor)
            bar.update(done := done + 1)

        # A loop's variable would keep each tensor in memory while the next one is read.
        deque(starmap(add, tensors), maxlen=0)
    return tally.scores()


def _random(config: ModelConfig, seed: int) -> Scores:
    depth = range(config.depth)
    return Scores(
        hidden=_permutation(f"{seed}/hidden", config.width),
        ffn=np.stack([_permutation(f"{seed}/{layer}/ffn", config.ffn) for layer in depth]),
        kv_head=np.stack([_permutation(f"{seed}/{layer}/kv_head", config.kv_heads) for layer in depth]),
        layers=_permutation(f"{seed}/layers", config.depth),
    )


def _permutation(name: str, size: int) -> Floats:
    """0 … size − 1 in an order that follows from `name`: the ranks of raw words of NumPy's Philox counter generator."""
    key = hashlib.sha256(name.encode()).digest()[:16]
    words = np.random.Philox(key=int.from_bytes(key, "little")).random_raw(size)
    return words.argsort(kind="stable").argsort(kind="stable").astype(np.float64)


def choose(
    scores: Scores, config: ModelConfig, kept_layers: Sequence[int], *, hidden: int, ffn: int, kv_heads: int
) -> Kept:
    """What a child keeps: the groups with the highest scores, of equal ones the first.

    config: the parent's. kept_layers: its layers that stay, rising. hidden: channels, one choice for the network. ffn,
    kv_heads: neurons and key-value heads of each kept layer, chosen layer by layer; each kv_head keeps its query heads.
    Raises ConfigError where there are not so many, none is asked for, or the heads do not divide the width and
    transformers refuses such a model.
    """
    _check(config, kept_layers, hidden, ffn, kv_heads)
    return Kept(
        layers=tuple(kept_layers),
        hidden=_top(scores.hidden, hidden),
        ffn=tuple(_top(scores.ffn[layer], ffn) for layer in kept_layers),
        kv_head=tuple(_top(scores.kv_head[layer], kv_heads) for layer in kept_layers),
    )


def _top(scores: Floats, count: int) -> tuple[int, ...]:
    ranked = np.argsort(-scores, kind="stable")
    return tuple(sorted(ranked[:count].tolist()))


def _check(config: ModelConfig, kept_layers: Sequence[int], hidden: int, ffn: int, kv_heads: int) -> None:
    check_layers(kept_layers, config.depth)
    asked = {"hidden": (hidden, config.width), "ffn": (ffn, config.ffn), "kv_heads": (kv_heads, config.kv_heads)}
    for name, (count, size) in asked.items():
        if not 1 <= count <= size:
            raise ConfigError(f"{count} cannot be kept of {size}", where=name, mend=f"give 1 to {size}")
    group = config.heads // config.kv_heads
    if ARCHITECTURES[config.model_type].whole_heads and hidden % (kv_heads * group):
        reason = f"{kv_heads * group} heads do not divide a width of {hidden}; transformers refuses that"
        raise ConfigError(reason, where="hidden", mend=_nearest(config, hidden, kv_heads))


def _nearest(config: ModelConfig, hidden: int, kv_heads: int) -> str:
    """The nearest width that these heads divide, and the nearest number of heads that divides this width."""
    group = config.heads // config.kv_heads
    heads = kv_heads * group
    width = min(range(heads, config.width + 1, heads), key=lambda one: abs(one - hidden))
    fitting = [one for one in range(1, config.kv_heads + 1) if hidden % (one * group) == 0]
    if not fitting:
        return f"hidden={width}"
    other = min(fitting, key=lambda one: abs(one - kv_heads))
    query = f" (heads={other * group})" if group > 1 else ""
    return f"hidden={width}, or kv_heads={other}{query}"

"""Which layers of a model matter (PanGu-π Pro §3.2, Fig. 5), and which to keep.

Three measures: bits per byte, and the figures of tasks, with one, two or three neighbouring layers replaced by the
identity; the block influence 1 − E cos(x_l, x_{l+1}) of each layer (2403.03853); the angular distance
arccos(cos(x_l, x_{l+n}))/π over n layers (2403.17887), both over all positions of the text. x_l is what layer l reads
from the residual stream.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from lilliput.errors import ConfigError
from lilliput.evaluate.bits import bits_per_byte, windows
from lilliput.progress import Progress

if TYPE_CHECKING:
    from lilliput.model.decoder import Decoder
    from lilliput.tokenizer.load import Tokenizer

SPANS = (1, 2, 3)
BITS = "bits_per_byte"
HOWS = ("importance", "importance=TASK", "ends", "uniform", "first")
# Positions whose states of all layers are held at once.
_POSITIONS = 1024
# The paper keeps the first two or three layers and the last (§3.2).
_FIRST = 2


@dataclass(frozen=True)
class LayerScores:
    """How much each layer matters.

    base: what each measure gives for the whole model. skips: by measure and number of layers k, its value with layers
    i … i + k − 1 left out, for every i. influence: (layers,). angular: by n, of layers i … i + n − 1 for every i.
    """

    base: dict[str, float]
    skips: dict[str, dict[int, tuple[float, ...]]]
    influence: tuple[float, ...]
    angular: dict[int, tuple[float, ...]]

    def importance(self, measure: str = BITS) -> tuple[float, ...]:
        """What leaving each single layer out costs: bits per byte more, or of a task its figure less."""
        sign = 1 if measure == BITS else -1
        return tuple(sign * (value - self.base[measure]) for value in self.skips[measure][1])

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "base": self.base,
            "skips": {name: {str(k): list(row) for k, row in rows.items()} for name, rows in self.skips.items()},
            "influence": list(self.influence),
            "angular": {str(n): list(row) for n, row in self.angular.items()},
        }


@contextmanager
def without(model: Decoder, first: int, count: int) -> Iterator[Decoder]:
    """The model with `count` layers from `first` on replaced by the identity, for as long as the block lasts."""
    layers = model.model.layers
    kept = [layer for index, layer in enumerate(layers) if not first <= index < first + count]
    model.model.layers = nn.ModuleList(kept)
    try:
        yield model
    finally:
        model.model.layers = layers


def score_layers(
    model: Decoder,
    tokenizer: Tokenizer,
    documents: Sequence[str],
    *,
    spans: Sequence[int] = SPANS,
    also: Mapping[str, Callable[[Decoder], float]] | None = None,
) -> LayerScores:
    """Measure every layer on `documents`.

    spans: numbers of neighbouring layers left out together. also: further measures of a model by name (tasks: more is
    better), taken with every skip beside bits per byte.
    """
    measures: dict[str, Callable[[Decoder], float]] = {
        BITS: lambda one: bits_per_byte(one, tokenizer, documents, title=None).value,
        **(also or {}),
    }
    depth = len(model.model.layers)
    usable = [span for span in spans if span < depth]
    base = {name: measure(model) for name, measure in measures.items()}
    rows: dict[str, dict[int, list[float]]] = {name: {span: [] for span in usable} for name in measures}
    skipped = [(span, first) for span in usable for first in range(depth - span + 1)]
    with Progress("leaving layers out", len(skipped), "skips") as bar:
        for done, (span, first) in enumerate(skipped, 1):
            with without(model, first, span):
                for name, measure in measures.items():
                    rows[name][span].append(measure(model))
            bar.update(done)
    influence, angular = state_distances(model, tokenizer, documents, usable or [1])
    skips = {name: {span: tuple(found) for span, found in by_span.items()} for name, by_span in rows.items()}
    return LayerScores(base, skips, influence, angular)


def state_distances(
    model: Decoder, tokenizer: Tokenizer, documents: Sequence[str], spans: Sequence[int]
) -> tuple[tuple[float, ...], dict[int, tuple[float, ...]]]:
    """(block influence of every layer, angular distance over each number of layers), means over all positions."""
    depth = len(model.model.layers)
    influence, positions = np.zeros(depth), 0
    angular = {span: np.zeros(depth - span + 1) for span in spans}
    with torch.inference_mode():
        for states_LTD in _states(model, tokenizer, documents):
            positions += states_LTD.shape[1]
            influence += (1 - _cosine(states_LTD, 1)).sum(1).numpy()
            for span in spans:
                angular[span] += (_cosine(states_LTD, span).arccos() / math.pi).sum(1).numpy()
    means = {span: tuple((total / positions).tolist()) for span, total in angular.items()}
    return tuple((influence / positions).tolist()), means


def _cosine(states_LTD: Tensor, span: int) -> Tensor:
    """cos(x_l, x_{l+span}) of every l and position, float64 on the CPU."""
    before, after = states_LTD[:-span].double(), states_LTD[span:].double()
    return nn.functional.cosine_similarity(before, after, dim=-1).clamp(-1, 1).cpu()


def _states(model: Decoder, tokenizer: Tokenizer, documents: Sequence[str]) -> Iterator[Tensor]:
    """What every layer reads, and last what the last one leaves, (layers + 1, positions, width), of window after
    window of the text."""
    body, context = model.model, min(model.config.context, _POSITIONS)
    device = model.head_weight().device
    for text in documents:
        ids = np.array([tokenizer.bos_id, *tokenizer.encode(text)], np.int64)
        for window in windows(ids, context):
            length = len(window.ids) - 1
            x_BTD = body.embed_tokens(torch.from_numpy(window.ids[None, :-1]).to(device))
            states = [x_BTD[0]]
            for layer in body.layers:
                x_BTD = layer(x_BTD, body.cos[:length], body.sin[:length])
                states.append(x_BTD[0])
            # Each position once: what an earlier window has seen is context here.
            yield torch.stack(states)[:, length - window.scored :]


def measured_by(how: str) -> str | None:
    """What layers are measured by where they are chosen by importance: bits per byte, or a task; None where not."""
    name, equals, task = how.partition("=")
    if name != "importance" or bool(equals) != bool(task):
        return None
    return task or BITS


def choose_layers(how: str, depth: int, count: int, importance: Sequence[float] | None = None) -> tuple[int, ...]:
    """The layers to keep, `count` of `depth`, in order.

    how: "importance", or "importance=TASK", keeps those that cost most when left out (`importance`, one for each
    layer); "ends" the first two and the last, the rest thinned evenly, as PanGu-π Pro does by hand; "uniform" evenly
    from the first to the last; "first" the first; "keep=0,1,5" those named. Raises ConfigError for what cannot be.
    """
    if how.startswith("keep="):
        return _named(how.removeprefix("keep="), depth, count)
    if not 1 <= count <= depth:
        raise ConfigError(f"{count} layers cannot be kept of {depth}", where="layers", mend=f"give 1 to {depth}")
    if how == "first":
        return tuple(range(count))
    if how == "uniform":
        return _even(0, depth - 1, count)
    if how == "ends":
        if count <= _FIRST + 1:
            return tuple(sorted({*range(count - 1), depth - 1}))
        return (*range(_FIRST), *_even(_FIRST, depth - 1, count - _FIRST))
    if measured_by(how) is not None and importance is not None:
        ranked = sorted(range(depth), key=lambda layer: (-importance[layer], layer))
        return tuple(sorted(ranked[:count]))
    mend = f"{', '.join(HOWS)}, keep=0,1,5, or learned with learned neurons"
    raise ConfigError(f"no way to choose layers: {how!r}", where="layers", mend=mend)


def check_layers(layers: Sequence[int], depth: int) -> None:
    """Raise ConfigError unless these are layers of `depth`, at least one, rising."""
    rising = sorted(set(layers))
    if list(layers) != rising or not rising or not 0 <= rising[0] <= rising[-1] < depth:
        named = ",".join(map(str, layers)) or "none"
        mend = f"rising numbers from 0 to {depth - 1}"
        raise ConfigError(f"these layers cannot be kept of {depth}: {named}", where="layers", mend=mend)


def _even(low: int, high: int, count: int) -> tuple[int, ...]:
    """`count` numbers from `low` to `high`, both among them where there are two or more."""
    if count == 1:
        return (low,)
    return tuple(low + round(step * (high - low) / (count - 1)) for step in range(count))


def _named(text: str, depth: int, count: int) -> tuple[int, ...]:
    try:
        layers = tuple(int(part) for part in text.split(","))
    except ValueError:
        raise ConfigError(f"not a list of layers: {text!r}", where="layers", mend="keep=0,1,5") from None
    check_layers(layers, depth)
    if len(layers) != count:
        mend = f"name {count}, or ask for layers={len(layers)}"
        raise ConfigError(f"{len(layers)} layers are named where {count} are kept", where="layers", mend=mend)
    return layers

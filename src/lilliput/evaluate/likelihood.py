"""How likely a model finds given continuations of given texts: what every task is made of.

The protocol (docs/evaluate.md): BOS + tokens(before + continuation), encoded jointly, of which those from
len(tokens(before)) on are scored, at least one; cut on the left to the trained context. Nothing before it: BOS + text.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from lilliput.evaluate.batch import score_sequences
from lilliput.model.tree import TreeReader
from lilliput.progress import Progress

if TYPE_CHECKING:
    from lilliput.evaluate.prefixes import Ids
    from lilliput.model.decoder import Decoder
    from lilliput.tokenizer.load import Tokenizer

# Characters encoded and sorted at once: bounds the memory whatever the task's size.
_HELD = 4_000_000

Request = tuple[str, str]
"""(what stands before, the continuation as it follows, with its space)."""


@dataclass(frozen=True)
class Likelihoods:
    """log_p: Σ log-probability in nats of each continuation. greedy: whether each of its tokens is the likeliest.
    tokens: scored in all. cut: how many requests were too long for the context."""

    log_p: npt.NDArray[np.float64]
    greedy: npt.NDArray[np.bool_]
    tokens: int
    cut: int


def likelihoods(
    model: Decoder,
    tokenizer: Tokenizer,
    requests: Sequence[Request],
    *,
    batch: int | None = None,
    title: str | None = "evaluating",
) -> Likelihoods:
    """Score each request by the protocol above, on the model's device.

    Requests that begin alike cost less where they stand near each other. batch: tokens at once; changes speed and
    memory, never the result beyond rounding. title: of the progress shown; None shows none.
    """
    reader = TreeReader(model)
    log_p, greedy = [np.zeros(0)], [np.zeros(0, bool)]
    tokens = cut = done = 0
    with Progress(title or "", len(requests), "texts") as bar:
        for held in _held(requests):
            sequences, scored, over = _encode(tokenizer, held, model.config.context)

            def show(share: float, first: int = done, count: int = len(held)) -> None:
                if title:
                    bar.update(first + int(count * share))

            show(0.0)
            values, best = score_sequences(reader, sequences, scored, batch=batch, show=show)
            log_p.append(values)
            greedy.append(best)
            tokens, cut, done = tokens + sum(scored), cut + over, done + len(held)
    return Likelihoods(np.concatenate(log_p), np.concatenate(greedy), tokens, cut)


def _held(requests: Sequence[Request]) -> Iterator[Sequence[Request]]:
    """The requests in groups of bounded size."""
    begin = size = 0
    for at, (before, text) in enumerate(requests):
        size += len(before) + len(text)
        if size >= _HELD:
            yield requests[begin : at + 1]
            begin, size = at + 1, 0
    if begin < len(requests):
        yield requests[begin:]


def _encode(
    tokenizer: Tokenizer, requests: Sequence[Request], context: int
) -> tuple[list[Ids], list[int], int]:
    """(ids of each request, how many of its last are scored, how many requests were cut)."""
    before = list(dict.fromkeys(text for text, _ in requests if text))
    # One call, so that the tokenizer can share it among the cores.
    encoded = tokenizer.encode_arrays([*before, *(text + continuation for text, continuation in requests)])
    lengths = {text: len(ids) for text, ids in zip(before, encoded, strict=False)}
    sequences, scored = [], []
    cut = 0
    for (text, _), ids in zip(requests, encoded[len(before) :], strict=True):
        # Where the two texts' tokens merge, or fall away, the last token is scored still.
        own = max(len(ids) - lengths.get(text, 0), min(1, len(ids)))
        cut += len(ids) > context
        sequences.append(np.append(tokenizer.bos_id, ids)[-(context + 1) :])
        scored.append(min(own, context))
    return sequences, scored, cut

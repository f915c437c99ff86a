"""Which neurons, heads and hidden channels matter to the loss: Taylor scores over calibration text.

PanGu-π Pro §3.2 takes them from LLM-Pruner (2305.11627 §3.2). With w a weight, g = ∂L/∂w and sums over a group
(neurons.py says which weights are one):

    vector |Σ w·g|    first Σ|w·g|    second Σ w²·h    mix Σ|w·g − ½·w²·h|

L is the mean over the sequences of each one's mean loss per predicted token, in nats. LLM-Pruner's second term is
½·w²·H with the Hessian's diagonal H taken as Fisher information, from the squared gradients of single sequences; its
paper sums them, its code divides by their number. h is that mean, E_j (∂L_j/∂w)², so that first and second term belong
to the same L and `mix` does not change its meaning with the amount of text. The squares are therefore taken sequence by
sequence: g² of the whole text would be another thing, nearly zero where training has settled. `vector` is the absolute
value over the whole group (LLM-Pruner takes it matrix by matrix and adds these up).

Where one part of a group is scaled up and another one down so that the function stays as it was (up and down, v and o,
q and k), each w·g and w²·h stays as it was; L1 and L2 change.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from lilliput.errors import ConfigError
from lilliput.inherit.neurons import Scores, Tally
from lilliput.progress import Progress, count, say
from lilliput.train.memory import step_bytes
from lilliput.train.order import permute

if TYPE_CHECKING:
    from lilliput.corpus.documents import Documents
    from lilliput.model.config import ModelConfig
    from lilliput.model.decoder import Decoder
    from lilliput.tokenizer.load import Tokenizer

LEAST_SEQUENCES = 10
# What torch brings along at a process's first forward pass where nothing of `train` was imported before, beyond what a
# step of training is reckoned with; with it the need of four shapes was met within −2 and +10 %.
_LIBRARIES = 72 << 20


@dataclass(frozen=True)
class _Kind:
    """value: of a weight and of what follows it, those of (g, h) that are needed."""

    value: Callable[..., Tensor]
    gradients: bool
    squares: bool


_KINDS = {
    "vector": _Kind(lambda w, g: w * g, gradients=True, squares=False),
    "first": _Kind(lambda w, g: (w * g).abs(), gradients=True, squares=False),
    "second": _Kind(lambda w, h: w * w * h, gradients=False, squares=True),
    "mix": _Kind(lambda w, g, h: (w * g - 0.5 * w * w * h).abs(), gradients=True, squares=True),
}
HOWS = tuple(_KINDS)


def taylor_bytes(config: ModelConfig, how: str = "mix", length: int | None = None) -> int:
    """Memory in bytes that `taylor` needs on a CPU, the weights among it (fp32), for sequences of `length` tokens, by
    default the context: weights, g and h, or one of them, and the activations of one sequence.

    The last are as in a step of training, whose two moments of AdamW take the place of g and h. All this is over what
    the process had before the model was there.
    """
    kind = _kind(how)
    step = step_bytes(replace(config, context=length or config.context), 1)
    return _LIBRARIES + step - (2 - kind.gradients - kind.squares) * 4 * config.parameters()


def calibration(
    tokenizer: Tokenizer, documents: Sequence[str] | Documents, length: int, sequences: int = 128, seed: int = 0
) -> list[Tensor]:
    """Text to take gradients over: at most `sequences` windows, int64 (1, length + 1).

    Documents in a random order that follows from `seed` are packed as in training, each with BOS and EOS; each window
    predicts `length` tokens, from its second on. What is left over at the end is not used.
    Raises ConfigError where that gives fewer than LEAST_SEQUENCES.
    """
    windows: list[Tensor] = []
    held: list[int] = []
    order = permute(np.arange(len(documents)), len(documents), seed) if documents else ()
    for index in order:
        if len(windows) >= sequences:
            break
        held += [tokenizer.bos_id, *tokenizer.encode(documents[int(index)]), tokenizer.eos_id]
        while len(held) > length and len(windows) < sequences:
            windows.append(torch.tensor([held[: length + 1]]))
            del held[:length]
    check_enough(len(windows), f" of {length} tokens")
    return windows


def taylor(model: Decoder, batches: Iterable[Tensor], how: str) -> Scores:
    """Score every group by what it does to the loss.

    model: fp32; its weights, gradients and `requires_grad` come back as they were. batches: window_BT1, int64
    (sequences, tokens + 1), −100 where a row is padded; each row is one sequence, computed alone and in order, so that
    the scores do not depend on how rows are put together. how: one of HOWS. Memory: `taylor_bytes`.
    Raises ConfigError for another `how` and for fewer than LEAST_SEQUENCES sequences; ModelError for one that is longer
    than the context and for losses that are not finite.
    """
    kind = _kind(how)
    rows = [row[row >= 0] for batch in batches for row in batch]
    rows = [row for row in rows if len(row) > 1]
    check_enough(len(rows))
    longest = max(len(row) for row in rows) - 1
    say(f"Taylor scores ({how}): about {count(taylor_bytes(model.config, how, longest))}B of memory")
    gradients, squares = _sums_of_gradients(model, rows, kind)
    kept = [sums for sums in (gradients, squares) if sums]
    tally = Tally(model.config)
    for name, weight in model.named_parameters():
        tally.add(name, kind.value, weight, *(sums[name].div_(len(rows)) for sums in kept))
    return tally.scores()


def _kind(how: str) -> _Kind:
    if how not in _KINDS:
        raise ConfigError(f"no such Taylor score: {how!r}", where="neurons", mend=f"one of {', '.join(HOWS)}")
    return _KINDS[how]


def check_enough(found: int, what: str = "") -> None:
    """Raise ConfigError for fewer than LEAST_SEQUENCES sequences. what: of what kind, for the message."""
    if found < LEAST_SEQUENCES:
        raise ConfigError(
            f"the calibration text gives {found} sequences{what}; at least {LEAST_SEQUENCES} are needed",
            where="corpus",
            mend="give more text, or use --neurons l2, which needs none",
        )


def _sums_of_gradients(
    model: Decoder, rows: Sequence[Tensor], kind: _Kind
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """(Σ g_j, Σ g_j²) over the sequences, by parameter; empty where not asked for."""
    gradients, squares = (
        {name: torch.zeros_like(weight, dtype=torch.float32) for name, weight in model.named_parameters()}
        if asked
        else {}
        for asked in (kind.gradients, kind.squares)
    )

    def take(name: str, gradient: Tensor) -> None:
        if gradients:
            gradients[name] += gradient
        if squares:
            squares[name].addcmul_(gradient.float(), gradient.float())

    device = model.head_weight().device
    with _gradients_to(model, take), Progress("gradients", len(rows), "sequences") as bar:
        for done, row in enumerate(rows, 1):
            ids_BT = row[None].to(device)
            loss = model(ids_BT[:, :-1], ids_BT[:, 1:].contiguous()) / (len(row) - 1)
            loss.backward()
            bar.update(done, loss=float(loss.detach()))
    return gradients, squares


@contextmanager
def _gradients_to(model: Decoder, take: Callable[[str, Tensor], None]) -> Iterator[None]:
    """Every parameter's gradient goes to `take` as soon as it is there and is freed at once: only what `take` makes of
    it stays. Afterwards the model is as it was."""
    before = [(weight, weight.grad, weight.requires_grad) for weight in model.parameters()]
    handles = []

    def hook(name: str) -> Callable[[Tensor], None]:
        def took(weight: Tensor) -> None:
            if weight.grad is not None:
                take(name, weight.grad)
                weight.grad = None

        return took

    try:
        for name, weight in model.named_parameters():
            weight.grad = None
            weight.requires_grad_(True)
            handles.append(weight.register_post_accumulate_grad_hook(hook(name)))  # type: ignore[no-untyped-call]
        with torch.enable_grad():
            yield
    finally:
        for handle in handles:
            handle.remove()
        for weight, gradient, asked in before:
            weight.grad = gradient
            weight.requires_grad_(asked)

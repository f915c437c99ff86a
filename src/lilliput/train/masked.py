"""The masked objective and the windows it learns from (BERT, 1810.04805 §3.1).

A window is one piece of one document between [CLS] and [SEP], at most `context` positions, padded: documents are not
packed, since an encoder is used on single texts and sees both ends of what it reads.
"""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lilliput.corpus.shards import Shards
from lilliput.errors import ConfigError
from lilliput.model.encoder import PAD
from lilliput.tokenizer.special import Specials
from lilliput.train.objectives import Objective

# Of the chosen tokens: shown as the mask, as a random piece; the rest as they are (1810.04805 §3.1).
AS_MASK, AS_RANDOM = 0.8, 0.1


class Pieces:
    """The windows of a packed corpus. A document of n tokens gives ⌈n / (context − 2)⌉ windows of nearly equal length,
    or only its first one. Memory: 8 bytes a document."""

    def __init__(self, shards: Shards, context: int, special: Specials, *, first: bool = False) -> None:
        self._tokens, self._documents = shards.tokens, shards.documents
        self._context, self._special, self._first = context, special, first
        room = context - 2
        lengths = np.diff(np.asarray(self._documents)).astype(np.int64) - 2  # begin and end are packed with each
        self._each = np.ones_like(lengths) if first else np.maximum(1, -(-lengths // room))
        self._ends = np.cumsum(self._each)
        taken = np.minimum(lengths, room) if first else lengths
        self.tokens = int(taken.sum()) + 2 * int(self._ends[-1])
        """Positions of all windows that hold a token, [CLS] and [SEP] among them."""
        self.share = float(taken.sum() / max(1, lengths.sum()))
        """How much of the corpus's tokens the windows hold."""

    def windows(self, context: int) -> int:
        """How many windows there are. `context` must be the one they were cut for."""
        if context != self._context:
            raise ConfigError(f"windows of {self._context} positions, not {context}", where="model.context")
        return int(self._ends[-1])

    def batch(self, indices: np.ndarray, context: int) -> np.ndarray:
        """Windows by number: int64 (n, context + 1), PAD behind the text; the last column is free and zero."""
        rows = np.full((len(indices), context + 1), PAD, dtype=np.int64)
        rows[:, -1] = 0
        for row, at in zip(rows, indices.tolist(), strict=True):
            ids = self._piece(at)
            row[0], row[1 : 1 + len(ids)], row[1 + len(ids)] = self._special.cls, ids, self._special.sep
        return rows

    def _piece(self, at: int) -> np.ndarray:
        document = int(np.searchsorted(self._ends, at, side="right"))
        begin, end = int(self._documents[document]) + 1, int(self._documents[document + 1]) - 1
        pieces = int(self._each[document])
        if self._first:
            end = min(end, begin + self._context - 2)
        number, length = at - int(self._ends[document]) + pieces, end - begin
        return np.asarray(self._tokens[begin + number * length // pieces : begin + (number + 1) * length // pieces])


def corrupt(
    ids_BS: Tensor, plain_V: Tensor, mask: int, rate: float, generator: torch.Generator | None = None
) -> tuple[Tensor, Tensor]:
    """(what is shown, what is to be predicted), each (B, S): of the tokens in `plain_V` each is chosen with
    probability `rate`; of the chosen 80 % are shown as `mask`, 10 % as a random piece of `plain_V`, 10 % as they are.

    plain_V: bool over the vocabulary, False for special tokens, which are never chosen nor shown in another's place.
    Targets are PAD where nothing is to be predicted.
    """
    device = ids_BS.device

    def draw() -> Tensor:
        return torch.rand(ids_BS.shape, device=device, generator=generator)

    chosen = (ids_BS >= 0) & plain_V[ids_BS.clamp(min=0)] & (draw() < rate)
    how = draw()
    pieces = plain_V.nonzero()[:, 0]
    random = pieces[torch.randint(len(pieces), ids_BS.shape, device=device, generator=generator)]
    shown = torch.where(chosen & (how < AS_MASK), mask, ids_BS)
    shown = torch.where(chosen & (how >= AS_MASK) & (how < AS_MASK + AS_RANDOM), random, shown)
    return shown, torch.where(chosen, ids_BS, PAD)


def plain_pieces(vocab: int, special: Specials) -> Tensor:
    """bool (vocab,): which pieces may be masked, or shown in another's place."""
    plain_V = torch.ones(vocab, dtype=torch.bool)
    plain_V[list(special.never)] = False
    return plain_V


def trimmed(ids_BS: Tensor) -> Tensor:
    """The rows up to the longest one's end: what is padding in all of them costs nothing."""
    used = int((ids_BS >= 0).any(0).sum())
    return ids_BS[:, : max(1, used)]


class Masked(Objective):
    """Predict the tokens behind masks, which are drawn anew whenever a window is read."""

    def __init__(self, special: Specials, vocab: int, rate: float = 0.15, *, trim: bool = True) -> None:
        """trim: cut padding off a batch; False keeps one shape, for a compiled model."""
        self._plain_V, self._mask, self._rate, self._trim = plain_pieces(vocab, special), special.mask, rate, trim

    def loss(self, model: nn.Module, windows_BT1: Tensor) -> Tensor:
        """The mean over the masked tokens of this micro batch, times its positions: the loop divides by those, so its
        loss is nats a masked token, and neither padding nor how many tokens are masked changes the step's size."""
        ids_BS = windows_BT1[:, :-1]
        rows = (ids_BS >= 0).any(1).sum()
        positions = rows * ids_BS.shape[1]
        shown_BS, targets_BS = corrupt(
            trimmed(ids_BS) if self._trim else ids_BS, self._plain_V.to(ids_BS.device), self._mask, self._rate
        )
        nats: Tensor = model(shown_BS, targets_BS)
        return nats * positions / (targets_BS >= 0).sum().clamp(min=1)

    def identity(self) -> dict[str, Any]:
        """Rate, and which tokens are left alone."""
        plain = hashlib.sha256(self._plain_V.numpy().tobytes()).hexdigest()[:16]
        return {"masked": self._rate, "mask": self._mask, "plain": plain}

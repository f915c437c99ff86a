"""Self-speculative decoding: the first layers draft, all verify, and the text is the greedy one (2404.16710 §4.3).

A draft comes from the states after the first layers, through the model's own last norm and head. These states, and the
keys and values that the first layers made on the way, are kept: to verify, the other layers alone run, over all drafted
positions at once. The drafts that equal the model's own choices are taken, and after them its next choice; what was
cached behind is written over. Sums of several positions at once may differ from those of one in the last bits, so the
text can differ from the greedy one only where two tokens are even to rounding.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lilliput.errors import ConfigError, ModelError
from lilliput.model.config import ModelConfig
from lilliput.model.decoder import Decoder
from lilliput.model.generate import Generator, _check
from lilliput.model.masked_attention import attend_masked


@dataclass
class Speculation:
    """layer: how many of the first layers draft. length: tokens in a draft, at most. drafted, accepted: so far."""

    layer: int
    length: int
    drafted: int = 0
    accepted: int = 0

    def check(self, config: ModelConfig) -> None:
        """Raises ConfigError where a model of this shape cannot draft so."""
        if config.family == "byte-pool":
            raise ConfigError("a byte-pooled model drafts no units", where="--speculate", mend="leave it out")
        if config.capacity:
            raise ConfigError(
                "a mixture of depths has no first layers that could draft",
                where="--speculate",
                mend="leave it out: such a model skips layers by itself",
            )
        if not 0 < self.layer < config.depth:
            raise ConfigError(
                f"layer {self.layer} cannot draft: the model has {config.depth} layers",
                where="--speculate",
                mend=f"give a layer from 1 to {config.depth - 1}" if config.depth > 1 else "leave it out",
            )
        if not 0 < self.length < config.context:
            raise ConfigError(
                f"a draft of {self.length} tokens is none for a context of {config.context}",
                where="--speculate",
                mend=f"give a length from 1 to {config.context - 1}",
            )

    def acceptance(self) -> float:
        """The share of drafted tokens that were taken."""
        return self.accepted / max(1, self.drafted)


def speculate(
    model: Decoder, ids_BT: Tensor, max_new: int, how: Speculation, stop_ids: Sequence[int] = ()
) -> Iterator[Tensor]:
    """Continue one prompt greedily, yielding what `generate` at temperature 0 does, and counting in `how`.

    ids_BT: (1, T). Raises ConfigError and ModelError as `generate`, and for a layer that does not exist.
    """
    how.check(model.config)
    _check(model, ids_BT, max_new, 0.0, None, None)
    if ids_BT.shape[0] > 1:
        raise ModelError(f"{ids_BT.shape[0]} prompts at once; speculation writes one text")
    return _write(_Drafter(model, how), ids_BT, max_new, set(stop_ids))


def _write(writer: _Drafter, ids_BT: Tensor, max_new: int, stops: set[int]) -> Iterator[Tensor]:
    context, device = writer.config.context, ids_BT.device
    text: list[int] = ids_BT[0].tolist()[-context:]
    left, unread = max_new, text
    while left > 0:
        if writer.position == context:  # as `generate` does: the last half is read again
            writer.rewind()
            unread = text = text[-max(1, context // 2) :]
        if writer.position == 0:
            new = [int(writer.feed(torch.tensor([unread], device=device)).argmax())]
        else:
            new = writer.step(text[-1], min(writer.how.length, left - 1, context - writer.position - 1))
        for token in new:
            text.append(token)
            yield torch.tensor([token], device=device)
            if token in stops:
                return
        left -= len(new)


class _Drafter(Generator):
    """A decoder that writes one text, several tokens a step."""

    def __init__(self, model: Decoder, how: Speculation) -> None:
        super().__init__(model, 1)
        self.how = how

    @torch.inference_mode()
    def step(self, token: int, length: int) -> list[int]:
        """The next tokens after `token`, the last of the text, which is not yet fed: at least one, at most length + 1.

        The cache then holds all but the last of them.
        """
        start, states, drafts = self.position, [], [token]
        for place in range(length + 1):
            x_1D = self._first(drafts[-1], start + place)
            states.append(x_1D)
            if place < length:
                drafts.append(int(self.linear(self._norm(x_1D), self.head, None).argmax()))
        chosen = self._rest(torch.cat(states), start)
        taken = 0
        while taken < length and drafts[taken + 1] == chosen[taken]:
            taken += 1
        self.how.drafted += length
        self.how.accepted += taken
        self.position = start + taken + 1
        return chosen[: taken + 1]

    def _first(self, token: int, at: int) -> Tensor:
        """The state after the first layers of one token at position `at`; they cache it."""
        self.position = at
        x_1D = self.embedding[token : token + 1]
        turn_TE = self.turn_TE[at : at + 1, None]
        for index, layer in enumerate(self.layers[: self.how.layer]):
            x_1D = self._attend(x_1D, layer, self.cache[index], turn_TE)
            x_1D = self._transform(x_1D, layer)
        return x_1D

    def _rest(self, x_ND: Tensor, start: int) -> list[int]:
        """What the whole model chooses after each of the positions from `start` on, whose states these are."""
        at_S = torch.arange(start + x_ND.shape[0], device=x_ND.device)
        seen_1TS = (at_S <= at_S[start:, None])[None]
        for index, layer in enumerate(self.layers[self.how.layer :], self.how.layer):
            x_ND = attend_masked(self, x_ND, layer, self.cache[index], start, seen_1TS)
            x_ND = self._transform(x_ND, layer)
        chosen: list[int] = self.linear(self._norm(x_ND), self.head, None).argmax(-1).tolist()
        return chosen

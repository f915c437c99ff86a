"""What a task needs of a model: how likely it finds texts, and what it writes. The only place where a kind of model
shows; the tasks above know requests and answers alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from lilliput.evaluate.likelihood import Likelihoods, Request, likelihoods
from lilliput.evaluate.unit_likelihood import unit_likelihoods, units_written
from lilliput.evaluate.writing import Prompt, Written, written
from lilliput.model.byte_pool import BytePool

if TYPE_CHECKING:
    from lilliput.model.decoder import Decoder
    from lilliput.tokenizer.load import Tokenizer


class Reader(Protocol):
    """A model that tasks can be asked of.

    `likelihoods` is all that pairs, choices and last words need: another kind of model (one that reads both ways, by
    pseudo-log-likelihood) takes its place by answering this one question.
    """

    def likelihoods(self, requests: Sequence[Request], title: str | None) -> Likelihoods:
        """How likely each continuation is; `title` of the progress shown, None for none."""

    def write(self, prompts: Sequence[Prompt], max_new: int, title: str | None) -> Written:
        """What the model writes after each prompt, greedily, up to the end of a line."""


@dataclass(frozen=True)
class CausalReader:
    """A decoder. batch: tokens read at once; changes speed and memory, never a result beyond rounding."""

    model: Decoder
    tokenizer: Tokenizer
    batch: int | None = None

    def likelihoods(self, requests: Sequence[Request], title: str | None) -> Likelihoods:
        if isinstance(self.model, BytePool):
            return unit_likelihoods(self.model, self.tokenizer, requests, batch=self.batch, title=title)
        return likelihoods(self.model, self.tokenizer, requests, batch=self.batch, title=title)

    def write(self, prompts: Sequence[Prompt], max_new: int, title: str | None) -> Written:
        if isinstance(self.model, BytePool):
            return units_written(self.model, self.tokenizer, prompts, max_new, title=title)
        return written(self.model, self.tokenizer, prompts, max_new, title=title)

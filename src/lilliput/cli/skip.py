"""What `generate` and `evaluate` are asked to leave out: layers after an exit, or passes that drafts save."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import torch

from lilliput.errors import ConfigError
from lilliput.model.continued import continued
from lilliput.model.early_exit import ExitGenerator, Exits
from lilliput.model.speculate import Speculation, speculate

if TYPE_CHECKING:
    from lilliput.cli.writer import Sampling
    from lilliput.model.decoder import Decoder
    from lilliput.tokenizer.load import Tokenizer


def layers_of(text: str | None) -> list[int] | None:
    """`2,4` as layers; None stays None. Raises ConfigError."""
    return None if text is None else _numbers(text, "--exit-layers", "give layers such as 2,4")


def _numbers(text: str, where: str, mend: str) -> list[int]:
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise ConfigError(f"no whole numbers: {text!r}", where=where, mend=mend) from None


class Skip:
    """A way to write with less work; `report` says afterwards what it saved."""

    def __init__(self, model: Decoder, exit_at: float | None, layers: str | None, draft: str | None) -> None:
        """Raises ConfigError for what the model does not have, and for two ways at once."""
        self.model = model
        self.writer: ExitGenerator | None = None
        self.speculation: Speculation | None = None
        if exit_at is not None and draft is not None:
            raise ConfigError("two ways to skip layers", where="--speculate", mend="give --exit or --speculate")
        if layers is not None and exit_at is None:
            raise ConfigError("exits need a threshold", where="--exit-layers", mend="give --exit, such as --exit 0.9")
        if exit_at is not None:
            self.writer = ExitGenerator(model, Exits.of(model.config, exit_at, layers_of(layers)))
        if draft is not None:
            self.speculation = _speculation(draft)
            self.speculation.check(model.config)

    def tokens(self, ids: Sequence[int], how: Sampling, ends: Sequence[int], tokenizer: Tokenizer) -> Iterator[int]:
        """The continuation of one prompt."""
        if self.speculation is not None:
            ids_BT = torch.tensor([ids], dtype=torch.long, device=next(self.model.parameters()).device)
            new = speculate(self.model, ids_BT, how.max_new, self.speculation, ends)
            return (int(new_B[0]) for new_B in new)
        asked: dict[str, Any] = {"temperature": how.temperature, "top_p": how.top_p, "top_k": how.top_k}
        asked["seed"] = how.seed
        if self.writer is not None:
            asked["writer"] = self.writer
        return continued(self.model, tokenizer, ids, how.max_new, ends, **asked)

    def check(self, temperature: float) -> None:
        """Refuse drafts of a text that is drawn."""
        if self.speculation is not None and temperature:
            mend = "add --temperature 0"
            raise ConfigError("drafts are verified against the greedy text", where="--speculate", mend=mend)

    def report(self) -> dict[str, Any]:
        """What was skipped, for JSON; nothing where all layers were asked for."""
        if self.writer is not None:
            used = self.writer.used / max(1, self.writer.tokens)
            exits = {"threshold": self.writer.exits.threshold, "layers": list(self.writer.exits.layers)}
            return {"exit": exits, "layers_used": round(used, 3), "layers": self.model.config.depth}
        if (drafts := self.speculation) is not None:
            counts = {"drafted": drafts.drafted, "accepted": drafts.accepted}
            asked = {"layer": drafts.layer, "length": drafts.length}
            return {"speculation": {**asked, **counts, "acceptance": round(drafts.acceptance(), 4)}}
        return {}

    def lines(self) -> list[str]:
        """The same for a person."""
        if self.writer is not None:
            used = self.writer.used / max(1, self.writer.tokens)
            return [f"layers used  {used:.2f} of {self.model.config.depth} a token"]
        if (drafts := self.speculation) is not None:
            return [f"drafts taken  {drafts.accepted:,} of {drafts.drafted:,} tokens ({drafts.acceptance():.0%})"]
        return []


def _speculation(text: str) -> Speculation:
    mend = "write LAYER,LENGTH, such as 2,4: the first two layers draft four tokens"
    numbers = _numbers(text, "--speculate", mend)
    if len(numbers) != 2:
        raise ConfigError(f"not a layer and a length: {text!r}", where="--speculate", mend=mend)
    return Speculation(*numbers)

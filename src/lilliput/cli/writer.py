"""A loaded model that writes: what `generate` and `chat` share."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from lilliput.cli.skip import Skip
from lilliput.cli.stream import Reply
from lilliput.device import pick_device
from lilliput.export.hf import load_model_dir
from lilliput.progress import warn


@dataclass(frozen=True)
class Sampling:
    """How the next token is chosen, and when to stop."""

    max_new: int
    temperature: float
    top_p: float | None
    top_k: int | None
    seed: int
    stops: tuple[str, ...]


def clean(text: str) -> str:
    """`text` as valid Unicode: bytes of the command line that are no UTF-8 become U+FFFD, with a warning."""
    good = text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
    if good != text:
        warn("the prompt holds bytes that are not UTF-8; each is replaced by U+FFFD")
    return good


class Writer:
    """A model directory, loaded."""

    def __init__(self, path: Path, device: str = "auto") -> None:
        self.path = path
        self.device = pick_device(device)
        self.model, self.tokenizer = load_model_dir(self.path, self.device)
        self.context = self.model.config.context
        self.ends = self._ends()

    def start(self, text: str) -> list[int]:
        """BOS and the tokens of `text`; its last ones where it is longer than the model can see."""
        return self.fit([self.tokenizer.bos_id, *self.tokenizer.encode(text)])

    def fit(self, ids: list[int]) -> list[int]:
        """`ids`, cut on the left to what the model can see, with a warning."""
        length = self.tokenizer.length(ids)
        if length < self.context:
            return ids
        warn(f"the prompt is {length} tokens, the model sees {self.context}: only its end is used")
        return [self.tokenizer.bos_id, *self.tokenizer.last(ids, self.context - 2)]

    def reply(self, ids: list[int], how: Sampling, skip: Skip | None = None) -> Reply:
        """The continuation of `ids`, to be iterated. skip: what of the work to leave out."""
        tokens, tokenizer = (skip or self.skip()).tokens(ids, how, self.ends, self.tokenizer), self.tokenizer
        return Reply(
            tokens, tokenizer.decode, before=ids, ends=self.ends, stops=how.stops, closes=tokenizer.closes
        )

    def skip(self, exit_at: float | None = None, layers: str | None = None, draft: str | None = None) -> Skip:
        """What to leave out, checked for this model; nothing where nothing is said."""
        return Skip(self.model, exit_at, layers, draft)

    def _ends(self) -> tuple[int, ...]:
        """Every id that ends a text; chat models often name several in generation_config.json."""
        ends = {self.tokenizer.eos_id}
        file = self.path / "generation_config.json"
        if file.is_file():
            named = json.loads(file.read_text(encoding="utf-8")).get("eos_token_id")
            ends.update(named if isinstance(named, list) else [named])
        return tuple(sorted(end for end in ends if isinstance(end, int)))

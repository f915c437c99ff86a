"""Character noise: how a model bears text that people have mistyped.

Each character is spoilt with a given probability: deleted, exchanged, swapped with the one before it, or another is put
in before it, each as likely. New characters are drawn from those of the text itself, so that noise stays in its script.
Line ends stay, since they are structure. The same text, rate and seed give the same noise on every machine.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import takewhile
from random import Random

from lilliput.errors import UserError


@dataclass(frozen=True)
class Noise:
    """rate: the probability for each character, 0 to 1. Raises UserError for another."""

    rate: float
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.rate <= 1:
            mend = "give the share of characters to spoil, such as 0.05"
            raise UserError(f"a noise of {self.rate:g} is no share", where="--noise", mend=mend)

    def __call__(self, text: str) -> str:
        """The text with noise. It may come out empty only where the rate is high and the text short."""
        random = Random(f"{self.seed}:{self.rate!r}:{text}")
        letters = sorted(set(text) - {"\n", "\r"})
        out: list[str] = []
        for character in text:
            if character in "\r\n" or random.random() >= self.rate:
                out.append(character)
                continue
            kind = random.randrange(4)
            if kind == 1:
                out += (random.choice(letters), character)
            elif kind == 2:
                out.append(random.choice(letters))
            elif kind == 3:
                # Not over the end of a line.
                out.insert(len(out) - (1 if out and out[-1] not in "\r\n" else 0), character)
        return "".join(out)

    def documents(self, texts: Iterable[str]) -> Iterator[str]:
        """Documents with noise; one that would come out empty stays as it is."""
        return (self(text) or text for text in texts)

    def alike(self, texts: Sequence[str]) -> tuple[str, ...]:
        """Texts that differ in what is tested: noise falls on the beginning and the end that they share, and is the
        same in all; where they differ they stay as they are."""
        first = _shared(texts)
        rest = [text[first:] for text in texts]
        last = _shared([text[::-1] for text in rest])
        head, tail = self(texts[0][:first]), self(rest[0][len(rest[0]) - last :])
        return tuple(f"{head}{text[: len(text) - last]}{tail}" for text in rest)


def _shared(texts: Sequence[str]) -> int:
    """Characters that all texts begin with."""
    return sum(1 for _ in takewhile(lambda column: len(set(column)) == 1, zip(*texts, strict=False)))

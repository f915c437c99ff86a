"""Thirteen ways to spoil a continuation: those of the STLM project's story test (2405.14159), by its data set's names.

Order is lost (of bytes, of words, of n-grams of 3, 5, 7 and 12 words, of phrases), or a tenth of the bytes or words is
deleted, inserted or exchanged. Bytes are characters here, so that what was text stays text; in ASCII the two are one.
Words keep the blanks between them where they stand. For `parse_tree_shuffle` the data set moves the parts of a parse
tree about; here phrases take their place: what lies between marks of punctuation, or begins with a joining word.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from random import Random

SHARE = 0.1
"""Of the characters or words: how many are deleted, inserted or exchanged, at least one."""
_TRIES = 8
_PHRASE = re.compile(
    r"(?<=[.,;:!?…—।])\s+|(?<=[。，、；：！？])|\s+(?=(?:and|but|or|so|because|when|while|then|that|who|which|if|as|until)\b)"
)

Spoil = Callable[[list[str], Random, Sequence[str]], list[str]]


def _shuffled(parts: list[str], random: Random, others: Sequence[str]) -> list[str]:
    mixed = list(parts)
    random.shuffle(mixed)
    return mixed


def _in_groups(size: int) -> Spoil:
    """Groups of `size` neighbours change places; their inner order stays."""

    def spoil(parts: list[str], random: Random, others: Sequence[str]) -> list[str]:
        groups = [parts[at : at + size] for at in range(0, len(parts), size)]
        random.shuffle(groups)
        return [part for group in groups for part in group]

    return spoil


def _places(parts: list[str], random: Random) -> list[int]:
    return sorted(random.sample(range(len(parts)), max(1, round(SHARE * len(parts)))), reverse=True)


def _deleted(parts: list[str], random: Random, others: Sequence[str]) -> list[str]:
    left = list(parts)
    for at in _places(parts, random):
        del left[at]
    return left


def _inserted(parts: list[str], random: Random, others: Sequence[str]) -> list[str]:
    more = list(parts)
    for at in _places(parts, random):
        more.insert(at, random.choice(others))
    return more


def _exchanged(parts: list[str], random: Random, others: Sequence[str]) -> list[str]:
    changed = list(parts)
    for at in _places(parts, random):
        changed[at] = random.choice(others)
    return changed


_BYTES: dict[str, Spoil] = {
    "byte_shuffle": _shuffled,
    "random_byte_deletion": _deleted,
    "random_byte_insertion": _inserted,
    "random_byte_substitution": _exchanged,
}
_WORDS: dict[str, Spoil] = {
    "word_shuffle": _shuffled,
    **{f"ngram_shuffle_{size}": _in_groups(size) for size in (3, 5, 7, 12)},
    "random_word_deletion": _deleted,
    "random_word_insertion": _inserted,
    "random_word_substitution": _exchanged,
}
_PHRASES = "parse_tree_shuffle"
SCALES = {**dict.fromkeys(_BYTES, "bytes"), **dict.fromkeys(_WORDS, "words"), _PHRASES: "phrases"}
"""Each corruption, and what it works on."""
LEAST_WORDS = 13
"""Words that a continuation must have for all of them: with twelve, n-grams of twelve would be one."""


def corruptions(text: str, story: str) -> Iterator[tuple[str, str]]:
    """(name, spoilt text) of each that can change `text` at all, the same each time.

    story: inserted characters and words are drawn from it.
    """
    characters, words = sorted(set(story)), sorted(set(story.split()))
    for name in SCALES:
        # Seeded by the words alone, so that the task is the same for every model and on every machine.
        random = Random(f"{name}:{text}")
        for _ in range(_TRIES):
            spoilt = _spoilt(name, text, random, characters, words)
            if spoilt.split() != text.split() and spoilt.strip():
                yield name, spoilt
                break


def _spoilt(name: str, text: str, random: Random, characters: Sequence[str], words: Sequence[str]) -> str:
    if name in _BYTES:
        return "".join(_BYTES[name](list(text), random, characters))
    if name in _WORDS:
        blanks = re.findall(r"\s+", text.strip())
        return _set_between(_WORDS[name](text.split(), random, words), blanks)
    phrases = [phrase for phrase in _PHRASE.split(text.strip()) if phrase]
    if len(phrases) < 2:
        parts = text.split()
        phrases = [" ".join(part) for part in (parts[: len(parts) // 2], parts[len(parts) // 2 :])]
    return " ".join(_shuffled(phrases, random, ()))


def _set_between(words: list[str], blanks: list[str]) -> str:
    """The words with the blanks that stood between the old ones, and spaces where there are more words now."""
    filled = [*blanks, *[" "] * max(0, len(words) - 1 - len(blanks))]
    return "".join(part for pair in zip(words, [*filled[: len(words) - 1], ""], strict=True) for part in pair)

"""The script most of a text is written in, as a cheap stand-in for its language."""

from __future__ import annotations

import unicodedata
from collections import Counter

OTHER = "other"
# The first word of a letter's Unicode name, and how we call the script.
_NAMED = """
    Latin Greek Cyrillic Armenian Hebrew Arabic Syriac Devanagari Bengali Gurmukhi Gujarati Oriya Tamil Telugu
    Kannada Malayalam Sinhala Thai Lao Tibetan Myanmar Georgian Hangul Ethiopic Khmer Mongolian Cherokee
"""
_SCRIPTS = {name.upper(): name for name in _NAMED.split()} | {
    "CJK": "Han", "HIRAGANA": "Kana", "KATAKANA": "Kana", "KATAKANA-HIRAGANA": "Kana", "FULLWIDTH": "Latin",
}  # fmt: skip
# Letters looked at in a text, evenly spread over it.
_LOOKED_AT = 64


class _Known(dict[str, str | None]):
    """Characters met so far and their script; None for what is no letter. At most as many as there are characters."""

    def __missing__(self, character: str) -> str | None:
        letter = character.isalpha() or unicodedata.category(character).startswith("M")
        name = unicodedata.name(character, "").split(" ", 1)[0] if letter else ""
        script = self[character] = _SCRIPTS.get(name, OTHER if character.isalpha() else None)
        return script


_known = _Known()


def dominant_script(text: str) -> str:
    """`Latin`, `Han`, `Devanagari`, …: the script of most of the letters in a sample of the text; `other` where
    there is no letter, or of no script that has a name here. Japanese and Korean are `Kana` and `Hangul`."""
    sample = text[:: max(1, len(text) // _LOOKED_AT)]
    found = Counter(map(_known.__getitem__, sample))
    del found[None]
    return found.most_common(1)[0][0] or OTHER if found else OTHER

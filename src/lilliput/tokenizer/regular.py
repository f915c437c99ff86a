"""Patterns that cut text into words, where the regular expression engines of `tokenizers` and `tiktoken` agree.

`tokenizers` uses Oniguruma and `tiktoken` fancy-regex. Both search from the left and take the first alternative
that matches, as Perl does. They differ in dialect (`$`, `{1,3}+`, `\\w`), so only patterns made of parts that mean
the same in both are taken here; and perhaps in the version of Unicode, so `unsettled` tells of characters whose
class changed since Unicode 3.2 or may yet change.
"""

from __future__ import annotations

import re
import unicodedata
from functools import cache
from typing import Any

from lilliput.tokenizer.patterns import CL100K, GPT2, O200K, QWEN

_CLASS = r"\\p\{(?:[LNM]|L[ultmo])\}|\\[sSrn]"
_ENDINGS = r"\(\?i:'s\|'t\|'re\|'ve\|'m\|'ll\|'d\)|(?:'\(\?i:|\(\?i:'|'\(\?:)\[sdmt\]\|ll\|ve\|re\)"
_ATOM = rf"(?:{_ENDINGS}|{_CLASS}|\[\^?(?:{_CLASS}|[a-z /'])+\]|[a-z '])"
_OPTIONAL = rf"{_ATOM}[?*]"
_REQUIRED = rf"{_ATOM}(?:\+|\{{[1-9]\d*(?:,\d*)?\}})?"
# Something must match, or the empty match would be taken for a word by one engine and not by the other.
_COMMON = re.compile(rf"(?:(?:{_OPTIONAL})*{_REQUIRED}(?![?*+{{]))+(?:(?:{_OPTIONAL})(?![?*+{{]))*(?:\(\?!\\S\))?")
# Classes of Unicode that such a pattern can tell apart.
_TOLD_APART = frozenset("LNMZ")


def pattern_of(definition: dict[str, Any]) -> str | None:
    """The one regular expression by which a byte-level definition cuts text; None where it cuts otherwise.

    ByteLevel's own is GPT-2's.
    """
    stage = definition.get("pre_tokenizer") or {}
    if stage.get("type") == "ByteLevel":
        return GPT2 if stage.get("use_regex", True) and not stage.get("add_prefix_space") else None
    steps = stage.get("pretokenizers") or []
    if [step["type"] for step in steps] != ["Split", "ByteLevel"]:
        return None
    split, level = steps
    plain = split["behavior"] == "Isolated" and not split["invert"]
    if not plain or level.get("use_regex", True) or level.get("add_prefix_space"):
        return None
    found: str | None = split["pattern"].get("Regex")
    return found


def is_common(pattern: str) -> bool:
    """Whether the pattern means the same to both engines."""
    return all(map(_COMMON.fullmatch, alternatives(pattern)))


def ends_words(pattern: str) -> bool:
    """Whether a word that holds a letter or digit always ends before a blank, a comma or another sign.

    Of these patterns no alternative takes a sign, but for apostrophes, after a letter or digit.
    """
    return pattern in (GPT2, CL100K, QWEN, O200K)


def alternatives(pattern: str) -> list[str]:
    """The parts between the outermost bars of a pattern."""
    found, depth, start = [], 0, 0
    for part in re.finditer(r"\\.|\[(?:\\.|[^\]])*\]|[(|)]", pattern):
        depth += {"(": 1, ")": -1}.get(part[0], 0)
        if part[0] == "|" and not depth:
            found.append(pattern[start : part.start()])
            start = part.end()
    return [*found, pattern[start:]]


def grouped(pattern: str) -> str:
    """The same pattern, with neighbouring alternatives that do not look ahead as one group.

    fancy-regex hands such a group to its fast automaton; a third of the time is saved. Nothing follows the group,
    so no match changes.
    """
    parts: list[str] = []
    plain: list[str] = []
    for part in [*alternatives(pattern), None]:
        if part is not None and "(?!" not in part:
            plain.append(part)
            continue
        if plain:
            parts.append(f"(?:{'|'.join(plain)})")
            plain = []
        if part is not None:
            parts.append(part)
    return "|".join(parts)


def unsettled(text: str) -> bool:
    """Whether the text holds a character that engines of different Unicode versions may class differently: one that
    was no letter, digit, mark or blank in Unicode 3.2 and is now, or is none yet. (Also a lone surrogate.)"""
    if text.isascii() or not _perhaps().search(text):
        return False
    return any(map(_is_unsettled, set(text)))


@cache
def _perhaps() -> re.Pattern[str]:
    """Finds unsettled characters of the first 65,536, and any beyond: their set would be slow to search for."""
    ranges: list[list[int]] = []
    for number in filter(lambda at: _is_unsettled(chr(at)), range(0x80, 0x10000)):
        if ranges and ranges[-1][1] == number - 1:
            ranges[-1][1] = number
        else:
            ranges.append([number, number])
    spans = "".join(f"\\u{first:04x}-\\u{last:04x}" for first, last in ranges)
    return re.compile(f"[{spans}\U00010000-\U0010ffff]")


@cache
def _is_unsettled(character: str) -> bool:
    now, old = unicodedata.category(character), unicodedata.ucd_3_2_0.category(character)
    return now in ("Cn", "Cs") or (now != old and not _TOLD_APART.isdisjoint((now[0], old[0])))

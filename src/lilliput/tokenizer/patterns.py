"""The patterns with which tiktoken's vocabularies cut text into words, and whose vocabulary a list of ranks is.

A tiktoken file holds no pattern. The published ones are facts about the models: GPT-2, cl100k and o200k are those of
OpenAI's `tiktoken_ext/openai_public.py`, Qwen's is that of its `tokenization_qwen.py`; LLaMA 3's is cl100k's. Newer
versions of that file write cl100k's otherwise, for speed, and keep blanks with the text's last line end; here
it stands as it was published and as the models that took it over have it.
"""

from __future__ import annotations

import hashlib
import re
from base64 import b64encode
from collections.abc import Sequence
from typing import NamedTuple

from tokenizers import Regex

from lilliput.errors import TokenizerError

GPT2 = r"""'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"""
CL100K = (
    r"""(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"""
    r"""| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"""
)
QWEN = CL100K.replace(r"\p{N}{1,3}", r"\p{N}")
O200K = (
    r"""[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?"""
    r"""|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?"""
    r"""|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"""
)


class _Known(NamedTuple):
    """Whose: the first `size` ranks, written as tiktoken writes a file, have this SHA-256."""

    name: str
    size: int
    digest: str
    pattern: str


# The digests of OpenAI's are those that its own package checks downloads by. Qwen's list is cl100k's without the
# numbers of several digits; LLaMA 3's begins with the whole of cl100k's.
_KNOWN = (
    _Known("GPT-2", 50256, "306cd27f03c1a714eca7108e03d66b7dc042abe8c258b44c199a7ed9838dd930", GPT2),
    _Known("cl100k", 100256, "223921b76ee99bde995b7ff738513eef100fb51d18c93597a113bcffe865b2a7", CL100K),
    _Known("Qwen", 151643, "b2b1b8dfb5cc5f024bafc373121c6aba3f66f9a5a0269e243470a1de16a33186", QWEN),
    _Known("o200k", 199998, "446a9538cb6c348e3516120d7c08b09f57c36495e2acfffe59a5bf8b0cfb1a2d", O200K),
)


def recognise(tokens: Sequence[tuple[int, bytes]]) -> tuple[str, str] | None:
    """(name, pattern) of the vocabulary that these (rank, token), in order of rank, are or begin with."""
    for known in _KNOWN:
        if len(tokens) >= known.size:
            lines = b"".join(b64encode(token) + b" %d\n" % rank for rank, token in tokens[: known.size])
            if hashlib.sha256(lines).hexdigest() == known.digest:
                return known.name, known.pattern
    return None


_CLASS = r"\[(?:\\.|\[(?:\\.|[^\]\\])*\]|[^\[\]\\])*\]"
# An atom with a counted possessive repetition, an escape, a class (with classes in it) or an anchor.
_PARTS = re.compile(
    rf"(?P<counted>(?:\\[pP]\{{[^}}]*\}}|\\.|{_CLASS}|[^\\\[\](){{}}|])\{{\d+(?:,\d*)?\}})\+"
    rf"|\\.|{_CLASS}|(?P<anchor>[$^])|(?P<unclear>\)\{{\d+(?:,\d*)?\}}\+|\(\?[a-z]*m)",
    re.DOTALL,
)


def for_tokenizers(pattern: str, where: str = "--pattern") -> str:
    """A pattern written for tiktoken in the dialect of `tokenizers`, Oniguruma's.

    There `^` and `$` are the ends of each line and `x{1,3}+` repeats the repetition.
    Raises TokenizerError for an invalid pattern and for one whose meaning there is not sure.
    """
    mend = "name a regular expression as tiktoken takes it"
    if not pattern:
        raise TokenizerError("an empty regular expression", where=where, mend=mend)
    translated = _PARTS.sub(lambda part: _translate(part, pattern, where), pattern)
    try:
        Regex(translated)
    except Exception as error:  # the package raises bare Exception
        raise TokenizerError(f"not a regular expression: {error}", where=f"{where} {pattern}", mend=mend) from None
    return translated


def _translate(part: re.Match[str], pattern: str, where: str) -> str:
    if part["unclear"]:
        mend = "write an atomic group (?>…) for a possessive one, and \\A or \\z for (?m)"
        raise TokenizerError(f"{part['unclear']} means something else here", where=f"{where} {pattern}", mend=mend)
    if part["counted"]:
        return f"(?>{part['counted']})"
    if part["anchor"]:
        return r"\z" if part["anchor"] == "$" else r"\A"
    return part[0]

"""Does a tokenizer give back exactly the text it was given?"""

from __future__ import annotations

from collections.abc import Iterable

from lilliput.errors import TokenizerError
from lilliput.tokenizer.load import Tokenizer

_AWKWARD = (
    "",
    " ",
    "  two  spaces  ",
    "\ttab\r\nline\n\n\n",
    "\x00\x01\x7f",
    "naïve Ångström ＡＢＣ ﬁ e\u0301",
    "中文，没有空格。\u3000日本語 한국어",
    "नमस्ते বাংলা",
    "👩‍👩‍👧 🇩🇪 \U0010ffff",
    "\ufeff\u200b\u2028\u00ad",
    "it's they'll I'D 12345 $%&",
)
CHECKED_BYTES = 1_000_000


def check_lossless(tokenizer: Tokenizer, texts: Iterable[str] = (), limit: int = CHECKED_BYTES) -> int:
    """Encode and decode awkward strings, the special tokens' own names, and `texts` up to `limit` bytes.

    Returns the bytes checked. Raises TokenizerError at the first difference, or where a special token's name
    in a text would become the special token.
    """
    names = [tokenizer.token(number) or "" for number in (tokenizer.bos_id, tokenizer.eos_id)]
    checked = 0
    for text in (*_AWKWARD, *names, *(f"a{name}b" for name in names)):
        _check(tokenizer, text)
    for text in texts:
        _check(tokenizer, text)
        checked += len(text.encode())
        if checked >= limit:
            break
    return checked


def _check(tokenizer: Tokenizer, text: str) -> None:
    ids = tokenizer.encode(text)
    if {tokenizer.bos_id, tokenizer.eos_id} & set(ids):
        raise TokenizerError(f"plain text gives a special token: {text[:40]!r}", where="tokenizer check")
    back = tokenizer.decode(ids)
    if back != text:
        at = next((i for i, (a, b) in enumerate(zip(text, back, strict=False)) if a != b), min(len(text), len(back)))
        near = f"{text[max(0, at - 10) : at + 10]!r} came back as {back[max(0, at - 10) : at + 10]!r}"
        raise TokenizerError(f"the tokenizer loses text: {near}", where=f"tokenizer check, character {at}")

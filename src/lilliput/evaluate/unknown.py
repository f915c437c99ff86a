"""Bytes that a tokenizer cannot represent.

A model must not gain from text it never saw: a byte hidden behind an unknown token, or dropped, costs 8 bits
(docs/evaluate.md). Tokenizers made by Lilliput represent every byte; others may not.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from tokenizers.pre_tokenizers import ByteLevel

from lilliput.tokenizer.units import UnitTokenizer

if TYPE_CHECKING:
    from lilliput.tokenizer.load import Tokenizer


class UnknownBytes:
    """Counts, per document, the UTF-8 bytes that no token stands for."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.complete = isinstance(tokenizer, UnitTokenizer)
        if self.complete:
            return
        self._backend = tokenizer.backend
        made_of = json.loads(self._backend.to_str())
        self.complete = _every_byte(made_of)
        unknown = made_of["model"].get("unk_token")
        if unknown is None and (index := made_of["model"].get("unk_id")) is not None:
            unknown = self._backend.id_to_token(index)
        self._drops: dict[str, bool] = {}
        self._unknown = None if unknown is None else self._backend.token_to_id(unknown)

    def count(self, text: str, ids: Sequence[int]) -> int:
        """UTF-8 bytes of `text` that its tokens `ids` do not represent.

        A character behind an unknown token counts, and so does a character, not a blank, that alone gives no
        token at all (some tokenizers drop what they do not know).
        """
        if self.complete:
            return 0
        lost = sum(len(character.encode()) for character in text if self._dropped(character))
        if self._unknown in ids:
            encoding = self._backend.encode(text, add_special_tokens=False)
            spans = zip(encoding.ids, encoding.offsets, strict=True)
            lost += sum(len(text[a:b].encode()) for token, (a, b) in spans if token == self._unknown)
        return lost

    def _dropped(self, character: str) -> bool:
        found = self._drops.get(character)
        if found is None:
            nothing = not self._backend.encode(character, add_special_tokens=False).ids
            found = self._drops[character] = nothing and not character.isspace()
        return found


def _every_byte(made_of: dict[str, Any]) -> bool:
    """Whether the tokenizer, given as its JSON, has a piece for each of the 256 bytes and uses it."""
    model = made_of["model"]
    pieces = model.get("vocab") or {}
    names = set(pieces) if isinstance(pieces, dict) else {piece for piece, _ in pieces}
    if model.get("byte_fallback") and all(f"<0x{byte:02X}>" in names for byte in range(256)):
        return True
    before = made_of.get("pre_tokenizer") or {}
    steps = before.get("pretokenizers", [before])
    return any(step.get("type") == "ByteLevel" for step in steps) and names.issuperset(ByteLevel.alphabet())

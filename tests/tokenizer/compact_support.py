"""A tokenizer beside what it was cut down to, and what must hold between them."""

from collections.abc import Iterable
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from odd_tokenizers import names_of
from tokenizers import Tokenizer as Backend

from lilliput.tokenizer.compact import Compactor
from lilliput.tokenizer.source import Source
from lilliput.tokenizer.spelling import piece_bytes
from lilliput.tokenizer.witness import witnesses


class Cut:
    """A tokenizer and what it was cut down to, side by side."""

    def __init__(self, compactor: Compactor, size: int) -> None:
        self.source, self.size = compactor.source, size
        self.compaction = compactor.at(size)
        self.old, self.new = self.source.backend(), self.compaction.source.backend()
        self.ids = self.compaction.ids

    @cached_property
    def names(self) -> dict[int, str]:
        return names_of(self.source)

    def check(self, given: Iterable[str]) -> None:
        """Each text comes back as from the source, by pieces that spell the same."""
        chosen = list(map(self._within_its_characters, given))
        before = [found.ids for found in self.old.encode_batch_fast(chosen, add_special_tokens=False)]
        after = [found.ids for found in self.new.encode_batch_fast(chosen, add_special_tokens=False)]
        theirs = self.old.decode_batch(before, skip_special_tokens=False)
        ours = self.new.decode_batch(after, skip_special_tokens=False)
        for text, one, other, old, new in zip(chosen, theirs, ours, before, after, strict=True):
            assert other == one, (self.size, text)
            assert self.spelled(self.ids[new].tolist()) == self.spelled(old), (self.size, text)

    def _within_its_characters(self, text: str) -> str:
        """The text without what the source cannot spell character by character, though it has longer pieces for
        it: there, which piece it gets stuck at depends on the other pieces."""
        if self._spells:
            return text
        if self.source.kind != "WordPiece":
            return "".join(letter for letter in text if letter in self._forms or letter not in self._letters)
        forms = ((word, [word[0], *(f"##{letter}" for letter in word[1:])]) for word in words_of(self.old, text))
        kept = (word for word, parts in forms if self._forms.issuperset(parts) or not self._letters.issuperset(word))
        return " ".join(kept)

    @cached_property
    def _spells(self) -> bool:
        model = self.source.definition["model"]
        return bool(self.source.kind == "byte-level BPE" or model.get("byte_fallback"))

    @cached_property
    def _forms(self) -> set[str]:
        return {" " if piece == "▁" else piece for piece in self.source.pieces}

    @cached_property
    def _letters(self) -> set[str]:
        return {letter for piece in self._forms for letter in piece}

    def spelled(self, ids: list[int]) -> bytes:
        """What pieces spell, joined."""
        pieces = (self.names[number] for number in ids)
        if self.source.kind == "WordPiece":
            return "".join(piece[2:] if piece.startswith("##") else f" {piece}" for piece in pieces).encode()
        return b"".join(piece_bytes(piece, byte_level=self.source.kind == "byte-level BPE") for piece in pieces)

    def check_pieces(self, possible: dict[int, str]) -> None:
        """What can come out of the source (`possible`) and was kept still comes out; what cannot was not kept
        without a reason."""
        kept = [(new, old) for new, old in enumerate(self.ids.tolist()) if old in possible]
        proofs = [possible[old] for _, old in kept]
        encoded = self.new.encode_batch_fast(proofs, add_special_tokens=False)
        others = [new for (new, _), found in zip(kept, encoded, strict=True) if new not in found.ids]
        lost = set(others) - witnesses(self.compaction.source, others).keys()
        assert not lost, (self.size, [self.names[int(self.ids[new])] for new in lost])
        allowed = self._needed()
        useless = {self.names[old] for old in self.ids.tolist() if old not in possible} - allowed
        assert not useless, (self.size, useless)

    def _needed(self) -> set[str]:
        """Special pieces, bytes, single characters, and what another kept piece is merged from."""
        model, pieces = self.compaction.source.definition["model"], self.compaction.source.pieces
        special = {token["content"] for token in self.source.definition["added_tokens"]} | {model.get("unk_token")}
        special |= {str(value) for name, value in self.source.config.items() if name.endswith("_token")}
        special |= {self.names[model["unk_id"]]} if model.get("unk_id") is not None else set()
        short = {piece for piece in pieces if len(piece.removeprefix("##").removesuffix("</w>")) == 1}
        spelt = {piece for piece in pieces if len(piece) == 6 and piece.startswith("<0x")}
        parents = {part for left, right in model.get("merges", []) if left + right in pieces for part in (left, right)}
        return special | short | spelt | parents


def counted(source: Source, documents: Iterable[str]) -> NDArray[np.int64]:
    counts = np.zeros(source.vocab_size, np.int64)
    for encoding in source.backend().encode_batch_fast(list(documents), add_special_tokens=False):
        np.add.at(counts, encoding.ids, 1)
    return counts


def cuts_of(compactor: Compactor) -> list[Cut]:
    """The smallest, a middle and the largest size below the full one."""
    least, most = compactor.least, compactor.most
    return [Cut(compactor, size) for size in sorted({least, (least + most) // 2, most})]


def words_of(backend: Backend, text: str) -> list[str]:
    plain = text if backend.normalizer is None else backend.normalizer.normalize_str(text)
    return [word for word, _ in backend.pre_tokenizer.pre_tokenize_str(plain)]

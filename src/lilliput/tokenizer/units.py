"""Text cut into units by a pattern, without a vocabulary: what stands in a tokenizer's place for byte-pooled models.

A unit is a stretch of text that the pattern finds, as a rule a word with the space before it. What the pattern passes
over is a unit, too, so that every text comes back as it was. A unit of more bytes than the limit is cut into several,
at the borders of characters (a character that alone is longer is cut within, which happens with limits below 4 only).

To the rest of the house a text is a flat run of symbols (unit_rows.py); `positions` gives the rows that a model reads.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lilliput.corpus.unit_rows import (
    ALPHABET,
    DOCUMENT,
    END,
    MAX_LIMIT,
    MIN_LIMIT,
    apart,
    joined,
    rows_of,
)
from lilliput.errors import StorageError, TokenizerError
from lilliput.store import canonical_hash, read_json, write_json
from lilliput.tokenizer.load import Tokenizer

FILE = "units.json"
DOCUMENT_NAME = "<|document|>"

# Letters with their marks, in any script: no blanks, controls, ASCII digits or signs, and nothing in a block of
# punctuation. Named by what it is not, the pattern means the same whatever version of Unicode a reader knows.
_SIGNS = (
    r"\x00-@\[-`{-\x7f\u0080-\u00a9\u00ab-\u00b4\u00b6-\u00b9\u00bb-\u00bf\u00d7\u00f7"
    r"\u060c\u061b\u061f\u06d4\u0964\u0965\u2000-\u200b\u200e-\u206f\u3000-\u303f\uff00-\uff20\uff3b-\uff40\uff5b-\uff65"
)
# One character is a word, or nearly, where no blanks part words.
_LONE = r"\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
_LETTER = rf"[^\s{_SIGNS}{_LONE}]"
PATTERN = (
    rf"['’](?:s|t|re|ve|m|ll|d)\b| ?{_LETTER}+|[{_LONE}]| ?[0-9]+"
    rf"| ?(?:(?!{_LETTER})[^\s0-9{_LONE}])+|\s+(?!\S)|\s+"
)


class UnitTokenizer(Tokenizer):
    """Units in a tokenizer's place. pattern: a regular expression of Python's. limit: bytes a unit has at most.

    Raises TokenizerError for an impossible pattern or limit.
    """

    def __init__(self, limit: int, pattern: str | None = None) -> None:
        if not MIN_LIMIT <= limit <= MAX_LIMIT:
            mend = f"give {MIN_LIMIT} to {MAX_LIMIT}"
            raise TokenizerError(f"units of at most {limit} bytes", where="model.unit", mend=mend)
        self.limit, self.pattern = limit, pattern or PATTERN
        try:
            self._find = re.compile(self.pattern)
        except re.error as error:
            mend = "name a regular expression as Python takes it"
            raise TokenizerError(f"not a regular expression: {error}", where="tokenizer.pattern", mend=mend) from None
        self.bos_id = self.eos_id = DOCUMENT
        self.vocab_size = ALPHABET
        self._config, self._saved = {}, {}
        self.hash = canonical_hash({"units": self.pattern, "limit": limit})

    @property
    def special_ids(self) -> set[int]:
        return {DOCUMENT}

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        return [symbols.tolist() for symbols in self.encode_arrays(texts)]

    def encode_arrays(self, texts: Sequence[str]) -> list[NDArray[np.int64]]:
        """Flat symbols of each text. Raises TokenizerError for lone surrogates."""
        return [joined(*self.units(text)) for text in texts]

    def units(self, text: str) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """(bytes of each unit, the bytes of all). Raises TokenizerError for lone surrogates."""
        try:
            raw = text.encode()
        except UnicodeEncodeError:
            mend = "write it as valid Unicode"
            raise TokenizerError("the text holds lone surrogates, which are no characters", mend=mend) from None
        found = self._cut(text)
        # Characters are bytes in ASCII.
        lengths = np.array([len(part) for part in found] if text.isascii() else [len(p.encode()) for p in found], int)
        if len(lengths) and int(lengths.max()) > self.limit:
            lengths = np.array(list(self._within_limit(raw, lengths)), int)
        return lengths.astype(np.uint8), np.frombuffer(raw, np.uint8)

    def _cut(self, text: str) -> list[str]:
        """The pattern's matches, and what lies between them."""
        found = [match[0] for match in self._find.finditer(text)]
        if sum(map(len, found)) == len(text):
            return [part for part in found if part]
        parts, at = [], 0
        for match in self._find.finditer(text):
            parts += [text[at : match.start()], match[0]]
            at = match.end()
        return [part for part in (*parts, text[at:]) if part]

    def _within_limit(self, raw: bytes, lengths: NDArray[np.int64]) -> Iterator[int]:
        """The lengths, those above the limit cut where characters end."""
        at = 0
        for length in lengths.tolist():
            end = at + length
            while end - at > self.limit:
                cut = self.limit
                while cut and raw[at + cut] & 0xC0 == 0x80:
                    cut -= 1
                yield cut or self.limit
                at += cut or self.limit
            yield end - at
            at = end

    def positions(self, ids: Sequence[int] | NDArray[np.int64]) -> NDArray[np.int64]:
        """Flat symbols as the rows that a model reads, (units, limit)."""
        return rows_of(*apart(np.asarray(ids, np.int64)), self.limit)

    def last(self, ids: list[int], count: int) -> list[int]:
        """The symbols of the last `count` units."""
        lengths, raw = apart(np.asarray(ids, np.int64))
        kept = lengths[max(0, len(lengths) - count) :]
        size = int(kept.sum())
        return list(map(int, joined(kept, raw[len(raw) - size :])))

    def length(self, ids: Sequence[int]) -> int:
        """Units in a run of symbols."""
        return sum(symbol >= END for symbol in ids)

    def closes(self, token: int) -> bool:
        """Whether a unit ends with this symbol."""
        return token >= END

    def decode(self, ids: Iterable[int]) -> str:
        raw = bytes(symbol - 1 for symbol in ids if 0 < symbol < END)
        return raw.decode("utf-8", "replace")

    def token(self, number: int) -> str | None:
        """The symbol's name."""
        if number == DOCUMENT:
            return DOCUMENT_NAME
        return f"<0x{number - 1:02X}>" if 0 < number < END else {0: "<pad>", END: "<|end|>"}.get(number)

    def save(self, folder: Path | str, model_max_length: int | None = None) -> None:
        """Write `units.json`, and the `tokenizer_config.json` for transformers; its class (export/blocks) must lie
        beside."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / FILE, {"format": 1, "pattern": self.pattern, "limit": self.limit})
        config = {
            "tokenizer_class": "LilliputUnitTokenizer",
            "auto_map": {"AutoTokenizer": ["tokenization_lilliput_byte_pool.LilliputUnitTokenizer", None]},
            "bos_token": DOCUMENT_NAME,
            "eos_token": DOCUMENT_NAME,
            "pad_token": "<pad>",
            "clean_up_tokenization_spaces": False,
            "model_input_names": ["input_ids", "attention_mask"],
            "pattern": self.pattern,
            "limit": self.limit,
        }
        if model_max_length is not None:
            # Of symbols: a unit may have as many as the limit, and its end.
            config["model_max_length"] = model_max_length * (self.limit + 1)
        write_json(folder / "tokenizer_config.json", config)

    @classmethod
    def open(cls, folder: Path) -> UnitTokenizer:
        """The units of a model directory. Raises TokenizerError where its file is absent or damaged."""
        file = folder / FILE
        try:
            found = read_json(file)
            return cls(int(found["limit"]), str(found["pattern"]))
        except (OSError, KeyError, TypeError, ValueError, StorageError) as error:
            mend = "copy the model directory again"
            raise TokenizerError(f"no readable units: {error}", where=str(file), mend=mend) from None

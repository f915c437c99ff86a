"""Text to numbers as fast as the installed engines allow, with the numbers that `tokenizers` gives."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer as Backend

from lilliput.errors import TokenizerError
from lilliput.tokenizer.source import Source

# Text given to the backend at once; its bookkeeping takes about a hundred bytes a token.
BATCH = 2_000_000


class Encoder:
    """Encodes many texts: without special tokens, special tokens' names in text as plain text, on all cores.

    workers: how many threads may call `encode_flat` at once to keep the cores busy.
    """

    workers = 2

    def __init__(self, source: Source, backend: Backend | None = None) -> None:
        self._backend = backend or source.backend()

    def encode_flat(self, texts: Sequence[str]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """(the numbers of all texts, one after the other; how many each text has). For up to a few MB of text.

        Raises TokenizerError for lone surrogates.
        """
        found = [encoding.ids for encoding in self._encode(texts)]
        lengths = np.fromiter(map(len, found), np.int64, len(found))
        ids = np.fromiter((number for part in found for number in part), np.int64, int(lengths.sum()))
        return ids, lengths

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """The numbers of each text, in bounded memory. Raises TokenizerError for lone surrogates."""
        return [encoding.ids for group in _groups(texts) for encoding in self._encode(group)]

    def _encode(self, texts: Sequence[str]) -> Any:
        try:
            return self._backend.encode_batch_fast(texts, add_special_tokens=False)
        except (TypeError, UnicodeError):
            mend = "replace them, for example text.encode('utf-8', 'replace').decode()"
            raise TokenizerError("the text holds lone surrogates, which are no characters", mend=mend) from None


def _groups(texts: Iterable[str]) -> Iterator[list[str]]:
    group: list[str] = []
    size = 0
    for text in texts:
        group.append(text)
        size += len(text)
        if size >= BATCH:
            yield group
            group, size = [], 0
    if group:
        yield group

"""What a model's bits per byte are held against: no knowledge at all, and a general compressor."""

from __future__ import annotations

import lzma
from collections.abc import Iterable

from lilliput.errors import UserError


def uniform() -> float:
    """Bits per byte of a uniform model over bytes: log2 256."""
    return 8.0


def xz(documents: Iterable[str]) -> float:
    """Bits per byte of `xz -9` on the documents written one after another.

    It learns as it reads and knows nothing before, so the figure falls as the text grows: compare with it
    on the same text only. Raises UserError if there is no text.
    """
    compressor = lzma.LZMACompressor(preset=9)
    read = written = 0
    for text in documents:
        raw = text.encode()
        read += len(raw)
        written += len(compressor.compress(raw))
    written += len(compressor.flush())
    if read == 0:
        raise UserError("there is no text to evaluate on", mend="name a file with at least one character")
    return 8.0 * written / read

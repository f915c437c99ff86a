"""A unit of text (a word, as a rule) as symbols: its UTF-8 bytes and an end.

    0          nothing: fills a row up
    1 … 256    the byte of that value less one
    257        END of a unit
    258        DOCUMENT: begins and ends one; a unit by itself

A row has as many places as a unit may have bytes: its bytes, then END where there is room. A unit that fills its row
ends with it, so that no symbol says so. As a flat run of symbols, which is what a tokenizer gives, every unit has its
END.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

NOTHING, END, DOCUMENT = 0, 257, 258
ALPHABET = 259
# Bytes a unit may have at most, and at least: the longest character has four.
MAX_LIMIT, MIN_LIMIT = 64, 2


def rows_of(lengths_N: NDArray[np.uint8], bytes_S: NDArray[np.uint8], limit: int) -> NDArray[np.int64]:
    """Units as rows (N, limit), int64. lengths_N: bytes of each, 0 for DOCUMENT. bytes_S: those of all, joined."""
    rows_NL = np.zeros((len(lengths_N), limit), np.int64)
    places_L = np.arange(limit)
    rows_NL[places_L < lengths_N[:, None]] = bytes_S.astype(np.int64) + 1
    rows_NL[places_L == lengths_N[:, None]] = END
    rows_NL[lengths_N == 0, 0] = DOCUMENT
    return rows_NL


def apart(symbols: NDArray[np.int64]) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """(lengths_N, bytes_S) of a flat run of whole units, as `rows_of` takes them."""
    ends = np.flatnonzero(symbols >= END)
    begins = np.concatenate([[-1], ends[:-1]])
    return (ends - begins - 1).astype(np.uint8), (symbols[symbols < END] - 1).astype(np.uint8)


def joined(lengths_N: NDArray[np.uint8], bytes_S: NDArray[np.uint8]) -> NDArray[np.int64]:
    """The inverse of `apart`."""
    ends = np.cumsum(lengths_N.astype(np.int64) + 1) - 1
    symbols = np.empty(len(bytes_S) + len(lengths_N), np.int64)
    last = np.zeros(len(symbols), bool)
    last[ends] = True
    symbols[last] = np.where(lengths_N == 0, DOCUMENT, END)
    symbols[~last] = bytes_S.astype(np.int64) + 1
    return symbols

"""Shards of units: a split as bytes on disk with the length of each unit, mapped into memory.

    train.text           the UTF-8 bytes of all documents
    train.lengths        uint8, the bytes of each unit; 0 for what begins and ends a document
    train.blocks.npy     uint64, where every 1,024th unit begins in the text
    train.documents.npy, train.bytes.npy, train.json    as in shards.py, counted in units
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lilliput.corpus.documents import Documents
from lilliput.corpus.shards import FORMAT, Shards, items
from lilliput.corpus.unit_rows import rows_of
from lilliput.errors import CorpusError
from lilliput.progress import Progress, count
from lilliput.store import write_json

BLOCK = 1024

Units = Callable[[str], tuple[NDArray[np.uint8], NDArray[np.uint8]]]
"""A text's (bytes of each unit, the bytes of all)."""


def pack_units(
    documents: Documents | Iterable[str],
    units: Units,
    *,
    limit: int,
    tokenizer_hash: str,
    out: Path,
    split: str,
    weights: Sequence[float] | None = None,
) -> dict[str, Any]:
    """Write the shards of one split into the folder `out`, one document in memory at a time; returns the manifest.

    weights: as for `shards.pack`, but a document that is seen several times is so at once.
    Raises CorpusError if there is no document.
    """
    ends, sizes, blocks = array("Q", [0]), array("I"), array("Q")
    total = documents.total_bytes if isinstance(documents, Documents) else None
    at = done = 0
    with (
        open(out / f"{split}.text", "wb") as text,
        open(out / f"{split}.lengths", "wb") as lengths,
        Progress(f"packing {split}", total, "B") as progress,
    ):
        for item in items(documents, weights):
            own, raw = units(item.text)
            own = np.concatenate([[0], own, [0]]).astype(np.uint8)
            starts = np.concatenate([[0], np.cumsum(own, dtype=np.int64)])[:-1]
            for _ in range(item.times):
                first = -ends[-1] % BLOCK
                blocks.extend((at + starts[first::BLOCK]).tolist())
                text.write(raw.tobytes())
                lengths.write(own.tobytes())
                at += len(raw)
                ends.append(ends[-1] + len(own))
                sizes.append(item.size)
            done += item.size
            progress.update(done, units=count(ends[-1]))
    if not sizes:
        mend = "name more text, or raise the weights that are below 1"
        raise CorpusError(f"the {split} split holds no document", where="corpus", mend=mend)
    tables = (("blocks", blocks, np.uint64), ("documents", ends, np.uint64), ("bytes", sizes, np.uint32))
    for name, values, kind in tables:
        np.save(out / f"{split}.{name}.npy", np.frombuffer(values, kind))
    manifest = {
        "format": FORMAT,
        "split": split,
        "tokens": ends[-1],
        "documents": len(sizes),
        "text_bytes": sum(sizes),
        "limit": limit,
        "tokenizer": tokenizer_hash,
    }
    write_json(out / f"{split}.json", manifest)
    return manifest


class UnitShards(Shards):
    """One packed split of units. tokens: uint8, the bytes of each unit; one entry for each position of the core. The
    rest as in `Shards`."""

    def _open(self, total: int, documents: int) -> None:
        lengths, text = self.path / f"{self.split}.lengths", self.path / f"{self.split}.text"
        for file, size in ((lengths, total), (text, int(self.manifest["text_bytes"]))):
            if file.stat().st_size != size:
                raise ValueError(f"{file.name} has {file.stat().st_size} bytes, not {size}")
        self.tokens = np.memmap(lengths, dtype=np.uint8, mode="r")
        self._text = np.memmap(text, dtype=np.uint8, mode="r")
        self._blocks: NDArray[np.uint64] = np.load(self.path / f"{self.split}.blocks.npy", mmap_mode="r")
        if len(self._blocks) != -(-total // BLOCK):
            raise ValueError("the blocks do not fit the units")

    def batch(self, indices: NDArray[Any], context: int) -> NDArray[np.int64]:
        """Windows by number: (B,) -> rows int64 (B, context + 1, limit)."""
        return np.stack([self._window(int(index) * context, context + 1) for index in indices])

    def _window(self, first: int, count: int) -> NDArray[np.int64]:
        """`count` units as rows."""
        block = first // BLOCK
        begin = int(self._blocks[block]) + int(self.tokens[block * BLOCK : first].sum(dtype=np.int64))
        lengths = np.asarray(self.tokens[first : first + count])
        size = int(lengths.sum(dtype=np.int64))
        return rows_of(lengths, np.asarray(self._text[begin : begin + size]), int(self.manifest["limit"]))

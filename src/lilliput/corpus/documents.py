"""Documents on disk: one file of text, one of offsets, one of sources, for each split.

    train.text          the documents' UTF-8 bytes, one after another
    train.offsets.npy   uint64, one more than there are documents: document i is text[offsets[i]:offsets[i+1]]
    train.source.npy    uint16, which of the recipe's sources it came from

The text is read with seeks, not mapped: mapped pages of a large corpus count as this process's memory.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

import numpy as np

from lilliput.errors import CorpusError

SPLITS = ("train", "dev")


class DocumentsWriter:
    """Writes one split; a context manager. Memory: ten bytes a document."""

    def __init__(self, folder: Path, split: str) -> None:
        self._folder, self._split = folder, split
        self._offsets = array("Q", [0])
        self._sources = array("H")
        self._file = open(folder / f"{split}.text", "wb", buffering=1 << 20)  # noqa: SIM115, closed by __exit__

    def __enter__(self) -> DocumentsWriter:
        return self

    def __len__(self) -> int:
        return len(self._sources)

    @property
    def total_bytes(self) -> int:
        """Bytes of text written so far."""
        return self._offsets[-1]

    def add(self, text: bytes, source: int) -> None:
        """Append one document (valid UTF-8) of source number `source`."""
        self._file.write(text)
        self._offsets.append(self._offsets[-1] + len(text))
        self._sources.append(source)

    def __exit__(self, kind: type[BaseException] | None, _: object, __: TracebackType | None) -> None:
        self._file.close()
        if kind is None:
            np.save(self._folder / f"{self._split}.offsets.npy", np.frombuffer(self._offsets, np.uint64))
            np.save(self._folder / f"{self._split}.source.npy", np.frombuffer(self._sources, np.uint16))


class Documents:
    """One split of a built corpus: `len`, `[i]` -> text, iteration in order, sizes. Nothing is held in memory
    but offsets. Raises CorpusError where the files are missing or do not belong together."""

    def __init__(self, folder: Path | str, split: str) -> None:
        self.path, self.split = Path(folder), split
        try:
            # uint64 (documents + 1,) and uint16 (documents,)
            self.offsets = np.load(self.path / f"{split}.offsets.npy")
            self.sources = np.load(self.path / f"{split}.source.npy")
            self._file = open(self.path / f"{split}.text", "rb", buffering=1 << 20)  # noqa: SIM115
            size = (self.path / f"{split}.text").stat().st_size
        except (OSError, ValueError) as error:
            mend = "delete the folder and run again"
            raise CorpusError(f"no complete {split} split: {error}", where=str(folder), mend=mend) from None
        if len(self.offsets) != len(self.sources) + 1 or int(self.offsets[-1]) != size:
            self._file.close()
            mend = "delete the folder and run again"
            raise CorpusError(f"the {split} split is incomplete or damaged", where=str(folder), mend=mend)

    def __len__(self) -> int:
        return len(self.sources)

    @property
    def total_bytes(self) -> int:
        """UTF-8 bytes of all documents."""
        return int(self.offsets[-1])

    def bytes_of(self, index: int) -> int:
        """UTF-8 bytes of document `index`."""
        return int(self.offsets[index + 1] - self.offsets[index])

    def raw(self, index: int) -> bytes:
        """Document `index` as UTF-8."""
        if not 0 <= index < len(self):
            raise IndexError(index)
        self._file.seek(int(self.offsets[index]))
        return self._file.read(self.bytes_of(index))

    def __getitem__(self, index: int) -> str:
        return self.raw(index).decode()

    def iterate_raw(self) -> Iterator[bytes]:
        """Every document in order, as UTF-8."""
        with open(self.path / f"{self.split}.text", "rb", buffering=1 << 20) as file:
            for size in np.diff(self.offsets).tolist():
                yield file.read(size)

    def __iter__(self) -> Iterator[str]:
        return (text.decode() for text in self.iterate_raw())

    def close(self) -> None:
        """Close the file of text."""
        self._file.close()

    def __del__(self) -> None:
        if file := getattr(self, "_file", None):
            file.close()

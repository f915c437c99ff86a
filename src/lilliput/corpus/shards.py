"""Shards: a split as token numbers on disk, mapped into memory, tied to the tokenizer that made them.

    train.tokens         little-endian uint16 (vocabulary up to 65,536) or uint32, every document BOS … EOS
    train.documents.npy  uint64, one more than there are documents: where each begins, in tokens
    train.bytes.npy      uint32, each document's UTF-8 bytes of text
    train.json           totals, the number type, the vocabulary and the tokenizer's hash
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from lilliput.corpus.documents import Documents
from lilliput.corpus.split import fingerprint
from lilliput.errors import CorpusError, LilliputError, TokenizerError
from lilliput.progress import Progress, count
from lilliput.store import read_json, write_json

FORMAT = 1
# Text given to the tokenizer at once: enough for its threads, little enough for its bookkeeping of about
# a hundred bytes a token.
BATCH_BYTES = 4_000_000
_COPY_TOKENS = 1 << 20

Ids = Sequence[int] | NDArray[np.int64]
EncodeBatch = Callable[[list[str]], Sequence[Ids]]


def pack(
    documents: Documents | Iterable[str],
    encode_batch: EncodeBatch,
    *,
    bos: int,
    eos: int,
    vocab_size: int,
    tokenizer_hash: str,
    out: Path,
    split: str,
    weights: Sequence[float] | None = None,
) -> dict[str, Any]:
    """Write the shards of one split into the folder `out`, in bounded memory; returns the manifest.

    encode_batch: texts -> token numbers without special tokens (arrays are the fastest); each document becomes
    BOS + tokens + EOS.
    weights: for each source of `documents` how often its documents are seen: whole parts are repeats, the
    fraction is the share of documents (by hash of the text) that are seen once more.
    Raises CorpusError if there is no document, TokenizerError if a token is outside the vocabulary.
    """
    dtype = np.dtype("<u2" if vocab_size <= 1 << 16 else "<u4")
    total = documents.total_bytes if isinstance(documents, Documents) else None
    with _Writer(out, split, dtype, vocab_size) as writer, Progress(f"packing {split}", total, "B") as progress:
        done = 0
        for batch in _batches(documents, weights):
            writer.add(batch, encode_batch([item.text for item in batch]), bos, eos)
            done += sum(item.size for item in batch)
            progress.update(done, tokens=count(writer.tokens))
        writer.repeat()
    if not writer.documents:
        mend = "name more text, or raise the weights that are below 1"
        raise CorpusError(f"the {split} split holds no document", where="corpus", mend=mend)
    manifest = {
        "format": FORMAT,
        "split": split,
        "tokens": writer.tokens,
        "documents": len(writer.documents),
        "text_bytes": sum(writer.sizes),
        "dtype": dtype.name,
        "vocab_size": vocab_size,
        "bos": bos,
        "eos": eos,
        "tokenizer": tokenizer_hash,
    }
    write_json(out / f"{split}.json", manifest)
    return manifest


class _Item(NamedTuple):
    text: str
    size: int
    times: int


def items(documents: Documents | Iterable[str], weights: Sequence[float] | None) -> Iterator[_Item]:
    """Each document that is seen, with its bytes and how many times."""
    if not isinstance(documents, Documents):
        for text in documents:
            yield _Item(text, len(text.encode()), 1)
        return
    if weights is not None and len(documents) and int(documents.sources.max()) >= len(weights):
        raise CorpusError("fewer weights than sources", where="corpus", mend="give each source a weight")
    for raw, source in zip(documents.iterate_raw(), documents.sources.tolist(), strict=True):
        times = 1 if weights is None else _times(weights[source], raw)
        if times:
            yield _Item(raw.decode(), len(raw), times)


def _times(weight: float, raw: bytes) -> int:
    """How often a document of a source of this weight is seen."""
    whole = int(weight)
    return whole + (weight > whole and fingerprint(raw).fraction < weight - whole)


def _batches(documents: Documents | Iterable[str], weights: Sequence[float] | None) -> Iterator[list[_Item]]:
    batch: list[_Item] = []
    size = 0
    for item in items(documents, weights):
        batch.append(item)
        size += item.size
        if size >= BATCH_BYTES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


class _Writer:
    """Appends documents to the files of one split. Memory: one batch, and 14 bytes a document."""

    def __init__(self, out: Path, split: str, dtype: np.dtype[Any], vocab_size: int) -> None:
        self._out, self._split, self._dtype, self._vocab_size = out, split, dtype, vocab_size
        self.documents = array("Q")  # where each ends, in tokens
        self.sizes = array("I")  # UTF-8 bytes
        self._extra = array("H")  # times it is seen beyond the first
        self._file = open(out / f"{split}.tokens", "w+b", buffering=1 << 20)  # noqa: SIM115, closed by __exit__

    def __enter__(self) -> _Writer:
        return self

    @property
    def tokens(self) -> int:
        """Tokens written so far."""
        return self.documents[-1] if self.documents else 0

    def add(self, batch: list[_Item], encoded: Sequence[Ids], bos: int, eos: int) -> None:
        """Append the documents of a batch. Raises TokenizerError for a token outside the vocabulary."""
        flat = array("q")
        before = self.tokens
        for item, ids in zip(batch, encoded, strict=True):
            flat.append(bos)
            if isinstance(ids, np.ndarray):
                flat.frombytes(ids.astype(np.int64, copy=False).tobytes())
            else:
                flat.extend(ids)
            flat.append(eos)
            self.documents.append(before + len(flat))
            self.sizes.append(item.size)
            self._extra.append(item.times - 1)
        tokens = np.frombuffer(flat, np.int64)
        if tokens.min() < 0 or tokens.max() >= self._vocab_size:
            reason = f"a token number lies outside the vocabulary of {self._vocab_size}"
            raise TokenizerError(reason, where="packing", mend="use the vocabulary size of the tokenizer itself")
        self._file.write(tokens.astype(self._dtype).tobytes())

    def repeat(self) -> None:
        """Append the documents that are seen more than once: the second time of each, then the third, …"""
        extra = np.frombuffer(self._extra, np.uint16).copy()
        ends = np.frombuffer(self.documents, np.uint64).astype(np.int64)
        starts = np.concatenate([[0], ends[:-1]]).astype(np.int64)
        sizes = np.frombuffer(self.sizes, np.uint32).copy()
        for time in range(int(extra.max(initial=0))):
            again = np.flatnonzero(extra > time)
            # Neighbours lie side by side in the file too, so runs of them are copied as one.
            for run in np.split(again, np.flatnonzero(np.diff(again) > 1) + 1):
                first, last = int(run[0]), int(run[-1])
                shift = self.tokens - int(starts[first])
                self._copy(int(starts[first]), int(ends[last]))
                self.documents.extend((ends[first : last + 1] + shift).tolist())
                self.sizes.extend(sizes[first : last + 1].tolist())

    def _copy(self, start: int, end: int) -> None:
        width = self._dtype.itemsize
        while start < end:
            step = min(_COPY_TOKENS, end - start)
            self._file.seek(start * width)
            data = self._file.read(step * width)
            self._file.seek(0, 2)
            self._file.write(data)
            start += step

    def __exit__(self, kind: type[BaseException] | None, _: object, __: TracebackType | None) -> None:
        self._file.close()
        if kind is None:
            offsets = np.concatenate([np.zeros(1, np.uint64), np.frombuffer(self.documents, np.uint64)])
            np.save(self._out / f"{self._split}.documents.npy", offsets)
            np.save(self._out / f"{self._split}.bytes.npy", np.frombuffer(self.sizes, np.uint32))


class Shards:
    """One packed split, mapped into memory.

    tokens: all token numbers. documents: uint64 (n + 1,), where each document begins in `tokens`.
    bytes: uint32 (n,), UTF-8 bytes of each. manifest: what `pack` returned.
    Raises TokenizerError if the shards were made with another tokenizer than `tokenizer_hash`, CorpusError if
    they are absent, incomplete or damaged.
    """

    def __init__(self, path: Path | str, split: str, tokenizer_hash: str) -> None:
        self.path, self.split = Path(path), split
        where = str(self.path / f"{split}.json")
        mend = "delete the folder and run again"
        try:
            self.manifest: dict[str, Any] = read_json(where)
            known = self.manifest["tokenizer"]
            total, documents = int(self.manifest["tokens"]), int(self.manifest["documents"])
        except (OSError, KeyError, TypeError, ValueError, LilliputError) as error:
            raise CorpusError(f"no readable shards: {error}", where=where, mend=mend) from None
        if known != tokenizer_hash:
            reason = f"these shards were made with the tokenizer {known[:12]}, not with {tokenizer_hash[:12]}"
            raise TokenizerError(reason, where=where, mend="pack the corpus again with this tokenizer")
        try:
            self._open(total, documents)
            self.documents: NDArray[np.uint64] = np.load(self.path / f"{split}.documents.npy", mmap_mode="r")
            self.bytes: NDArray[np.uint32] = np.load(self.path / f"{split}.bytes.npy", mmap_mode="r")
            if len(self.documents) != documents + 1 or len(self.bytes) != documents:
                raise ValueError("the document offsets do not fit the totals")
            if int(self.documents[-1]) != total:
                raise ValueError("the document offsets do not end where the tokens end")
        except (OSError, KeyError, TypeError, ValueError) as error:
            raise CorpusError(f"incomplete or damaged shards: {error}", where=where, mend=mend) from None

    def _open(self, total: int, documents: int) -> None:
        """Map what the positions hold. Raises ValueError where its size is not that of the totals."""
        dtype = np.dtype(self.manifest["dtype"]).newbyteorder("<")
        file = self.path / f"{self.split}.tokens"
        size = file.stat().st_size
        if size != total * dtype.itemsize:
            raise ValueError(f"{file.name} has {size} bytes, not {total * dtype.itemsize}")
        self.tokens = np.memmap(file, dtype=dtype, mode="r")

    def windows(self, context: int) -> int:
        """How many windows of `context` + 1 tokens, overlapping by one, the stream holds.

        Raises CorpusError if there is not one.
        """
        found = (len(self.tokens) - 1) // context
        if found < 1:
            reason = f"the {self.split} split has {len(self.tokens)} tokens, fewer than one window of {context + 1}"
            mend = f"name more text, or set model.context={max(8, (len(self.tokens) - 1) // 2)} or less"
            raise CorpusError(reason, where=str(self.path), mend=mend)
        return found

    def batch(self, indices: NDArray[Any], context: int) -> NDArray[np.int64]:
        """Windows by number: (B,) -> token numbers int64 (B, context + 1), inputs [:, :-1], targets [:, 1:]."""
        starts = np.asarray(indices, np.int64) * context
        windows: NDArray[np.int64] = self.tokens[starts[:, None] + np.arange(context + 1)].astype(np.int64)
        return windows

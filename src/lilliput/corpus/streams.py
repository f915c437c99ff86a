"""Bytes of one file as a stream: decompressed, checked, made valid UTF-8, cut into lines; never all at once."""

from __future__ import annotations

import codecs
import gzip
import io
import lzma
import re
import zlib
from collections.abc import Iterator
from itertools import chain
from typing import BinaryIO, Protocol, cast

from lilliput.corpus.files import SourceFile
from lilliput.corpus.report import ReadReport
from lilliput.errors import CorpusError, MissingExtra

CHUNK = 1 << 18
# One row larger than this is no document; parsing it would take several times as much memory.
LONGEST_LINE = 64 << 20
# A zstd block of 4 bytes may stand for 128 kB, so a small step bounds what one step can give (32 MB).
_ZST_STEP = 1 << 10
_HEAD = 1 << 16
# From this share of control characters and invalid bytes on, a head is no UTF-8 text with a few flaws.
_NOT_TEXT = 0.2
_NOT_TEXT_IF_MARKED = 0.1
_FEW = 16
_CONTROLS = bytes(set(range(32)) - set(b"\t\n\v\f\r\x1b"))
_ESCAPED = re.compile("[\udc80-\udcff]")
_BOMS = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
_MAGIC = {b"\x1f\x8b": ".gz", b"\xfd7zXZ\x00": ".xz", b"\x28\xb5\x2f\xfd": ".zst", b"PAR1": ".parquet"}


class _Readable(Protocol):
    def read1(self, size: int = ..., /) -> bytes: ...


class _ZstdStream:
    """A zstd file of any number of frames, read a step at a time; a missing end raises EOFError.

    The package's own stream reader ends silently where a file was cut off, hence this one.
    """

    def __init__(self, file: BinaryIO) -> None:
        try:
            import zstandard
        except ImportError:
            raise MissingExtra("zstandard", "data") from None
        self._file = file
        self._decompressor = zstandard.ZstdDecompressor()
        self._frame = self._decompressor.decompressobj()
        self._inside = False
        self._left = b""

    def read1(self, size: int = CHUNK, /) -> bytes:
        while True:
            step = self._left or self._file.read(_ZST_STEP)
            self._left = b""
            if not step:
                if self._inside:
                    raise EOFError
                return b""
            self._inside = True
            data = self._frame.decompress(step)
            if self._frame.eof:
                self._left = self._frame.unused_data
                self._frame = self._decompressor.decompressobj()
                self._inside = False
            if data:
                return data


def _corruptions() -> tuple[type[Exception], ...]:
    found: list[type[Exception]] = [lzma.LZMAError, zlib.error, gzip.BadGzipFile]
    try:
        import zstandard
    except ImportError:
        return tuple(found)
    return (*found, zstandard.ZstdError)


def _open(raw: BinaryIO, compression: str) -> _Readable:
    if compression == ".gz":
        return gzip.GzipFile(fileobj=raw)
    if compression == ".xz":
        return lzma.LZMAFile(raw)
    if compression == ".zst":
        return _ZstdStream(raw)
    return cast(io.BufferedReader, raw)


def read_chunks(file: SourceFile, report: ReadReport) -> Iterator[bytes]:
    """The file's bytes in chunks of bounded size, decompressed.

    A compressed file that was cut off gives its readable part and is counted. Raises CorpusError for a
    damaged archive, one that breaks off before any byte could be read, and a file that cannot be opened.
    """
    base, given = report.position, 0
    try:
        raw = open(file.path, "rb")  # noqa: SIM115, closed below
    except OSError as error:
        raise CorpusError(f"cannot read the file: {error.strerror}", where=file.where, mend="check it") from None
    with raw:
        stream = _open(raw, file.compression)
        while True:
            try:
                data = stream.read1(CHUNK)
            except EOFError:
                if not given:
                    mend = "fetch the file again"
                    raise CorpusError("the archive breaks off at once", where=file.where, mend=mend) from None
                report.note("truncated", f"{file.where}, after {given} bytes of text")
                break
            except _corruptions() as error:
                mend = f"fetch the file again, or check that it really is {file.compression}"
                reason = f"the archive is damaged after {given} bytes of text: {error}"
                raise CorpusError(reason, where=file.where, mend=mend) from None
            if not data:
                break
            given += len(data)
            report.position = base + raw.tell()
            yield data
    report.position = base + file.size


def check_head(head: bytes, where: str) -> None:
    """Raise CorpusError if a file's first bytes are UTF-16, another encoding, or no text at all."""
    head = head[:_HEAD]
    controls = len(head) - len(head.translate(None, _CONTROLS))
    escaped = codecs.getincrementaldecoder("utf-8")("surrogateescape").decode(head)
    invalid = len(_ESCAPED.findall(escaped))
    odd = controls + invalid
    marked = head.startswith(_BOMS)
    if odd < (_NOT_TEXT_IF_MARKED if marked else _NOT_TEXT) * len(head) or (odd < _FEW and not marked):
        return
    even_nuls, odd_nuls = head[0::2].count(0), head[1::2].count(0)
    if marked or min(even_nuls, odd_nuls) * 8 < max(even_nuls, odd_nuls):
        mend = "iconv -f UTF-16 -t UTF-8 FILE > NEW, then name the new file"
        raise CorpusError("the file is UTF-16, not UTF-8", where=where, mend=mend)
    kind = next((ending for magic, ending in _MAGIC.items() if head.startswith(magic)), None)
    if kind:
        raise CorpusError(f"the file is {kind}, not text", where=where, mend=f"let its name end in {kind}")
    if controls > len(head) // 20:
        raise CorpusError("the file is binary, not text", where=where, mend="leave it out of the source")
    share = 100 * invalid // len(head)
    mend = "iconv -f ENCODING -t UTF-8 FILE > NEW, then name the new file"
    raise CorpusError(f"the file is not UTF-8 ({share} % of its start is invalid)", where=where, mend=mend)


def clean(chunks: Iterator[bytes], report: ReadReport, where: str) -> Iterator[bytes]:
    """The same bytes as valid UTF-8: a leading byte-order mark goes, each invalid byte becomes U+FFFD.

    Every chunk ends between characters. Raises CorpusError as `check_head` does.
    """
    decoder = codecs.getincrementaldecoder("utf-8")("surrogateescape")
    head = b""
    for chunk in chunks:
        head += chunk
        if len(head) >= _HEAD:
            break
    check_head(head, where)
    for chunk in chain([head.removeprefix(codecs.BOM_UTF8)], chunks):
        yield _valid(decoder.decode(chunk), report, where)
    yield _valid(decoder.decode(b"", final=True), report, where)


def _valid(text: str, report: ReadReport, where: str) -> bytes:
    """Text from `surrogateescape` as UTF-8; what could not be decoded is counted and replaced."""
    try:
        return text.encode()
    except UnicodeEncodeError:
        text, n = _ESCAPED.subn("\ufffd", text)
        report.note("invalid_utf8", where, n, n)
        return text.encode()


def lines(chunks: Iterator[bytes], report: ReadReport, where: str) -> Iterator[bytes]:
    """The lines of a stream without their ends; those over `LONGEST_LINE` are skipped and counted."""
    parts: list[bytes] = []
    size = 0
    for chunk in chunks:
        first, *rest = chunk.split(b"\n")
        size += len(first)
        # Once a line is too long only its size is kept.
        parts = [*parts, first] if size <= LONGEST_LINE else []
        if not rest:
            continue
        yield from _line(parts, size, report, where)
        *whole, last = rest
        yield from whole
        parts, size = [last], len(last)
    yield from _line(parts, size, report, where)


def _line(parts: list[bytes], size: int, report: ReadReport, where: str) -> Iterator[bytes]:
    if size > LONGEST_LINE:
        report.note("long_lines", where, size=size)
    elif size:
        yield b"".join(parts)

"""Which format a tokenizer's file has, told by its content, and which file of a folder holds it."""

from __future__ import annotations

import re
from pathlib import Path

from lilliput.errors import TokenizerError
from lilliput.tokenizer.llama2c import is_tokenizer_bin

# Larger files are weights or text; the largest vocabularies in use take 30 MB.
_LARGEST = 512_000_000
_RANK = re.compile(rb"[A-Za-z0-9+/]+={0,2}[ \t]+\d+\s*(?:\n|\Z)")
_PAIR = re.compile(rb"[^\s]+ [^\s]+\r?(?:\n|\Z)")
_FOREIGN = {
    b"\x89PNG": "a PNG picture",
    b"\xff\xd8\xff": "a JPEG picture",
    b"PK\x03\x04": "a zip archive (or a PyTorch file)",
    b"\x1f\x8b": "a gzip archive: unpack it",
    b"\xfd7zXZ": "an xz archive: unpack it",
    b"\x28\xb5\x2f\xfd": "a zst archive: unpack it",
    b"GGUF": "a GGUF model",
    b"%PDF": "a PDF document",
    b"\x80\x04": "a pickle, which is not read",
    b"version https://git-lfs": "a pointer to a file that git-lfs has not fetched",
}
# What a folder's tokenizer may be called, the most certain first.
_NAMES = ("tokenizer.json", "tokenizer.model", "*.tiktoken", "*.model", "vocab.json", "vocab.txt", "tok*.bin")
_MEND = (
    "name a tokenizer.json, a SentencePiece .model, a tiktoken file, a WordPiece vocab.txt, a vocab.json with its "
    "merges.txt, a llama2.c tokenizer.bin, or a folder that holds one"
)


def find_file(path: Path) -> Path:
    """The file itself, or the one that holds a folder's tokenizer. Raises TokenizerError where there is none."""
    if not path.is_dir():
        if not path.is_file():
            raise TokenizerError("no tokenizer there", where=str(path), mend=_MEND)
        return path
    for pattern in _NAMES:
        found = sorted(file for file in path.glob(pattern) if file.is_file())
        if pattern == "vocab.json" and not (path / "merges.txt").is_file():
            continue
        if len(found) > 1:
            names = ", ".join(file.name for file in found)
            raise TokenizerError(f"several tokenizers there: {names}", where=str(path), mend="name one of the files")
        if found:
            return found[0]
    if (path / "units.json").is_file():
        reason = "a byte-pooled model has no vocabulary: nothing of it can be cut down, counted or inherited"
        mend = "give a model with a tokenizer, or train this one further: lilliput make from=DIR"
        raise TokenizerError(reason, where=str(path), mend=mend)
    raise TokenizerError("no tokenizer there", where=str(path / "tokenizer.json"), mend=_MEND)


def read_bytes(file: Path) -> bytes:
    """A file's content. Raises TokenizerError where it cannot be read or is far too large for a tokenizer."""
    try:
        size = file.stat().st_size
        if size > _LARGEST:
            raise TokenizerError(f"{size / 1e6:.0f} MB are no tokenizer", where=str(file), mend=_MEND)
        return file.read_bytes()
    except OSError as error:
        raise TokenizerError(f"cannot be read: {error.strerror}", where=str(file), mend="check the file") from None


def format_of(data: bytes, where: str) -> str:
    """`json`, `sentencepiece`, `llama2c`, `tiktoken`, `wordpiece` or `merges`. Raises TokenizerError for another."""
    if not data.strip():
        raise TokenizerError("not a tokenizer: the file is empty", where=where, mend=_MEND)
    if data.removeprefix(b"\xef\xbb\xbf").lstrip()[:1] == b"{":
        return "json"
    if _RANK.match(data.lstrip()):
        return "tiktoken"
    foreign = next((what for magic, what in _FOREIGN.items() if data.startswith(magic)), None)
    if data[8:10] == b'{"':
        foreign = "a safetensors file"
    if foreign:
        raise TokenizerError(f"not a tokenizer: {foreign}", where=where, mend=_MEND)
    # A SentencePiece model begins with its first piece: a message (field 1) with a string and, often, a score.
    if data[:1] == b"\n" and data[2:3] == b"\n":
        return "sentencepiece"
    if is_tokenizer_bin(data):
        return "llama2c"
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError:
        raise TokenizerError("not a tokenizer of a known format", where=where, mend=_MEND) from None
    if text.startswith("#version"):
        return "merges"
    if "\0" not in text and (re.search(r"^\[UNK\]\r?$", text, re.MULTILINE) or re.search("^##.", text, re.MULTILINE)):
        return "wordpiece"
    if _PAIR.match(data):
        return "merges"
    raise TokenizerError("not a tokenizer of a known format", where=where, mend=_MEND)

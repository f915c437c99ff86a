"""A tokenizer as its file defines it, whatever the file's format.

Everything becomes the definition that a `tokenizer.json` holds (the format of the `tokenizers` package), with
what the files beside it declare; the rest of the house knows no other format.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer as Backend

from lilliput.errors import TokenizerError
from lilliput.progress import warn_once
from lilliput.store import canonical_hash
from lilliput.tokenizer.definition import Read
from lilliput.tokenizer.fast import add_declared, parse_json, read_fast, read_pair
from lilliput.tokenizer.formats import find_file, format_of, read_bytes
from lilliput.tokenizer.llama2c import read_tokenizer_bin
from lilliput.tokenizer.sentencepiece import read_sentencepiece
from lilliput.tokenizer.tiktoken import read_tiktoken
from lilliput.tokenizer.wordpiece import read_wordpiece

# What `encode` depends on; the rest of a definition concerns decoding and the default call.
DECISIVE = ("added_tokens", "normalizer", "pre_tokenizer", "model")
# Files beside a tokenizer's own that declare something of it, the most specific last.
_DECLARING = ("config.json", "generation_config.json", "special_tokens_map.json", "tokenizer_config.json")
_ADDED, _TEMPLATE = "added_tokens.json", "chat_template.jinja"
_BESIDE = (*_DECLARING, _ADDED, _TEMPLATE, "vocab.json", "merges.txt")


@dataclass(frozen=True)
class Source:
    """A tokenizer's definition.

    definition: what `tokenizer.json` holds. config: what the files beside it declare (`bos_token`,
    `chat_template`, …). where: how the person named it. notes: what was assumed in reading it.
    """

    definition: dict[str, Any]
    config: dict[str, Any]
    where: str
    notes: tuple[str, ...] = ()

    @property
    def kind(self) -> str:
        """`byte-level BPE`, `BPE` (SentencePiece's, over characters), `Unigram` or `WordPiece`."""
        kind = str(self.definition["model"]["type"])
        if kind == "BPE" and "ByteLevel" in _stages(self.definition.get("pre_tokenizer")):
            return "byte-level BPE"
        return kind

    @property
    def hash(self) -> str:
        """Of everything that decides which numbers a text gets."""
        return canonical_hash({name: self.definition.get(name) for name in DECISIVE})

    @property
    def pieces(self) -> dict[str, int]:
        """Every piece, added ones included, and its number."""
        model = self.definition["model"]
        if model["type"] == "Unigram":
            pieces = {piece: number for number, (piece, _) in enumerate(model["vocab"])}
        else:
            pieces = dict(model["vocab"])
        return pieces | {token["content"]: token["id"] for token in self.definition.get("added_tokens") or []}

    @property
    def vocab_size(self) -> int:
        """One more than the highest number."""
        return max(self.pieces.values()) + 1

    def backend(self) -> Backend:
        """The `tokenizers` tokenizer it defines; the text's special-token strings are plain text to it."""
        backend = Backend.from_str(json.dumps(self.definition, ensure_ascii=False))
        backend.encode_special_tokens = True
        backend.no_truncation()
        backend.no_padding()
        return backend


def read_source(path: Path | str, *, pattern: str | None = None, special: Sequence[str] = ()) -> Source:
    """The tokenizer in a file, or in a folder that holds one (a model directory). Its content tells the format.

    pattern: the regular expression that cuts text into words, for a tiktoken file (which holds none).
    special: names of special tokens for a tiktoken file, numbered from its end on; NAME=ID gives one its number.
    Raises TokenizerError where there is none, it is damaged, or of a format that is not known; MissingExtra where
    a SentencePiece model needs the package.
    """
    path = Path(path).expanduser()
    file = find_file(path)
    data = read_bytes(file)
    kind = format_of(data, str(file))
    if (pattern is not None or special) and kind != "tiktoken":
        mend = "leave --pattern and --special out: they are for a tiktoken file"
        raise TokenizerError(f"its file holds its own pattern and special tokens ({kind})", where=str(file), mend=mend)
    declared = _read_config(file.parent)
    if kind == "tiktoken":
        found = read_tiktoken(data, str(file), pattern, special)
    elif kind == "sentencepiece":
        found = read_sentencepiece(data, str(file))
    elif kind == "llama2c":
        found = read_tokenizer_bin(data, str(file))
    elif kind == "wordpiece":
        found = read_wordpiece(data, str(file), declared)
    else:
        found = _read_json(file, data, kind, declared)
    # In a tokenizer.json a piece may have to be declared as special; elsewhere its kind is known.
    added = {token["content"] for token in found.definition["added_tokens"]}
    known = added if kind == "json" else added | Source(found.definition, {}, str(path)).pieces.keys()
    found = add_declared(found, declared, known)
    for note in found.notes:
        warn_once(f"{path}: {note}")
    source = Source(found.definition, found.config | declared, str(path), found.notes)
    # A role given to what is no piece does not take it from the piece that the file itself gives it to.
    pieces = source.pieces
    own = {name: piece for name, piece in found.config.items() if name.endswith("_token") and piece in pieces}
    lost = {name: piece for name, piece in own.items() if content_of(declared.get(name, piece)) not in pieces}
    return replace(source, config=source.config | lost)


def read_once(path: Path | str, *, pattern: str | None = None, special: Sequence[str] = ()) -> Source:
    """`read_source`, which takes seconds for a big vocabulary; the last one read is kept and given again as long as
    its files are the same (by inode, size and times). Not to be changed by who gets it."""
    path = Path(path).expanduser()
    file = find_file(path)
    beside = (file.with_name(name) for name in _BESIDE)
    states = [(at.name, at.stat()) for at in (file, *beside) if at.is_file()]
    state = tuple((name, at.st_ino, at.st_size, at.st_mtime_ns, at.st_ctime_ns) for name, at in states)
    return _kept(path, pattern, tuple(special), state)


def forget() -> None:
    """Let go of what `read_once` keeps: a big vocabulary takes tens of megabytes."""
    _kept.cache_clear()


@lru_cache(maxsize=1)
def _kept(path: Path, pattern: str | None, special: tuple[str, ...], state: tuple[object, ...]) -> Source:
    """state: of the files, so that a changed one is read anew."""
    return read_source(path, pattern=pattern, special=special)


def content_of(token: Any) -> Any:
    """The text of a token that may be written out with its flags."""
    return token.get("content") if isinstance(token, dict) else token


def _read_json(file: Path, data: bytes, kind: str, declared: dict[str, Any]) -> Read:
    """A `tokenizer.json`, or one of a vocab.json and a merges.txt that lie beside each other."""
    if kind == "json":
        content = parse_json(data, file)
        if not content or not all(isinstance(number, int) for number in content.values()):
            return read_fast(content, str(file))
        other = file.with_name("merges.txt")
    else:
        other = file.with_name("vocab.json")
    if not other.is_file():
        mend = f"put {other.name} beside it"
        raise TokenizerError(f"not a tokenizer by itself: there is no {other.name}", where=str(file), mend=mend)
    second = read_bytes(other)
    if kind != "json":
        content, second = parse_json(second, other), data
    return read_pair(content, second.decode("utf-8", "replace"), str(file), declared)


def _stages(stage: dict[str, Any] | None) -> list[str]:
    """The types of a normaliser's or pre-tokenizer's steps."""
    if not stage:
        return []
    parts = stage.get("pretokenizers") or stage.get("normalizers")
    return [name for part in parts for name in _stages(part)] if parts else [stage["type"]]


def _read_object(file: Path) -> dict[str, Any]:
    """The JSON object in a file; empty where there is none."""
    if not file.is_file():
        return {}
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise TokenizerError(f"damaged JSON: {error}", where=str(file), mend="mend or remove it") from None
    return found if isinstance(found, dict) else {}


def _read_config(folder: Path) -> dict[str, Any]:
    """What the files beside a tokenizer.json say."""
    config: dict[str, Any] = {}
    for name in _DECLARING:
        config |= _read_object(folder / name)
    # What transformers wrote before it put these into tokenizer_config.json.
    late = {number: name for name, number in _read_object(folder / _ADDED).items()}
    if late and not config.get("added_tokens_decoder"):
        roles = {content_of(token) for name, token in config.items() if name.endswith("_token")}
        entries = {str(number): {"content": name, "special": name in roles} for number, name in late.items()}
        config["added_tokens_decoder"] = entries
    template = folder / _TEMPLATE
    if template.is_file():
        config["chat_template"] = template.read_text(encoding="utf-8")
    return config

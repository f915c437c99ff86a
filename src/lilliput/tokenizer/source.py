"""A tokenizer as its file defines it, whatever the file's format.

Everything becomes the definition that a `tokenizer.json` holds (the format of the `tokenizers` package), with
what the files beside it declare; the rest of the house knows no other format.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer as Backend

from lilliput.errors import TokenizerError
from lilliput.store import canonical_hash
from lilliput.tokenizer.sentencepiece import read_sentencepiece

# What `encode` depends on; the rest of a definition concerns decoding and the default call.
_DECISIVE = ("added_tokens", "normalizer", "pre_tokenizer", "model")


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
        return canonical_hash({name: self.definition.get(name) for name in _DECISIVE})

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
    """The tokenizer in a file, or in a folder that holds one (a model directory).

    pattern: the regular expression that cuts text into words, for a tiktoken file (which holds none).
    special: names of special tokens for a tiktoken file, numbered from its end on.
    Raises TokenizerError where there is none, it is damaged, or of a format that is not known.
    """
    path = Path(path).expanduser()
    file = path / "tokenizer.json" if path.is_dir() else path
    if not file.is_file():
        mend = "name a tokenizer.json, or a folder that holds one"
        raise TokenizerError("no tokenizer there", where=str(file), mend=mend)
    if file.suffix == ".model":
        found = read_sentencepiece(file.read_bytes(), str(file))
        return Source(found.definition, found.config | _read_config(file.parent), str(path), found.notes)
    try:
        # Through the package, so that whatever version wrote the file, merges and stages read the same.
        definition = json.loads(Backend.from_file(str(file)).to_str())
    except Exception as error:  # the package raises bare Exception for every defect
        reason = " ".join(str(error).split())[:200]
        raise TokenizerError(f"not a tokenizer: {reason}", where=str(file), mend="name another file") from None
    return Source(definition, _read_config(file.parent), str(path))


def _stages(stage: dict[str, Any] | None) -> list[str]:
    """The types of a normaliser's or pre-tokenizer's steps."""
    if not stage:
        return []
    parts = stage.get("pretokenizers") or stage.get("normalizers")
    return [name for part in parts for name in _stages(part)] if parts else [stage["type"]]


def _read_config(folder: Path) -> dict[str, Any]:
    """What the files beside a tokenizer.json say, the most specific last."""
    config: dict[str, Any] = {}
    for name in ("config.json", "generation_config.json", "special_tokens_map.json", "tokenizer_config.json"):
        file = folder / name
        if not file.is_file():
            continue
        try:
            found = json.loads(file.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise TokenizerError(f"damaged JSON: {error}", where=str(file), mend="mend or remove it") from None
        if isinstance(found, dict):
            config |= found
    template = folder / "chat_template.jinja"
    if template.is_file():
        config["chat_template"] = template.read_text(encoding="utf-8")
    return config

"""Parts from which the readers build a definition: the content of a `tokenizer.json`."""

from __future__ import annotations

import json
from typing import Any, NamedTuple

from tokenizers import Tokenizer as Backend


class Read(NamedTuple):
    """What a reader finds in a file: the definition, what the file declares, and what had to be assumed."""

    definition: dict[str, Any]
    config: dict[str, Any]
    notes: tuple[str, ...] = ()


def canonical(definition: dict[str, Any]) -> dict[str, Any]:
    """The definition as the `tokenizers` package writes it. Raises the package's bare Exception if it has a defect."""
    result: dict[str, Any] = json.loads(Backend.from_str(json.dumps(definition, ensure_ascii=False)).to_str())
    return result


def compose(
    model: dict[str, Any],
    *,
    normalizer: dict[str, Any] | None = None,
    pre_tokenizer: dict[str, Any] | None = None,
    post_processor: dict[str, Any] | None = None,
    decoder: dict[str, Any] | None = None,
    special: dict[str, int] | None = None,
) -> dict[str, Any]:
    """A canonical definition of these stages. special: the special pieces and their numbers."""
    added = [added_token(piece, number) for piece, number in sorted((special or {}).items(), key=lambda item: item[1])]
    return canonical(
        {
            "version": "1.0",
            "truncation": None,
            "padding": None,
            "added_tokens": added,
            "normalizer": normalizer,
            "pre_tokenizer": pre_tokenizer,
            "post_processor": post_processor,
            "decoder": decoder,
            "model": model,
        }
    )


def bpe(vocab: dict[str, int], merges: list[list[str]], **changes: Any) -> dict[str, Any]:
    """The `model` of a byte-pair encoding. changes: what differs from a plain byte-level one."""
    return {
        "type": "BPE",
        "dropout": None,
        "unk_token": None,
        "continuing_subword_prefix": None,
        "end_of_word_suffix": None,
        "fuse_unk": False,
        "byte_fallback": False,
        "ignore_merges": False,
        **changes,
        "vocab": vocab,
        "merges": merges,
    }


def added_token(piece: str, number: int, *, special: bool = True) -> dict[str, Any]:
    """An entry of `added_tokens`, matched as it stands."""
    return {
        "id": number,
        "content": piece,
        "single_word": False,
        "lstrip": False,
        "rstrip": False,
        "normalized": False,
        "special": special,
    }


def sequence(kind: str, steps: list[dict[str, Any]]) -> dict[str, Any] | None:
    """One stage of these steps. kind: `normalizers`, `pretokenizers` or `decoders`."""
    if len(steps) < 2:
        return steps[0] if steps else None
    return {"type": "Sequence", kind: steps}


def replace(pattern: str, content: str, *, regex: bool = False) -> dict[str, Any]:
    """A normaliser or decoder step that puts `content` in the place of each match."""
    return {"type": "Replace", "pattern": {"Regex" if regex else "String": pattern}, "content": content}


def split(pattern: str, behavior: str) -> dict[str, Any]:
    """A pre-tokenizer step that cuts by a regular expression."""
    return {"type": "Split", "pattern": {"Regex": pattern}, "behavior": behavior, "invert": False}


def begin_with(first: str, number: int, last: tuple[str, int] | None = None) -> dict[str, Any]:
    """A post-processor that puts `first` before each text and, if there is one, `last` after it."""
    pieces = {first: number} | (dict([last]) if last else {})

    def around(text: str, kind: int) -> list[dict[str, Any]]:
        def mark(piece: str) -> dict[str, Any]:
            return {"SpecialToken": {"id": piece, "type_id": kind}}

        # A second text has only the end before it, where there is one, as BERT reads pairs.
        before = [mark(first)] if kind == 0 or not last else []
        return [*before, {"Sequence": {"id": text, "type_id": kind}}, *([mark(last[0])] if last else [])]

    return {
        "type": "TemplateProcessing",
        "single": around("A", 0),
        "pair": around("A", 0) + around("B", 1),
        "special_tokens": {piece: {"id": piece, "ids": [at], "tokens": [piece]} for piece, at in pieces.items()},
    }

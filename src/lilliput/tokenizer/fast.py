"""Reading Hugging Face's files: `tokenizer.json`, and GPT-2's pair of `vocab.json` and `merges.txt`."""

from __future__ import annotations

import json
from collections.abc import Collection
from pathlib import Path
from typing import Any

from lilliput.errors import TokenizerError
from lilliput.tokenizer.definition import Read, added_token, bpe, canonical, compose

_KINDS = ("BPE", "Unigram", "WordPiece")
# Pieces that no merge makes, beyond which a list of merges is taken for a part of one.
_MOST_SPECIAL = 300
_SINGLE = ("bos_token", "eos_token", "unk_token", "pad_token", "mask_token", "cls_token", "sep_token")


def read_fast(definition: dict[str, Any], where: str) -> Read:
    """A `tokenizer.json`. Raises TokenizerError where it is damaged or its model is of a kind that is not known."""
    model = definition.get("model")
    kind = model.get("type") if isinstance(model, dict) else None
    if isinstance(kind, str) and kind not in _KINDS:
        mend = f"name a tokenizer whose model is one of {', '.join(_KINDS)}"
        raise TokenizerError(f"a tokenizer of the kind {kind} is not known", where=where, mend=mend)
    try:
        # Through the package, so that whatever version wrote the file, merges and stages read the same.
        read = canonical(definition)
    except Exception as error:  # the package raises bare Exception for every defect
        reason = " ".join(str(error).split())[:200]
        raise TokenizerError(f"not a tokenizer: {reason}", where=where, mend="name another file") from None
    if read["model"]["type"] not in _KINDS:
        mend = f"name a tokenizer whose model is one of {', '.join(_KINDS)}"
        raise TokenizerError(f"a tokenizer of the kind {read['model']['type']} is not known", where=where, mend=mend)
    return Read(read, {})


def add_declared(read: Read, declared: dict[str, Any], pieces: Collection[str]) -> Read:
    """With the added tokens that only the `tokenizer_config.json` beside it knows (`added_tokens_decoder`).

    pieces: those it has. The package numbers added tokens from the model's size on; a note names those that the
    configuration wants elsewhere.
    """
    entries = declared.get("added_tokens_decoder")
    late = []
    for number, entry in entries.items() if isinstance(entries, dict) else ():
        name = entry.get("content") if isinstance(entry, dict) else None
        if isinstance(name, str) and name and name not in pieces and str(number).isdecimal():
            plain = added_token(name, int(number))
            late.append(plain | {key: entry[key] for key in plain if isinstance(entry.get(key), bool)})
    if not late:
        return read
    late.sort(key=lambda token: int(token["id"]))
    definition = canonical(read.definition | {"added_tokens": [*read.definition["added_tokens"], *late]})
    numbers = {token["content"]: token["id"] for token in definition["added_tokens"]}
    moved = [token["content"] for token in late if numbers.get(token["content"]) != token["id"]]
    notes = (f"added tokens have other numbers than tokenizer_config.json says: {', '.join(moved)}",) if moved else ()
    return Read(definition, read.config, read.notes + notes)


def read_pair(vocab: dict[str, Any], merges: str, where: str, declared: dict[str, Any]) -> Read:
    """GPT-2's form: byte-level pieces with their numbers, and the merges in order.

    A piece of several characters that no merge makes is special, as are those that the files beside it name.
    Raises TokenizerError where they are damaged or do not belong together.
    """
    mend = "name a vocab.json and the merges.txt that was made with it"
    if not all(isinstance(number, int) for number in vocab.values()) or len(set(vocab.values())) < len(vocab):
        raise TokenizerError("not pieces with a number each", where=where, mend=mend)
    pairs = []
    for number, line in enumerate(merges.split("\n"), 1):
        parts = line.rstrip("\r").split(" ")
        if parts == [""] or (number == 1 and line.startswith("#version")):
            continue
        if len(parts) != 2 or not {parts[0], parts[1], "".join(parts)} <= vocab.keys():
            reason = f"line {number} of the merges is not two pieces that make a third: {line[:60]!r}"
            raise TokenizerError(reason, where=where, mend=mend)
        pairs.append(parts)
    special = _special_of(vocab, pairs, declared)
    if len(special) > max(_MOST_SPECIAL, len(vocab) // 50):
        reason = f"{len(special)} of {len(vocab)} pieces are made by no merge, so the merges are not whole"
        raise TokenizerError(reason, where=where, mend=mend)
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    prefix = byte_level | {"add_prefix_space": declared.get("add_prefix_space") is True}
    model = bpe(vocab, pairs)
    definition = compose(
        model, pre_tokenizer=prefix, post_processor=byte_level, decoder=byte_level, special=special
    )
    return Read(definition, {})


def _special_of(vocab: dict[str, int], pairs: list[list[str]], declared: dict[str, Any]) -> dict[str, int]:
    made = {"".join(pair) for pair in pairs}
    names = {piece for piece in vocab if len(piece) > 1 and piece not in made}
    for role in _SINGLE:
        named = declared.get(role)
        named = named.get("content") if isinstance(named, dict) else named
        names |= {named} if isinstance(named, str) else set()
    return {name: vocab[name] for name in names if name in vocab}


def parse_json(data: bytes, where: Path | str) -> dict[str, Any]:
    """A file's JSON object. Raises TokenizerError if it is damaged or no object."""
    try:
        found = json.loads(data.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        reason = " ".join(str(error).split())[:200]
        raise TokenizerError(f"not a tokenizer: {reason}", where=str(where), mend="name another file") from None
    if not isinstance(found, dict):
        raise TokenizerError("not a tokenizer: no JSON object", where=str(where), mend="name another file")
    return found

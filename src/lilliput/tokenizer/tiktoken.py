"""Reading a tiktoken file: lines of a token in base64 and its rank, nothing else."""

from __future__ import annotations

import binascii
import json
import re
from base64 import b64decode
from collections.abc import Sequence
from typing import Any

from tokenizers import Tokenizer as Backend

from lilliput.errors import TokenizerError
from lilliput.tokenizer.definition import Read, begin_with, bpe, compose, sequence, split
from lilliput.tokenizer.merges import merge_list
from lilliput.tokenizer.patterns import CL100K, for_tokenizers, recognise

_MEND = "name a tiktoken file, whole"
_BOS_NAMES = ("<|begin_of_text|>", "<|startoftext|>", "<s>", "<|endoftext|>", "<|im_start|>")
_EOS_NAMES = ("<|end_of_text|>", "<|endoftext|>", "</s>", "<|im_end|>")
_NUMBERED = re.compile(r"(.+)=(\d{1,9})", re.DOTALL)


def read_tiktoken(data: bytes, where: str, pattern: str | None = None, special: Sequence[str] = ()) -> Read:
    """The definition that gives tiktoken's numbers for these ranks.

    pattern: what cuts text into words; None: that of the vocabulary if it is a known one, else GPT-4's with a note.
    special: names of special tokens, numbered from the end on; `NAME=ID` gives one its number.
    Raises TokenizerError for a malformed line, a rank or token met twice, a missing rank or byte, a clash.
    """
    tokens = _parse(data, where)
    notes: tuple[str, ...] = ()
    known = recognise(tokens)
    if pattern is None:
        if known is None:
            notes = ("the file holds no pattern and is no known vocabulary: GPT-4's pattern is taken (--pattern)",)
        chosen = known[1] if known else CL100K
    else:
        chosen = for_tokenizers(pattern)
    vocab = {spell(token): rank for rank, token in tokens}
    specials = _specials(special, vocab)
    _check_gaps(tokens, specials, where)
    definition = _define(vocab, chosen, specials)
    return Read(definition, _roles(specials), notes)


def spell(token: bytes) -> str:
    """The characters by which a byte-level BPE writes bytes: GPT-2's `bytes_to_unicode`."""
    return token.decode("latin-1").translate(_CHARACTERS)


def _byte_characters() -> dict[int, str]:
    plain = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in plain]
    return {byte: chr(byte) for byte in plain} | {byte: chr(256 + at) for at, byte in enumerate(others)}


_CHARACTERS = _byte_characters()


def _parse(data: bytes, where: str) -> list[tuple[int, bytes]]:
    """(rank, token) in order of rank."""
    ranks: dict[int, bytes] = {}
    seen: set[bytes] = set()
    for number, line in enumerate(data.splitlines(), 1):
        if not line.strip():
            continue
        at = f"{where}, line {number}"
        parts = line.split()
        try:
            token, rank = b64decode(parts[0], validate=True), int(parts[1])
        except (IndexError, ValueError, binascii.Error):
            token, rank = b"", -1
        if len(parts) != 2 or rank < 0 or not token:
            shown = line[:40].decode("ascii", "backslashreplace")
            raise TokenizerError(f"not a token in base64 and its rank: {shown!r}", where=at, mend=_MEND)
        if rank in ranks or token in seen:
            twice = f"rank {rank}" if rank in ranks else f"token {parts[0].decode()}"
            raise TokenizerError(f"{twice} is there twice", where=at, mend=_MEND)
        ranks[rank] = token
        seen.add(token)
    absent = [byte for byte in range(256) if bytes([byte]) not in seen]
    if absent:
        reason = f"{len(absent)} of the 256 bytes have no token (the first: {absent[0]:#04x})"
        raise TokenizerError(reason, where=where, mend=_MEND)
    return sorted(ranks.items())


def _specials(names: Sequence[str], vocab: dict[str, int]) -> dict[str, int]:
    taken = {number: piece for piece, number in vocab.items()}
    free = max(taken) + 1
    found: dict[str, int] = {}
    for entry in names:
        numbered = _NUMBERED.fullmatch(entry)
        name, number = (numbered[1], int(numbered[2])) if numbered else (entry, free)
        if not name:
            raise TokenizerError("a special token has no name", where="--special", mend="--special NAME or NAME=ID")
        if name in found or spell(name.encode()) in vocab:
            mend = "name another, or leave it out"
            raise TokenizerError(f"{name} is a token already", where="--special", mend=mend)
        if number in taken:
            mend = f"--special {name}={free}, or without a number"
            raise TokenizerError(f"{name} cannot be {number}: that is {taken[number]}", where="--special", mend=mend)
        found[name] = number
        taken[number] = name
        free = max(free, number + 1)
    return found


def _check_gaps(tokens: list[tuple[int, bytes]], specials: dict[str, int], where: str) -> None:
    """Every rank below the highest is a token's or a special token's."""
    missing = set(range(tokens[-1][0])) - {rank for rank, _ in tokens} - set(specials.values())
    if missing:
        first = min(missing)
        mend = f"name a whole file, or what that number is: --special NAME={first}"
        raise TokenizerError(f"{len(missing)} ranks are missing (the first: {first})", where=where, mend=mend)


def _define(vocab: dict[str, int], pattern: str, specials: dict[str, int]) -> dict[str, Any]:
    # `tokenizers` numbers added tokens from the model's size on, whatever they ask for.
    follow = list(specials.values()) == list(range(len(vocab), len(vocab) + len(specials)))
    pieces = vocab if follow else vocab | specials
    merges = merge_list((piece for piece in vocab if len(piece) > 1), vocab.keys())
    # tiktoken looks a whole word up before it joins anything.
    model = bpe(pieces, merges, ignore_merges=True)
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    first = next((name for name in _BOS_NAMES if name in specials), None)
    definition = compose(
        model,
        pre_tokenizer=sequence("pretokenizers", [split(pattern, "Isolated"), byte_level]),
        post_processor=begin_with(first, specials[first]) if first else byte_level,
        decoder=byte_level,
        special=specials,
    )
    if not follow:
        _check_unreadable(definition, specials)
    return definition


def _check_unreadable(definition: dict[str, Any], specials: dict[str, int]) -> None:
    """No special token that stands among the model's pieces is a word of text."""
    words = Backend.from_str(json.dumps(definition, ensure_ascii=False)).pre_tokenizer
    for name, number in specials.items():
        if len(words.pre_tokenize_str(name)) < 2:
            reason = f"{name} is a word of text, and as {number} it could not be told from one"
            raise TokenizerError(reason, where="--special", mend=f"--special {name}, without a number, at the end")


def _roles(specials: dict[str, int]) -> dict[str, Any]:
    roles = {"bos_token": _BOS_NAMES, "eos_token": _EOS_NAMES}
    found = {role: next((name for name in names if name in specials), None) for role, names in roles.items()}
    return {role: name for role, name in found.items() if name}

"""Reading llama2.c's `tokenizer.bin`: pieces with scores, in order of their numbers.

The file is the length in bytes of the longest piece (int32), then for each piece its score (float32), its length in
bytes (int32) and its text, all little-endian. It says neither what kind a piece is nor how text is prepared, so that
is what llama2.c's `run.c` does: a blank before a text that is not empty; each character its piece or, where it has
none, its bytes' pieces; then again and again the two neighbours whose text is the piece of the highest score become
that piece, the leftmost of equals. Blanks are blanks here: U+2581 is a character like any other.

Where `run.c` would go wrong, this does what SentencePiece does, which made the training text, and a note says so:

- Without byte pieces it writes numbers of other pieces for an unknown character; here it is `<unk>`, one for a run.
- Without a piece for the blank it reads before its vocabulary begins; here nothing is put before the text.
- It joins text to the names of control and byte pieces, if other pieces spell them; here no text gives these.

A text ends for `run.c` at its first U+0000; here it goes on. Extra blanks, which SentencePiece may have taken out of
the training text, stay, as in `run.c`.
"""

from __future__ import annotations

import math
import struct
from collections import Counter, defaultdict
from dataclasses import dataclass
from typing import Any

from lilliput.errors import TokenizerError
from lilliput.tokenizer.definition import Read, begin_with, bpe, compose, sequence, split
from lilliput.tokenizer.merges import merge_list
from lilliput.tokenizer.spelling import BLANK

_MEND = "name a tokenizer.bin that llama2.c's tokenizer.py wrote, whole"
_HEAD = struct.Struct("<ifi")  # the longest piece's length, then the first piece's score and length
_PIECE = struct.Struct("<fi")
# Bytes of a piece at most, and the least that a score is, if not 0: other files give smaller numbers.
_LONGEST, _LEAST = 1 << 16, 1e-30
# run.c joins nothing to a piece of this score or less.
_NEVER = -1e10
_UNKNOWN = "<unk>"
# By role: what it is called here, and the number that it usually has. llama2.c writes them between line breaks.
_ENDS = {"bos_token": ("<s>", 1), "eos_token": ("</s>", 2)}
_NAMES = {"unk_token": _UNKNOWN} | {role: name for role, (name, _) in _ENDS.items()}
_BYTES = [f"<0x{byte:02X}>" for byte in range(256)]
_FIRST_BYTE = 3


@dataclass(frozen=True)
class _Pieces:
    """numbers: of every piece, as the file writes it. scores: of those that text may be joined to. roles: which piece
    the unknown, begin and end of a text are. bytes: the byte pieces there are."""

    numbers: dict[str, int]
    scores: dict[str, float]
    roles: dict[str, str]
    bytes: list[str]

    @property
    def apart(self) -> set[str]:
        """Pieces that no join gives or takes."""
        return {*self.roles.values(), *self.bytes}

    @property
    def names(self) -> dict[str, str]:
        """What the pieces of `roles` are called here: without line breaks, unless another piece has that name."""
        return {
            role: _NAMES[role] if _NAMES[role] not in self.numbers else name for role, name in self.roles.items()
        }


def is_tokenizer_bin(data: bytes) -> bool:
    """Whether a file that begins with `data` is a tokenizer.bin: told by its first piece."""
    if len(data) <= _HEAD.size:
        return False
    longest, score, size = _HEAD.unpack_from(data)
    sane = 0 < size <= longest < _LONGEST and (score == 0 or abs(score) > _LEAST) and math.isfinite(score)
    if not sane or len(data) < _HEAD.size + size:
        return False
    try:
        return bool(data[_HEAD.size : _HEAD.size + size].decode("utf-8"))
    except UnicodeDecodeError:
        return False


def read_tokenizer_bin(data: bytes, where: str) -> Read:
    """The definition that gives run.c's numbers. Raises TokenizerError where the file is cut off or damaged, or its
    pieces are none that a text can be mapped to safely."""
    pieces = _pieces_of(_parse(data, where), where)
    scores, apart = pieces.scores, pieces.apart
    joined = sorted((name for name in scores if len(name) > 1), key=lambda name: (-scores[name], -len(name)))
    merges = merge_list(joined, pieces.numbers.keys() - apart)
    config, prefix = pieces.names, " " in pieces.numbers
    plain = {pieces.roles[role]: name for role, name in config.items()}
    numbers = {plain.get(name, name): number for name, number in pieces.numbers.items()}
    first = config.get("bos_token")
    model = bpe(
        numbers, merges, unk_token=config.get("unk_token"), fuse_unk=True, byte_fallback=bool(pieces.bytes)
    )
    # Cuts change no number, but words repeat and the package's cache knows them: nothing lies across such a cut.
    within = any(" " in name.lstrip(" ") for name in scores)
    definition = compose(
        model,
        normalizer={"type": "Prepend", "prepend": " "} if prefix else None,
        pre_tokenizer=split(" +", "MergedWithNext") if prefix and not within else None,
        post_processor=begin_with(first, numbers[first]) if first else None,
        decoder=_decoder(bool(pieces.bytes), prefix),
        special={name: numbers[name] for name in config.values()},
    )
    return Read(definition, config, (*_notes(pieces), *_join_notes(pieces, merges)))


def _parse(data: bytes, where: str) -> list[tuple[bytes, float]]:
    """Every piece and its score."""
    (longest,) = struct.unpack_from("<i", data)
    found: list[tuple[bytes, float]] = []
    at = 4
    while at < len(data):
        if at + _PIECE.size > len(data):
            raise TokenizerError(f"the file ends within piece {len(found)}", where=where, mend=_MEND)
        score, size = _PIECE.unpack_from(data, at)
        at += _PIECE.size
        reason = None
        if not 0 < size <= longest:
            reason = f"piece {len(found)} has {size} bytes, the longest {longest} by the file's head"
        elif at + size > len(data):
            reason = f"the file ends within piece {len(found)}"
        elif not math.isfinite(score):
            reason = f"the score of piece {len(found)} is no number"
        if reason:
            raise TokenizerError(reason, where=where, mend=_MEND)
        found.append((data[at : at + size], score))
        at += size
    if (most := max((len(name) for name, _ in found), default=0)) < longest:
        # The file does not say how many pieces it has; llama2.c's writer gives the true length.
        reason = f"its longest piece has {most} bytes, by the file's head {longest}: pieces are missing"
        raise TokenizerError(reason, where=where, mend=_MEND)
    return found


def _pieces_of(found: list[tuple[bytes, float]], where: str) -> _Pieces:
    """The pieces as text. Raises TokenizerError for pieces by which a text cannot be mapped, each with its reason."""
    try:
        names = [name.decode("utf-8") for name, _ in found]
    except UnicodeDecodeError as error:
        number = [name for name, _ in found].index(error.object)
        reason = f"piece {number} is no whole characters ({error.object!r}): a byte-level tokenizer's"
        raise TokenizerError(reason, where=where, mend="name the file it was made from") from None
    there = set(names)
    spelled = [name for name in _BYTES if name in there]
    reason, mend = "", _MEND
    if len(there) < len(names):
        name, times = Counter(names).most_common(1)[0]
        reason = f"the piece {name!r} is there {times} times, and which of them text gives is not defined"
    elif odd := [name for name in names if BLANK in name]:
        reason = f"{len(odd)} pieces hold U+2581 ({odd[0]!r}), which llama2.c does not read as a blank"
        mend = "name the .model file it was made from"
    elif odd := [name for name in names if "\0" in name]:
        reason = f"{len(odd)} pieces hold U+0000 ({odd[0]!r}), at which they end for llama2.c"
    elif _UNKNOWN not in there and len(spelled) < 256:
        reason = f"it has no piece {_UNKNOWN} and {len(spelled)} of 256 byte pieces: other characters would be lost"
    if reason:
        raise TokenizerError(reason, where=where, mend=mend)
    roles = {"unk_token": _UNKNOWN} if _UNKNOWN in there else {}
    for role, (name, _) in _ENDS.items():
        forms = [form for form in (f"\n{name}\n", name) if form in there]
        roles |= {role: forms[0]} if forms else {}
    barred = {*roles.values(), *spelled}
    scores = zip(names, (score for _, score in found), strict=True)
    return _Pieces(
        numbers={name: number for number, name in enumerate(names)},
        scores={name: score for name, score in scores if name not in barred and score > _NEVER},
        roles=roles,
        bytes=spelled,
    )


def _decoder(spells_bytes: bool, prefix: bool) -> dict[str, Any] | None:
    """Bytes to characters, one text, and the blank taken off that was put before it."""
    steps: list[dict[str, Any]] = [{"type": "ByteFallback"}] if spells_bytes else []
    steps.append({"type": "Fuse"})
    if prefix:
        steps.append({"type": "Strip", "content": " ", "start": 1, "stop": 0})
    return sequence("decoders", steps)


def _notes(pieces: _Pieces) -> tuple[str, ...]:
    """Where run.c would give other numbers, which are wrong ones."""
    notes, numbers = [], pieces.numbers
    if len(pieces.bytes) < 256:
        rest = f"{len(pieces.bytes)} of 256 byte pieces" if pieces.bytes else "no byte pieces"
        notes.append(f"it has {rest}: an unknown character becomes {_UNKNOWN} (llama2.c gives other pieces' numbers)")
    elif moved := [name for byte, name in enumerate(_BYTES) if numbers[name] != byte + _FIRST_BYTE]:
        notes.append(f"{moved[0]} is piece {numbers[moved[0]]}, not where llama2.c looks: it is taken by its name")
    if " " not in numbers:
        notes.append("it has no piece for the blank: nothing is put before a text (llama2.c reads outside of its list)")
    for role, (name, usual) in _ENDS.items():
        if (number := numbers.get(pieces.roles.get(role, ""), usual)) != usual:
            notes.append(f"{name} is piece {number}, not {usual}, which llama2.c takes for it: it is taken by its name")
    return tuple(notes)


def _join_notes(pieces: _Pieces, merges: list[list[str]]) -> tuple[str, ...]:
    """Joins that run.c would make and that are left out, and pieces that may come out otherwise than by run.c."""
    notes, apart = [], pieces.apart
    pairs = merge_list(pieces.numbers, pieces.numbers.keys())
    if names := {left + right: None for left, right in pairs if apart & {left, right, left + right}}:
        shown = ", ".join(map(repr, list(names)[:3]))
        notes.append(f"text never becomes these, of special or byte pieces' names, as it could by llama2.c: {shown}")
    if found := _unclear(merges, pieces.scores):
        shown = ", ".join(map(repr, found[:3]))
        notes.append(f"{len(found)} pieces may be joined in another order than by llama2.c, by their scores: {shown}")
    return tuple(notes)


def _unclear(merges: list[list[str]], scores: dict[str, float]) -> list[str]:
    """Pieces that `tokenizers`, where a pair has a rank, may join before others that run.c joins first, where a piece
    has a score and the leftmost of equals is first.

    A piece is only ever made of the two that its own text becomes, since nothing was joined across its ends. So where
    scores differ, the pairs of one score are one pair, and both join its leftmost first. Runs of one character that
    all have one score (LLaMA's blanks) grow from the left in both, unless a better join takes one of them before the
    others have grown.
    """
    made = list(dict.fromkeys(left + right for left, right in merges))
    times = Counter(scores[name] for name in made)
    equal = [name for name in made if times[scores[name]] > 1]
    levels = defaultdict(set)
    for name in filter(_is_run, made):
        levels[name[0]].add(scores[name])
    runs = {name for name in equal if _is_run(name) and len(levels[name[0]]) == 1}
    better = [left + right for left, right in merges if _takes(left, right, runs, scores)]
    return [name for name in dict.fromkeys([*equal, *better]) if name not in runs]


def _is_run(text: str) -> bool:
    return len(set(text)) == 1


def _takes(left: str, right: str, runs: set[str], scores: dict[str, float]) -> bool:
    """Whether one of `runs` is joined to another piece before, or as soon as, they grow."""
    return any(part in runs and scores[left + right] >= scores[part] for part in (left, right))

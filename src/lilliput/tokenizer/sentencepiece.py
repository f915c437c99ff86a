"""Reading a SentencePiece model: BPE and Unigram, as `tokenizers` must define them to give the same numbers.

Where `tokenizers` cannot do what SentencePiece does, and what is done about it:

- BPE merges have ranks, not scores: `merges.py`.
- Pieces that no text may give (control, unknown and byte pieces) would be found in text: a Unigram gives them a
  score below every other way to spell them; a BPE never joins them.
- User-defined pieces are found before anything is joined: in a BPE they are words of their own, looked up whole; in
  a Unigram they have the score that SentencePiece gives them.
- SentencePiece adds up a Unigram's scores in single precision over the whole text, `tokenizers` in double precision
  over each word: where two spellings of a long text are as good as equal, either may be taken (about ten of a
  million numbers in documents of some ten thousand characters, and runs of one character).
- The character map: `sentencepiece_text.py`.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from tokenizers import models

from lilliput.errors import MissingExtra, TokenizerError
from lilliput.tokenizer.definition import Read, begin_with, bpe, compose, sequence, split
from lilliput.tokenizer.merges import merge_list
from lilliput.tokenizer.sentencepiece_text import decoder_of, normalizer_of, text_notes
from lilliput.tokenizer.spelling import BLANK

_MEND = "name a SentencePiece .model file, whole"
_NORMAL, _UNKNOWN, _CONTROL, _USER, _UNUSED, _BYTE = 1, 2, 3, 4, 5, 6
_UNIGRAM, _BPE = 1, 2
_OTHER_KINDS = {3: "word", 4: "character"}


@dataclass(frozen=True)
class _Pieces:
    """A model's pieces, in order of their numbers."""

    names: list[str]
    scores: list[float]
    types: list[int]

    def of(self, *types: int) -> list[str]:
        return [name for name, kind in zip(self.names, self.types, strict=True) if kind in types]


def read_sentencepiece(data: bytes, where: str) -> Read:
    """The definition that gives a SentencePiece model's numbers. Raises TokenizerError, MissingExtra."""
    proto = _parse(data, where)
    pieces = _pieces_of(proto, where)
    kind, byte_fallback = proto.trainer_spec.model_type, bool(proto.trainer_spec.byte_fallback)
    if kind not in (_UNIGRAM, _BPE):
        reason = f"a SentencePiece {_OTHER_KINDS.get(kind, kind)} model is not known"
        raise TokenizerError(reason, where=where, mend="name a BPE or Unigram model")
    model = (_bpe if kind == _BPE else _unigram)(pieces, byte_fallback)
    special = {name: number for number, name in enumerate(pieces.names) if pieces.types[number] in (_UNKNOWN, _CONTROL)}
    config = _declared(proto.trainer_spec, pieces, special)
    first = config.get("bos_token")
    try:
        definition = compose(
            model,
            normalizer=normalizer_of(proto),
            pre_tokenizer=_words(pieces, model),
            post_processor=begin_with(first, special[first]) if first else None,
            decoder=decoder_of(proto, byte_fallback),
            special=special,
        )
        notes = (*_notes(pieces, kind == _BPE), *text_notes(proto, pieces.of(_USER)))
    except Exception as error:  # the package raises bare Exception for every defect
        reason = f"a damaged SentencePiece model: {' '.join(str(error).split())[:200]}"
        raise TokenizerError(reason, where=where, mend=_MEND) from None
    return Read(definition, config, notes)


def _parse(data: bytes, where: str) -> Any:
    try:
        messages = import_module("sentencepiece.sentencepiece_model_pb2")
        damaged = import_module("google.protobuf.message").DecodeError
    except ImportError:
        raise MissingExtra("sentencepiece (with protobuf)", "tokenizers") from None
    proto = messages.ModelProto()
    try:
        proto.ParseFromString(data)
    except damaged as error:
        reason = f"not a SentencePiece model, or not a whole one: {error}"
        raise TokenizerError(reason, where=where, mend=_MEND) from None
    return proto


def _pieces_of(proto: Any, where: str) -> _Pieces:
    pieces = _Pieces(
        [piece.piece for piece in proto.pieces],
        [piece.score for piece in proto.pieces],
        [piece.type for piece in proto.pieces],
    )
    reason = None
    if not pieces.names or not proto.HasField("trainer_spec") or not proto.HasField("normalizer_spec"):
        # What is cut off between two fields parses; the settings come last.
        reason = "not a whole SentencePiece model: its settings are missing"
    elif "" in pieces.names or len(set(pieces.names)) < len(pieces.names):
        name, times = Counter(pieces.names).most_common(1)[0]
        reason = f"the piece {name!r} is there {times} times" if times > 1 else "a piece is empty"
    elif len(pieces.of(_UNKNOWN)) != 1:
        reason = f"it has {len(pieces.of(_UNKNOWN))} pieces for the unknown, not one"
    elif pieces.of(_UNUSED):
        reason = f"pieces marked as unused are not known ({pieces.of(_UNUSED)[0]} is one)"
    elif not pieces.of(_NORMAL):
        reason = "it has no pieces for text"
    elif proto.trainer_spec.byte_fallback and len(pieces.of(_BYTE)) != 256:
        reason = f"it spells the unknown in bytes and has {len(pieces.of(_BYTE))} of 256"
    elif any(score != score or abs(score) == float("inf") for score in pieces.scores):
        reason = "a piece's score is no number"
    if reason:
        raise TokenizerError(reason, where=where, mend=_MEND)
    return pieces


def _bpe(pieces: _Pieces, byte_fallback: bool) -> dict[str, Any]:
    """SentencePiece joins the neighbours that make the piece of the highest score, the leftmost of equals.

    Here a pair's rank decides. Pieces of equal score are runs of one character (LLaMA's blanks); there, leftmost
    first means that one run grows by one until no piece is longer and only then the next begins: so the longest
    come first.
    """
    scores = {name: score for name, score, kind in zip(*_columns(pieces), strict=True) if kind == _NORMAL}
    order = sorted((name for name in scores if len(name) > 1), key=lambda name: (-scores[name], -len(name)))
    return bpe(
        {name: number for number, name in enumerate(pieces.names)},
        merge_list(order, scores.keys()),
        unk_token=pieces.of(_UNKNOWN)[0],
        # SentencePiece gives one number to a run of unknown characters.
        fuse_unk=True,
        byte_fallback=byte_fallback,
        ignore_merges=bool(pieces.of(_USER)),
    )


def _unigram(pieces: _Pieces, byte_fallback: bool) -> dict[str, Any]:
    normal = [score for score, kind in zip(pieces.scores, pieces.types, strict=True) if kind == _NORMAL]
    longest = max(len(name) for name in pieces.names)
    # Worse than spelling the longest piece by the least likely ones.
    never = (min(normal) - 10) * (longest + 1)

    def score_of(name: str, score: float, kind: int) -> float:
        if kind == _USER:
            # What SentencePiece 0.2 takes for a user-defined piece, whatever the model's scores are.
            return 0.1 * (len(name.encode()) - 1)
        return score if kind == _NORMAL else never

    return {
        "type": "Unigram",
        "unk_id": pieces.types.index(_UNKNOWN),
        "vocab": [[name, score_of(name, score, kind)] for name, score, kind in zip(*_columns(pieces), strict=True)],
        "byte_fallback": byte_fallback,
    }


def _columns(pieces: _Pieces) -> tuple[list[str], list[float], list[int]]:
    return pieces.names, pieces.scores, pieces.types


def _words(pieces: _Pieces, model: dict[str, Any]) -> dict[str, Any] | None:
    """Cuts that change no number, before each run of blanks, and the words that user-defined pieces are.

    What is joined (or stands on a path of a Unigram) is always a piece. If none holds a blank after another
    character, nothing lies across such a cut; and a blank is a piece, so no run of unknown characters does.
    Words then repeat, and the cache of `tokenizers` knows most of them.
    """
    safe = BLANK in pieces.of(_NORMAL) and not any(BLANK in name.lstrip(BLANK) for name in pieces.of(_NORMAL, _USER))
    user = "|".join(re.escape(name) for name in sorted(pieces.of(_USER), key=len, reverse=True))
    if model["type"] == "BPE" and user:
        blank, other = f"(?:(?!{user}){BLANK})", f"(?:(?!{user})[^{BLANK}])"
        word = f"{blank}*{other}+|{blank}+" if safe else rf"(?:(?!{user})[\s\S])+"
        steps = [split(f"{user}|{word}", "Isolated")]
    else:
        steps = [split(f"{BLANK}+", "MergedWithNext")] if safe else []
    traps = _traps(pieces, model)
    return sequence("pretokenizers", steps + ([split(traps, "Isolated")] if traps else []))


def _traps(pieces: _Pieces, model: dict[str, Any]) -> str | None:
    """A pattern that cuts words which would be taken for a piece that no text may give, where text is joined."""
    if model["type"] == "BPE":
        return _looked_up(pieces, model) if model["ignore_merges"] else None
    # The score of such a piece is low, but that of an unknown character is lower still: cut beside that.
    known, together = set(pieces.of(_NORMAL, _USER)), "\n".join(pieces.of(_NORMAL, _USER))
    cuts = []
    for name in pieces.of(_UNKNOWN, _CONTROL, _BYTE):
        if all(character in known for character in name):
            continue
        places = [at for at in range(1, len(name)) if name[at - 1 : at + 1] not in together]
        # Rather between a known and an unknown character: SentencePiece makes one of several unknown ones.
        places.sort(key=lambda at: (name[at - 1] in known) == (name[at] in known))
        if places:
            cuts.append(f"(?<={re.escape(name[: places[0]])})(?={re.escape(name[places[0] :])})")
    return "|".join(cuts) or None


def _looked_up(pieces: _Pieces, model: dict[str, Any]) -> str | None:
    """Where words are looked up whole, a word that is a piece's name, but not what its joins give, is cut after the
    first of them; what joins give of a text does not depend on what stands beyond a place where none crosses."""
    joins = [(left, right) for left, right in model["merges"]]
    plain = models.BPE(model["vocab"], joins, unk_token=model["unk_token"], byte_fallback=model["byte_fallback"])
    rests: dict[str, list[str]] = {}
    for name in sorted(set(pieces.names) - set(pieces.of(_USER))):
        parts = plain.tokenize(name)
        if len(parts) > 1:
            end = parts[0].offsets[1] if parts[0].value != name else 1
            rests.setdefault(name[:end] or name[0], []).append(name[end:] or name[1:])
    cuts = [f"{re.escape(first)}(?=(?:{'|'.join(map(re.escape, rest))})\\z)" for first, rest in rests.items()]
    return rf"\A(?:{'|'.join(cuts)})" if cuts else None


def _notes(pieces: _Pieces, bpe: bool) -> tuple[str, ...]:
    """What cannot be exact, by a piece that shows it."""
    notes = []
    letters = set(pieces.of(_NORMAL))
    if odd := [name for name in pieces.of(_NORMAL) if not letters.issuperset(name)]:
        notes.append(f"{len(odd)} pieces hold characters that are no pieces and may not come out: {', '.join(odd[:3])}")
    scored = [(score, name) for name, score, kind in zip(*_columns(pieces), strict=True) if kind == _NORMAL]
    times = Counter(score for score, name in scored if len(set(name)) > 1)
    if bpe and (equal := [name for score, name in scored if len(set(name)) > 1 and times[score] > 1]):
        shown = ", ".join(equal[:3])
        notes.append(f"{len(equal)} pieces have equal scores and may be joined in another order: {shown}")
    return tuple(notes)


def _declared(spec: Any, pieces: _Pieces, special: dict[str, int]) -> dict[str, Any]:
    """The model's special tokens by role, and its user-defined pieces, which a definition does not tell apart."""
    config: dict[str, Any] = {}
    for role in ("unk", "bos", "eos", "pad"):
        number = getattr(spec, f"{role}_id")
        name = pieces.names[number] if 0 <= number < len(pieces.names) else None
        if name in special:
            config[f"{role}_token"] = name
    if user := pieces.of(_USER):
        config["user_defined_symbols"] = user
    return config

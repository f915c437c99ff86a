"""Reading a SentencePiece model: BPE and Unigram, as `tokenizers` must define them to give the same numbers."""

from __future__ import annotations

from collections.abc import Iterable
from importlib import import_module
from typing import Any

from lilliput.errors import MissingExtra, TokenizerError
from lilliput.tokenizer.definition import Read, begin_with, compose, replace, sequence, split
from lilliput.tokenizer.merges import merge_list

_SPACE = "\u2581"
_MEND = "name a SentencePiece .model file, whole"
_NORMAL, _UNKNOWN, _CONTROL, _USER, _UNUSED, _BYTE = 1, 2, 3, 4, 5, 6
_UNIGRAM, _BPE = 1, 2


def read_sentencepiece(data: bytes, where: str) -> Read:
    """The definition that gives a SentencePiece model's numbers. Raises TokenizerError, MissingExtra."""
    proto = _parse(data, where)
    pieces = proto.pieces
    byte_fallback = bool(proto.trainer_spec.byte_fallback)
    unknown = next(piece.piece for piece in pieces if piece.type == _UNKNOWN)
    model = {
        "type": "BPE",
        "dropout": None,
        "unk_token": unknown,
        "continuing_subword_prefix": None,
        "end_of_word_suffix": None,
        # SentencePiece gives one number to a run of unknown characters.
        "fuse_unk": True,
        "byte_fallback": byte_fallback,
        "ignore_merges": False,
        "vocab": {piece.piece: number for number, piece in enumerate(pieces)},
        "merges": _merges((piece.piece, piece.score) for piece in pieces if piece.type == _NORMAL),
    }
    special = {piece.piece: number for number, piece in enumerate(pieces) if piece.type in (_UNKNOWN, _CONTROL)}
    config = _declared(proto, special)
    first = config.get("bos_token")
    normalizer = _normalizer(proto.normalizer_spec)
    definition = compose(
        model,
        normalizer=normalizer,
        pre_tokenizer=_cuts(piece.piece for piece in pieces if piece.type == _NORMAL),
        post_processor=begin_with(first, special[first]) if first else None,
        decoder=_decoder(proto.normalizer_spec, byte_fallback),
        special=special,
    )
    return Read(definition, config)


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
        raise TokenizerError(f"not a SentencePiece model: {error}", where=where, mend=_MEND) from None
    return proto


def _merges(pieces: Iterable[tuple[str, float]]) -> list[list[str]]:
    """The pairs that make each piece, the best score first.

    SentencePiece joins the neighbours that make the piece of the highest score, the leftmost of equal ones.
    Here a pair's rank decides, so only pieces of equal score may differ. Where those are runs of one character
    (LLaMA's runs of blanks), leftmost first means that one run grows by one until no piece is longer and only
    then the next begins: longer pieces come first.
    """
    scores = dict(pieces)
    order = sorted((piece for piece in scores if len(piece) > 1), key=lambda piece: (-scores[piece], -len(piece)))
    return merge_list(order, scores.keys())


def _normalizer(spec: Any) -> dict[str, Any] | None:
    steps = []
    if spec.add_dummy_prefix:
        steps.append({"type": "Prepend", "prepend": _SPACE})
    steps.append(replace(" ", _SPACE))
    return sequence("normalizers", steps)


def _cuts(pieces: Iterable[str]) -> dict[str, Any] | None:
    """Cuts before each run of blanks, if no piece holds a blank after another character.

    What is joined is always a piece, so nothing is ever joined across such a cut and the numbers stay the same;
    but words repeat, and the cache of `tokenizers` then knows most of them.
    """
    if any(_SPACE in piece.lstrip(_SPACE) for piece in pieces):
        return None
    return split(f"{_SPACE}+", "MergedWithNext")


def _decoder(spec: Any, byte_fallback: bool) -> dict[str, Any] | None:
    steps: list[dict[str, Any]] = [replace(_SPACE, " ")]
    if byte_fallback:
        steps.append({"type": "ByteFallback"})
    steps.append({"type": "Fuse"})
    if spec.add_dummy_prefix:
        steps.append({"type": "Strip", "content": " ", "start": 1, "stop": 0})
    return sequence("decoders", steps)


def _declared(proto: Any, special: dict[str, int]) -> dict[str, Any]:
    """The model's special tokens by role."""
    spec = proto.trainer_spec
    config: dict[str, Any] = {}
    for role in ("unk", "bos", "eos", "pad"):
        number = getattr(spec, f"{role}_id")
        piece = proto.pieces[number].piece if 0 <= number < len(proto.pieces) else None
        if piece in special:
            config[f"{role}_token"] = piece
    return config

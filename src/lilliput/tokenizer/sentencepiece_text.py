"""What SentencePiece does to text before it looks for pieces, and to pieces when it makes text of them."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Sequence
from typing import Any

from lilliput.tokenizer.definition import replace, sequence

SPACE = "\u2581"


def normalizer_of(proto: Any) -> dict[str, Any] | None:
    """The character map, the removal of blanks, the blank before the text, and U+2581 for blanks, in that order."""
    spec = proto.normalizer_spec
    suffix = proto.trainer_spec.treat_whitespace_as_suffix
    blank = SPACE if spec.escape_whitespaces else " "
    steps = _map(spec.precompiled_charsmap) if spec.precompiled_charsmap else []
    if spec.remove_extra_whitespaces:
        steps += [replace(r"\A +", "", regex=True), replace(" {2,}", " ", regex=True)]
    if spec.add_dummy_prefix and not suffix:
        steps.append({"type": "Prepend", "prepend": blank})
    if spec.escape_whitespaces:
        steps.append(replace(" ", SPACE))
    if spec.remove_extra_whitespaces:
        steps.append(replace(rf"{blank}+\z", "", regex=True))
    if spec.add_dummy_prefix and suffix:
        steps.append(replace(r"\z", blank, regex=True))
    return sequence("normalizers", steps)


def _map(charsmap: bytes) -> list[dict[str, Any]]:
    return [{"type": "Precompiled", "precompiled_charsmap": b64encode(charsmap).decode()}]


def decoder_of(proto: Any, byte_fallback: bool) -> dict[str, Any] | None:
    """U+2581 to blanks, bytes to characters, and the blank that stands before the text removed."""
    spec = proto.normalizer_spec
    steps: list[dict[str, Any]] = [replace(SPACE, " ")]
    if byte_fallback:
        steps.append({"type": "ByteFallback"})
    steps.append({"type": "Fuse"})
    if proto.trainer_spec.treat_whitespace_as_suffix:
        # `Strip` fails on nothing.
        if spec.add_dummy_prefix:
            steps.append(replace(r" \z", "", regex=True))
    elif spec.remove_extra_whitespaces:
        steps.append(replace(r"\A +", "", regex=True))
    elif spec.add_dummy_prefix:
        steps.append({"type": "Strip", "content": " ", "start": 1, "stop": 0})
    return sequence("decoders", steps)


def text_notes(proto: Any, user: Sequence[str]) -> tuple[str, ...]:
    """What cannot be exact in this."""
    return ()

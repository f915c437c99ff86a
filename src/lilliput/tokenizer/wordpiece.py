"""Reading BERT's `vocab.txt`: one piece a line, its number the line's."""

from __future__ import annotations

from typing import Any

from lilliput.errors import TokenizerError
from lilliput.tokenizer.definition import Read, begin_with, compose

_UNKNOWN, _BEGIN, _END = "[UNK]", "[CLS]", "[SEP]"
_SPECIAL = {_UNKNOWN: "unk", _BEGIN: "bos", _END: "eos", "[PAD]": "pad", "[MASK]": "mask"}
_MEND = "name a WordPiece vocab.txt, whole: one piece a line, [UNK] among them"


def read_wordpiece(data: bytes, where: str, declared: dict[str, Any]) -> Read:
    """The definition that gives BERT's numbers for these pieces.

    declared: what the files beside it say; of it `do_lower_case`, `strip_accents` and `tokenize_chinese_chars`
    count. Without the first, text is lower-cased if no piece holds an upper-case letter.
    Raises TokenizerError for a piece met twice, an empty line, no [UNK].
    """
    vocab = _parse(data, where)
    special = {piece: vocab[piece] for piece in _SPECIAL if piece in vocab}
    lower = declared.get("do_lower_case")
    notes: tuple[str, ...] = ()
    if not isinstance(lower, bool):
        # Not `isupper`: a few letters, U+1D3A for one, count as upper case and have no lower one.
        lower = all(piece == piece.lower() for piece in vocab if piece not in special)
        seen = "no piece holds" if lower else "pieces hold"
        notes = (f"{seen} upper-case letters: text is {'' if lower else 'not '}lower-cased",)
    accents, chinese = declared.get("strip_accents"), declared.get("tokenize_chinese_chars")
    end = (_END, special[_END]) if _END in special else None
    model = {
        "type": "WordPiece",
        "unk_token": _UNKNOWN,
        "continuing_subword_prefix": "##",
        "max_input_chars_per_word": 100,
        "vocab": vocab,
    }
    definition = compose(
        model,
        normalizer={
            "type": "BertNormalizer",
            "clean_text": True,
            "handle_chinese_chars": chinese if isinstance(chinese, bool) else True,
            "strip_accents": accents if isinstance(accents, bool) else None,
            "lowercase": lower,
        },
        pre_tokenizer={"type": "BertPreTokenizer"},
        post_processor=begin_with(_BEGIN, special[_BEGIN], end) if _BEGIN in special else None,
        decoder={"type": "WordPiece", "prefix": "##", "cleanup": True},
        special=special,
    )
    return Read(definition, {f"{_SPECIAL[piece]}_token": piece for piece in special}, notes)


def _parse(data: bytes, where: str) -> dict[str, int]:
    lines = data.decode("utf-8").split("\n")
    if not lines[-1]:
        lines.pop()
    vocab: dict[str, int] = {}
    for number, line in enumerate(lines):
        # As `tokenizers` and `transformers` read it: a line's end is no part of the piece.
        piece = line.rstrip("\r")
        if not piece or piece in vocab:
            reason = f"{piece} is there twice" if piece else "an empty line"
            raise TokenizerError(reason, where=f"{where}, line {number + 1}", mend=_MEND)
        vocab[piece] = number
    if _UNKNOWN not in vocab:
        raise TokenizerError(f"there is no {_UNKNOWN} among its {len(vocab)} pieces", where=where, mend=_MEND)
    return vocab

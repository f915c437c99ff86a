"""The special tokens that an encoder needs: padding, begin, end and mask, in any tokenizer.

BERT's has them. Another keeps its own begin and end of a document in the places of [CLS] and [SEP], and gains [PAD] and
[MASK] behind its last number where it lacks them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tokenizers import AddedToken, processors
from tokenizers import Tokenizer as Backend

from lilliput.tokenizer.load import Tokenizer
from lilliput.tokenizer.source import content_of

_USUAL = {"pad": ("[PAD]", "<pad>", "<|pad|>"), "mask": ("[MASK]", "<mask>", "<|mask|>")}
_UNKNOWN = ("[UNK]", "<unk>")


@dataclass(frozen=True)
class Specials:
    """Numbers of the special tokens; `never`: those that are neither masked nor put in another's place."""

    pad: int
    cls: int
    sep: int
    mask: int
    never: tuple[int, ...]

    def ids(self) -> dict[str, int]:
        """As an EncoderConfig names them."""
        return {"pad_id": self.pad, "cls_id": self.cls, "sep_id": self.sep, "mask_id": self.mask}


def for_encoder(tokenizer: Tokenizer, *, masks_in_text: bool = False) -> tuple[Tokenizer, Specials]:
    """The tokenizer with padding and mask, whose default call puts [CLS] before and [SEP] behind a text.

    masks_in_text: what is saved makes `transformers` take the mask's name in a text for the mask, as its fill-mask
    pipeline needs; a classifier's text is plain text. A tokenizer that has all it needs keeps its numbers.
    """
    backend = Backend.from_str(tokenizer.backend.to_str())
    first, last = tokenizer.token(tokenizer.bos_id), tokenizer.token(tokenizer.eos_id)
    names = {role: _ensure(backend, tokenizer, role) for role in _USUAL}
    backend.post_processor = processors.TemplateProcessing(
        single=[first, "$A", last],
        pair=[first, "$A", last, "$B:1", f"{last}:1"],
        special_tokens=[(first, tokenizer.bos_id), (last, tokenizer.eos_id)],
    )
    saved: dict[str, Any] = {
        "pad_token": names["pad"],
        "mask_token": names["mask"],
        "cls_token": first,
        "sep_token": last,
        "split_special_tokens": not masks_in_text,
    }
    made = Tokenizer(backend, tokenizer.bos_id, tokenizer.eos_id, {**tokenizer.config, **saved}, saved)
    pieces = backend.get_vocab(with_added_tokens=True)
    pad, mask = pieces[names["pad"]], pieces[names["mask"]]
    unknown = {pieces[name] for name in _UNKNOWN if name in pieces}
    never = {pad, mask, made.bos_id, made.eos_id} | unknown | made.special_ids
    return made, Specials(pad, made.bos_id, made.eos_id, mask, tuple(sorted(never)))


def _ensure(backend: Backend, tokenizer: Tokenizer, role: str) -> str:
    """The name of the token of this role, added where there is none of its own."""
    for name in (content_of(tokenizer.config.get(f"{role}_token")), *_USUAL[role]):
        number = backend.token_to_id(name) if isinstance(name, str) else None
        if number is not None and number not in (tokenizer.bos_id, tokenizer.eos_id):
            return str(name)
    backend.add_special_tokens([AddedToken(_USUAL[role][0], special=True, normalized=False)])
    return _USUAL[role][0]

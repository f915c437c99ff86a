"""One text continued, by a model of any family."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch

from lilliput.model.byte_generate import generate_units
from lilliput.model.byte_pool import BytePool
from lilliput.model.decoder import Decoder
from lilliput.model.generate import generate
from lilliput.tokenizer.load import Tokenizer


def continued(
    model: Decoder, tokenizer: Tokenizer, ids: Sequence[int], max_new: int, ends: Sequence[int], **how: Any
) -> Iterator[int]:
    """The numbers that the model writes after `ids`, up to the first of `ends`, in at most `max_new` positions of its
    core. how: temperature, top_p, top_k, seed, as `generate` takes them; errors as there."""
    read = torch.from_numpy(tokenizer.positions(ids)).to(next(model.parameters()).device)
    if isinstance(model, BytePool):
        return generate_units(model, read, max_new, **how)
    return (int(new_B[0]) for new_B in generate(model, read[None], max_new, stop_ids=ends, **how))

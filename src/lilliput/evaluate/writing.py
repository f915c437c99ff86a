"""What a model writes after given texts, greedily, many at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from lilliput.errors import ModelError
from lilliput.model.generate import generate
from lilliput.progress import Progress

if TYPE_CHECKING:
    from lilliput.evaluate.prefixes import Ids
    from lilliput.model.decoder import Decoder
    from lilliput.tokenizer.load import Tokenizer

# Texts written at once, at most; they have one length.
_ROWS = 32

Prompt = tuple[str, str]
"""(a text that may be cut at its end, what follows it and is kept whole)."""


@dataclass(frozen=True)
class Written:
    """texts: one line for each prompt, without space around it. tokens: written in all, what follows the line left
    out. cut: how many prompts were too long for the context."""

    texts: list[str]
    tokens: int
    cut: int


def written(
    model: Decoder, tokenizer: Tokenizer, prompts: Sequence[Prompt], max_new: int, *, title: str | None = "writing"
) -> Written:
    """Write after BOS + each prompt until the line, or the text, ends: at most `max_new` tokens, or half the context.

    A prompt that does not leave them room in the context loses the end of its first text. Raises ModelError where
    the second alone is too long. title: of the progress shown; None shows none.
    """
    max_new = min(max_new, model.config.context // 2)
    room = model.config.context - max_new
    encoded, cut = _encode(tokenizer, prompts, room)
    ends = _line_ends(tokenizer)
    order = sorted(range(len(prompts)), key=lambda number: len(encoded[number]))
    texts, tokens, done = [""] * len(prompts), 0, 0
    with Progress(title or "", len(prompts), "texts") as bar:
        while done < len(order):
            length = len(encoded[order[done]])
            taken = [number for number in order[done : done + _ROWS] if len(encoded[number]) == length]
            new = _continue(model, [encoded[number] for number in taken], max_new, ends)
            for number, ids in zip(taken, new, strict=True):
                own = next((at for at, one in enumerate(ids) if one in ends), len(ids))
                texts[number] = tokenizer.decode(ids[: own + 1]).split("\n")[0].strip()
                tokens += own
            done += len(taken)
            if title:
                bar.update(done)
    return Written(texts, tokens, cut)


def _encode(tokenizer: Tokenizer, prompts: Sequence[Prompt], room: int) -> tuple[list[Ids], int]:
    """(BOS + ids of each prompt, at most `room`, how many prompts were cut)."""
    whole = tokenizer.encode_arrays([text + end for text, end in prompts])
    long = [number for number, ids in enumerate(whole) if len(ids) >= room]
    heads = tokenizer.encode_arrays([prompts[number][0] for number in long])
    tails = tokenizer.encode_arrays([prompts[number][1] for number in long])
    for number, head, tail in zip(long, heads, tails, strict=True):
        if len(tail) >= room:
            message = f"the prompt's end is {len(tail)} tokens, and the model's context leaves it {max(0, room - 1)}"
            raise ModelError(message, mend="take a model trained with a longer context")
        whole[number] = np.concatenate((head[: room - 1 - len(tail)], tail))
    return [np.append(tokenizer.bos_id, ids) for ids in whole], len(long)


def _line_ends(tokenizer: Tokenizer) -> set[int]:
    """The ids that end a line, and EOS."""
    size = tokenizer.backend.get_vocab_size()
    texts = tokenizer.backend.decode_batch([[number] for number in range(size)], skip_special_tokens=True)
    return {tokenizer.eos_id, *(number for number, text in enumerate(texts) if "\n" in text)}


def _continue(model: Decoder, prompts: list[Ids], max_new: int, ends: set[int]) -> list[list[int]]:
    """The new ids of each of some equally long prompts."""
    ids_BT = torch.from_numpy(np.stack(prompts)).to(model.head_weight().device)
    steps = [new_B.tolist() for new_B in generate(model, ids_BT, max_new, temperature=0.0, stop_ids=sorted(ends))]
    return [list(row) for row in zip(*steps, strict=True)]

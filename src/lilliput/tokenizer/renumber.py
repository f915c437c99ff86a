"""Keep some pieces of a tokenizer and number them anew, in the order they had; nothing else changes."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lilliput.tokenizer.source import Source

# Keys of the files beside a definition that hold one number, or a list of them.
_NUMBERS = ("_token_id", "_tokens_ids", "_token_ids", "_token_index", "suppress_tokens")
# Lists of lists of numbers; a list goes with any of them.
_WORDS = ("bad_words_ids", "force_words_ids")


def renumber(source: Source, ids: NDArray[np.int64]) -> Source:
    """`source` with only the pieces `ids` (old numbers, ascending): old number ids[i] becomes i."""
    new = {int(old): number for number, old in enumerate(ids)}
    definition = copy.deepcopy({name: part for name, part in source.definition.items() if name != "model"})
    definition["added_tokens"] = [
        {**token, "id": new[token["id"]]} for token in source.definition.get("added_tokens") or [] if token["id"] in new
    ]
    definition["model"] = _model(source.definition["model"], new)
    definition["post_processor"] = _post_processor(definition.get("post_processor"), new)
    if definition.get("padding"):
        definition["padding"]["pad_id"] = new[definition["padding"]["pad_id"]]
    # In the order in which the definition was written.
    ordered = {name: definition[name] for name in source.definition}
    return Source(ordered, renumber_config(source.config, new), source.where, source.notes)


def _model(model: dict[str, Any], new: Mapping[int, int]) -> dict[str, Any]:
    cut = dict(model)
    if model["type"] == "Unigram":
        cut["vocab"] = [entry for number, entry in enumerate(model["vocab"]) if number in new]
        cut["unk_id"] = None if model.get("unk_id") is None else new[model["unk_id"]]
        return cut
    kept = sorted((new[number], piece) for piece, number in model["vocab"].items() if number in new)
    vocab = cut["vocab"] = {piece: number for number, piece in kept}
    if model["type"] == "BPE":
        cut["merges"] = [
            pair for pair in model["merges"] if pair[0] in vocab and pair[1] in vocab and pair[0] + pair[1] in vocab
        ]
    return cut


def _post_processor(stage: dict[str, Any] | None, new: Mapping[int, int]) -> dict[str, Any] | None:
    """The special pieces that the default call puts around a text, by their new numbers."""
    if stage is None:
        return None
    if stage["type"] == "Sequence":
        return {**stage, "processors": [_post_processor(part, new) for part in stage["processors"]]}
    stage = dict(stage)
    for role in ("sep", "cls"):
        if role in stage:
            name, number = stage[role]
            stage[role] = [name, new[number]]
    if "special_tokens" in stage:
        stage["special_tokens"] = {
            name: {**token, "ids": [new[number] for number in token["ids"]]}
            for name, token in stage["special_tokens"].items()
        }
    return stage


def renumber_config(config: Mapping[str, Any], new: Mapping[int, int]) -> dict[str, Any]:
    """`config` (of a model or a tokenizer) with new numbers wherever it names a token by number; a number whose
    piece is gone becomes null, or leaves its list."""
    found: dict[str, Any] = {}
    for name, value in config.items():
        if name == "added_tokens_decoder" and isinstance(value, dict):
            value = {str(new[int(number)]): token for number, token in value.items() if int(number) in new}
        elif name.endswith(_NUMBERS) and isinstance(value, int):
            value = new.get(value)
        elif name.endswith(_NUMBERS) and isinstance(value, list):
            value = [new[number] for number in value if number in new]
        elif name in _WORDS and isinstance(value, list):
            value = [[new[number] for number in word] for word in value if all(number in new for number in word)]
        elif name == "forced_decoder_ids" and isinstance(value, list):
            value = [[place, new[number]] for place, number in value if number in new]
        elif name == "sequence_bias" and isinstance(value, list):
            value = [[[new[n] for n in word], bias] for word, bias in value if all(n in new for n in word)]
        elif isinstance(value, dict):
            value = renumber_config(value, new)
        found[name] = value
    return found

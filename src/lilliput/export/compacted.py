"""A compacted tokenizer as a folder that `AutoTokenizer` loads, and the model that goes with it.

The rows of embedding and head follow the pieces; every other tensor is copied as it is, whatever the model's
architecture and number type; so the new model says of the kept pieces exactly what the old one said.
"""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from lilliput.errors import ModelError
from lilliput.export.weights import index_file, tensor_shapes, weight_files
from lilliput.model.carve import take
from lilliput.model.spaces import Axis
from lilliput.progress import warn
from lilliput.store import read_json, write_atomic, write_json
from lilliput.tokenizer.compact import Compaction
from lilliput.tokenizer.renumber import renumber_config
from lilliput.tokenizer.source import Source, content_of

ID_MAP = "ids.json"
# How the architectures of transformers name what has one row for each piece.
_EMBEDDINGS = (
    "embed_tokens.weight", "wte.weight", "word_embeddings.weight", "embed_in.weight", "shared.weight",
)  # fmt: skip
_HEADS = (
    "lm_head.weight", "lm_head.bias", "lm_head.decoder.weight", "lm_head.decoder.bias", "embed_out.weight",
    "output_layer.weight", "cls.predictions.bias", "cls.predictions.decoder.weight", "cls.predictions.decoder.bias",
    "vocab_projector.weight", "vocab_projector.bias",
)  # fmt: skip
_WEIGHTS = ("*.safetensors", "*.safetensors.index.json", "*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")
# What a tokenizer_config.json says of its own class; the new folder is of the plain fast class.
_CLASS_KEYS = (
    "tokenizer_class", "auto_map", "add_bos_token", "add_eos_token", "backend", "fast", "from_slow", "is_local",
    "legacy", "name_or_path", "sp_model_kwargs", "tokenizer_file", "vocab_file", "merges_file", "model_type",
    "special_tokens_map_file", "errors", "do_lower_case", "do_basic_tokenize", "never_split", "strip_accents",
    "tokenize_chinese_chars",
)  # fmt: skip


def has_model(folder: Path) -> bool:
    """Whether a tokenizer's folder is a model directory: with weights of any kind, not just a configuration."""
    return (folder / "config.json").is_file() and any(any(folder.glob(pattern)) for pattern in _WEIGHTS)


def write_tokenizer(out: Path, source: Source, config: Mapping[str, Any] | None = None) -> None:
    """Write `tokenizer.json` and a `tokenizer_config.json` with which `AutoTokenizer` gives what `source` gives,
    with no model beside it. config: what a tokenizer_config.json of the source said, numbers already new."""
    pieces = source.pieces
    kept = {name: value for name, value in (config or {}).items() if name not in _CLASS_KEYS}
    for name, value in {**source.config, **kept}.items():
        if name.endswith("_token"):
            content = content_of(value)
            # A token that is no piece would be added by AutoTokenizer, beyond the size asked for.
            kept.pop(name, None)
            if content in pieces:
                kept[name] = content
            elif isinstance(content, str):
                warn(f"{name} {content!r} is no piece of the tokenizer; it is left out")
    for name in ("additional_special_tokens", "extra_special_tokens"):
        if isinstance(kept.get(name), list):
            kept[name] = [token for token in kept[name] if content_of(token) in pieces]
        elif isinstance(kept.get(name), dict):
            kept[name] = {role: token for role, token in kept[name].items() if content_of(token) in pieces}
    kept |= {name: source.config[name] for name in ("chat_template", "user_defined_symbols") if name in source.config}
    if source.kind != "WordPiece":
        # Without this, version 4 of transformers also gives token types, which decoders refuse.
        kept.setdefault("model_input_names", ["input_ids", "attention_mask"])
    written = {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False, **kept}
    text = json.dumps(source.definition, ensure_ascii=False, indent=1)
    write_atomic(out / "tokenizer.json", f"{text}\n")
    write_json(out / "tokenizer_config.json", written)


def write_compacted(out: Path, compaction: Compaction, folder: Path) -> None:
    """Write the compacted tokenizer into `out`, with its id map; and the model that lies in `folder`, if one does.

    Raises ModelError for weights that cannot be cut, before anything of them is written.
    """
    new = {int(old): number for number, old in enumerate(compaction.ids)}
    own = folder / "tokenizer_config.json"
    config = renumber_config(read_json(own), new) if own.is_file() else None
    write_tokenizer(out, compaction.source, config)
    write_json(out / ID_MAP, {"old": compaction.ids.tolist()})
    if has_model(folder):
        _write_model(out, compaction, folder, new)


def _write_model(out: Path, compaction: Compaction, folder: Path, new: Mapping[int, int]) -> None:
    config = _read_config(folder)
    rows = measure_tables(folder).rows
    if rows <= int(compaction.ids.max()):
        reason = f"the tokenizer has more pieces than the model's {rows} rows"
        raise ModelError(reason, where=str(folder), mend="give the tokenizer that the model was trained with")
    size = len(compaction.ids)
    kept = {"vocab": torch.from_numpy(compaction.ids)}
    saved = 0
    for file in weight_files(folder):
        with safe_open(file, framework="pt") as opened:
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118, no mapping
            metadata = opened.metadata() or {"format": "pt"}
        for name, tensor in tensors.items():
            if _is_table(name):
                axes = [Axis("vocab"), *(Axis("hidden") for _ in tensor.shape[1:])]
                tensors[name] = take(tensor, axes, kept).contiguous()
            saved += tensors[name].nbytes
        save_file(tensors, out / file.name, metadata=metadata)
    if (index := index_file(folder)) is not None:
        found = read_json(index)
        write_json(out / index.name, {**found, "metadata": {**found.get("metadata", {}), "total_size": saved}})
    write_json(out / "config.json", _with_size(renumber_config(config, new), rows, size))
    if (folder / "generation_config.json").is_file():
        write_json(out / "generation_config.json", renumber_config(read_json(folder / "generation_config.json"), new))
    # A model that brings its class along keeps it.
    for pattern in ("LICENSE*", "*.py") if config.get("auto_map") else ("LICENSE*",):
        for file in folder.glob(pattern):
            shutil.copyfile(file, out / file.name)


def _read_config(folder: Path) -> dict[str, Any]:
    config = read_json(folder / "config.json")
    if not isinstance(config, dict):
        raise ModelError("config.json holds no object", where=str(folder), mend="give the model's own config.json")
    return config


def _rows(config: Mapping[str, Any], folder: Path) -> int:
    nested = config.get("text_config")
    rows = config.get("vocab_size", nested.get("vocab_size") if isinstance(nested, dict) else None)
    if not isinstance(rows, int):
        raise ModelError("config.json does not say vocab_size", where=str(folder), mend="give a language model")
    return rows


def _with_size(config: dict[str, Any], before: int, after: int) -> dict[str, Any]:
    """`config` with the new `vocab_size`, nested ones included."""
    return {
        name: after
        if name == "vocab_size" and value == before
        else _with_size(value, before, after)
        if isinstance(value, dict)
        else value
        for name, value in config.items()
    }


def _numbers_in(config: Mapping[str, Any]) -> Iterator[int]:
    """Every whole number in a configuration but sizes of vocabularies."""
    for name, value in config.items():
        if isinstance(value, dict):
            yield from _numbers_in(value)
        elif isinstance(value, int) and name != "vocab_size":
            yield value


def _is_table(name: str) -> bool:
    return any(name == ending or name.endswith(f".{ending}") for ending in (*_EMBEDDINGS, *_HEADS))


@dataclass(frozen=True)
class Tables:
    """Embedding and head of a model. rows: as stored, padding included. row: parameters that each of them takes
    (d where the head is tied, else 2·d, and a bias if there is one). body: all other parameters."""

    rows: int
    row: int
    body: int


def measure_tables(folder: Path) -> Tables:
    """The sizes of the tables of the model in `folder`, from its files' headers alone.

    Raises ModelError where no embedding is known by name, a table has another number of rows than config.json
    says, or the weights are quantised.
    """
    config = _read_config(folder)
    rows = _rows(config, folder)
    if config.get("quantization_config"):
        raise ModelError("its weights are quantised", where=str(folder), mend="give the model before quantisation")
    sizes = {name: shape for file in weight_files(folder) for name, shape in tensor_shapes(file).items()}
    tables = {name: shape for name, shape in sizes.items() if _is_table(name)}
    for name, shape in tables.items():
        if shape[0] != rows:
            reason = f"{name} has {shape[0]} rows, but config.json says vocab_size {rows}"
            raise ModelError(reason, where=str(folder), mend="give the config.json that belongs to the weights")
    # A dimension that nothing else in the configuration has is the vocabulary's.
    if rows not in set(_numbers_in({**config, "vocab_size": None})):
        odd = [name for name, shape in sizes.items() if rows in shape and name not in tables]
        if odd:
            reason = f"{odd[0]} has a dimension of {rows}, as the vocabulary, and is not known by name"
            raise ModelError(reason, where=str(folder), mend="this architecture cannot be cut yet")
    if not any(name.endswith(_EMBEDDINGS) for name in tables):
        known = ", ".join(_EMBEDDINGS)
        raise ModelError(f"none of its tensors is an embedding by name ({known})", where=str(folder))
    if config.get("tie_word_embeddings"):
        # Some writers store a tied head beside the embedding; it is one table all the same.
        tables = {name: shape for name, shape in tables.items() if not name.endswith("lm_head.weight")}
    row = sum(math.prod(shape[1:]) for shape in tables.values())
    others = (math.prod(shape) for name, shape in sizes.items() if not _is_table(name))
    return Tables(rows, row, sum(others))

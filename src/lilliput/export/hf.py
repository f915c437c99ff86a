"""The model directory: the Hugging Face layout, which AutoModelForCausalLM loads with none of our code, plus
`lilliput.json` (what made the model) and a model card. A family that transformers does not know brings its class along
as two files, which `trust_remote_code=True` lets it run."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from lilliput.errors import ModelError
from lilliput.export.blocks import class_files
from lilliput.export.sound import AGAIN
from lilliput.export.weights import WEIGHTS, read_weights, write_weights
from lilliput.model.architectures import BYTE_POOL
from lilliput.model.byte_pool_config import BytePoolConfig
from lilliput.model.config import ModelConfig
from lilliput.model.decoder import Decoder
from lilliput.store import atomic_dir, write_json
from lilliput.tokenizer.load import Tokenizer
from lilliput.tokenizer.units import UnitTokenizer


def save_model_dir(
    path: Path | str,
    model: Decoder,
    tokenizer: Tokenizer,
    info: dict[str, Any],
    card: str | None = None,
    beside: Mapping[str, bytes] | None = None,
) -> Path:
    """Write a model directory, whole or not at all. `info` goes to `lilliput.json`; `card` is the README's
    Markdown (None: a short one). beside: further files, by name; one that is ours otherwise takes its place. Returns
    the path."""
    path, config = Path(path), model.config
    check_fit(config, tokenizer, str(path))
    dtype = str(model.head_weight().dtype).removeprefix("torch.")
    with atomic_dir(path) as folder:
        write_json(folder / "config.json", config.to_hf(dtype))
        write_json(
            folder / "generation_config.json", {"bos_token_id": config.bos_id, "eos_token_id": config.eos_id}
        )
        for name, text in class_files(config.family).items():
            (folder / name).write_text(text, encoding="utf-8")
        write_json(folder / "lilliput.json", {**info, **_ships(config)})
        write_weights(folder / WEIGHTS, model)
        tokenizer.save(folder, model_max_length=config.context)
        (folder / "README.md").write_text(card or _short_card(config), encoding="utf-8")
        for name, content in (beside or {}).items():
            (folder / name).write_bytes(content)
    return path


def load_model_dir(path: Path | str, device: torch.device | str = "cpu") -> tuple[Decoder, Tokenizer]:
    """Read a model directory of ours (of any family) or of transformers' Llama, Mistral, Qwen2 or Qwen3, as fp32 on
    `device`.

    Raises ModelError where it is none, uses what this decoder does not implement, or is damaged.
    """
    folder = Path(path)
    if not (folder / "config.json").is_file():
        raise ModelError(
            "there is no model here: config.json is absent",
            where=str(folder),
            mend="give the folder that `lilliput make` printed, or a Hugging Face model folder",
        )
    config = read_config(folder / "config.json")
    tokenizer = UnitTokenizer.open(folder) if isinstance(config, BytePoolConfig) else Tokenizer.load(folder)
    check_fit(config, tokenizer, str(folder))
    return read_weights(folder, config).to(device), tokenizer


def read_config(file: Path) -> ModelConfig:
    """The shape that a `config.json` describes; ModelError where we cannot compute it."""
    try:
        raw = json.loads(file.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ModelError(f"config.json is damaged: {error}", where=str(file), mend=AGAIN) from None
    if not isinstance(raw, dict):
        raise ModelError("config.json holds no object", where=str(file), mend=AGAIN)
    kind = BytePoolConfig if raw.get("model_type") == BYTE_POOL else ModelConfig
    return kind.from_hf(raw, where=str(file))


def check_fit(config: ModelConfig, tokenizer: Tokenizer, where: str) -> None:
    """A model may have rows that its tokenizer never names (padding), but not the reverse."""
    if tokenizer.vocab_size > config.vocab_size:
        raise ModelError(
            f"the tokenizer has {tokenizer.vocab_size} pieces, the model only {config.vocab_size} rows",
            where=where,
            mend="give the tokenizer that the model was trained with",
        )


def _ships(config: ModelConfig) -> dict[str, Any]:
    """What `lilliput.json` says of a class that lies in the directory; nothing where transformers knows the family."""
    own = sorted(class_files(config.family))
    return {"own_class": {"files": own, "load": "trust_remote_code=True"}} if own else {}


_KINDS = {
    "pangu": "Llama-shaped with PanGu-π blocks",
    "shared": "Llama-shaped with layers that share weights",
    "mixture-of-depths": "Llama-shaped with a mixture of depths",
    "byte-pool": "Byte-pooled",
}


def _short_card(config: ModelConfig) -> str:
    own = config.family != "llama"
    trust = ", trust_remote_code=True" if own else ""
    plain = f"{config.model_type.capitalize()}-shaped"
    kind = f"{_KINDS[config.family]}, whose class lies in this folder" if own else plain
    return f"""---
library_name: transformers
pipeline_tag: text-generation
tags: [lilliput]
---

# A tiny language model

{kind}: {config.parameters():,} parameters, {config.depth} layers of width {config.width}, vocabulary
{config.vocab_size}, context {config.context}. Made by Lilliput; `lilliput.json` says how.

```python
from transformers import AutoModelForCausalLM, AutoTokenizer

model = AutoModelForCausalLM.from_pretrained("."{trust})
tokenizer = AutoTokenizer.from_pretrained("."{trust})
```
"""

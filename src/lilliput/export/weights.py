"""Weights as safetensors files: written whole, read with every name and shape checked."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from lilliput.errors import ModelError
from lilliput.model.config import ModelConfig
from lilliput.model.decoder import Decoder
from lilliput.model.spaces import shapes

WEIGHTS = "model.safetensors"
_INDEX = "model.safetensors.index.json"
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")
_EMBEDDING, _HEAD = "model.embed_tokens.weight", "lm_head.weight"


def write_weights(path: Path, model: Decoder) -> None:
    """Write `model.state_dict()` to the file `path`; a tied head is not stored."""
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    save_file(tensors, path, metadata={"format": "pt"})


def read_weights(folder: Path, config: ModelConfig) -> Decoder:
    """A decoder with the weights of `folder` (one file or shards with an index), as fp32 on the CPU.

    Raises ModelError that names the tensors that are missing, unexpected or of the wrong shape.
    """
    model = Decoder(config)
    wanted, state = shapes(config), model.state_dict()
    seen: set[str] = set()
    unexpected: list[str] = []
    wrong: list[str] = []
    for name, tensor in _tensors(folder):
        if name.endswith(".rotary_emb.inv_freq"):
            continue  # a table that old transformers versions stored; it follows from the configuration
        if name == _HEAD and config.tied:
            _check_tied(tensor, state[_EMBEDDING], seen, folder)
        elif name not in wanted:
            unexpected.append(name)
        elif tuple(tensor.shape) != wanted[name]:
            wrong.append(f"{name} is {tuple(tensor.shape)}, not {wanted[name]}")
        else:
            state[name].copy_(tensor)
        seen.add(name)
    missing = [name for name in wanted if name not in seen]
    if missing or unexpected or wrong:
        parts = [
            f"{title}: {', '.join(names[:5])}{f' and {len(names) - 5} more' if len(names) > 5 else ''}"
            for title, names in (("missing", missing), ("unexpected", unexpected), ("wrong shape", wrong))
            if names
        ]
        raise ModelError(
            f"the weights do not fit config.json; {'; '.join(parts)}",
            where=str(folder),
            mend="give the config.json that these weights were saved with",
        )
    return model


def _check_tied(head: Tensor, embedding: Tensor, seen: set[str], folder: Path) -> None:
    """Some writers store a tied head beside the embedding: harmless if it is the same matrix."""
    if _EMBEDDING not in seen or head.shape != embedding.shape or not torch.equal(head.float(), embedding):
        raise ModelError(
            f"config.json ties the head to the embedding, but {_HEAD} is another matrix",
            where=str(folder),
            mend='set "tie_word_embeddings": false in config.json',
        )


def _tensors(folder: Path) -> Iterator[tuple[str, Tensor]]:
    """Every stored tensor, one at a time, the embedding before the head."""
    files = weight_files(folder)
    places = [(name, file) for file in files for name in tensor_shapes(file)]
    for name, file in sorted(places, key=lambda place: place[0] == _HEAD):
        with safe_open(file, framework="pt") as opened:
            yield name, opened.get_tensor(name)


def tensor_shapes(file: Path) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the tensors in a safetensors file, from its header; ModelError where it is damaged."""
    try:
        with safe_open(file, framework="pt") as opened:
            return {name: tuple(opened.get_slice(name).get_shape()) for name in opened.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise ModelError(
            f"the weights cannot be read: {error}", where=str(file), mend="copy or download the file again"
        ) from None


def index_file(folder: Path) -> Path | None:
    """The index of weights that lie in several files; None where one file holds them."""
    index = folder / _INDEX
    return index if index.is_file() and not (folder / WEIGHTS).is_file() else None


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files that hold a model's weights. Raises ModelError where there are none or one is absent."""
    if (folder / WEIGHTS).is_file():
        return [folder / WEIGHTS]
    if (index := index_file(folder)) is not None:
        try:
            files = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
        except (ValueError, KeyError, AttributeError, TypeError) as error:
            raise ModelError(f"the index of the weights is damaged: {error}", where=str(index)) from None
        absent = [name for name in files if Path(name).name != name or not (folder / name).is_file()]
        if absent:
            raise ModelError(
                f"{len(absent)} of {len(files)} weight files are absent: {', '.join(absent[:5])}",
                where=str(folder),
                mend="copy or download them again",
            )
        return [folder / name for name in files]
    pickles = sorted(file.name for pattern in _PICKLES for file in folder.glob(pattern))
    if pickles:
        raise ModelError(
            f"the weights are pickled ({pickles[0]}); a pickle can run any code when it is opened",
            where=str(folder),
            mend="convert them once where you trust them: "
            "AutoModelForCausalLM.from_pretrained(DIR).save_pretrained(NEW, safe_serialization=True)",
        )
    raise ModelError(
        f"there is no {WEIGHTS}", where=str(folder), mend="give a folder in the Hugging Face layout"
    )

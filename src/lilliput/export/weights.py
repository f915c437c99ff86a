"""Weights as safetensors files: written whole, checked by their headers, read one tensor at a time."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import starmap
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from lilliput.errors import ModelError
from lilliput.export.sound import AGAIN
from lilliput.model.build import build
from lilliput.model.carve import check_declared
from lilliput.model.config import ModelConfig
from lilliput.model.decoder import Decoder
from lilliput.model.spaces import shapes
from lilliput.progress import Progress

WEIGHTS = "model.safetensors"
_INDEX = "model.safetensors.index.json"
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")
_EMBEDDING, _HEAD = "model.embed_tokens.weight", "lm_head.weight"
_TYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
# Rows of two tables that are compared at once.
_ROWS = 4096


def write_weights(path: Path, model: Decoder) -> None:
    """Write `model.state_dict()` to the file `path`; a tied head is not stored."""
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    save_file(tensors, path, metadata={"format": "pt"})


def read_weights(folder: Path, config: ModelConfig) -> Decoder:
    """A decoder with the weights of `folder` (one file or shards with an index), as fp32 on the CPU. Errors as for
    `find_weights`."""
    return fill(config, find_weights(folder, config).tensors())


@dataclass(frozen=True)
class Stored:
    """The weights of a model directory, each tensor known by the file that holds it and none of them read.

    places: by name, exactly those that the shape declares. types: as stored, by name. files: all that are read.
    """

    places: Mapping[str, Path]
    types: Mapping[str, torch.dtype]
    files: tuple[Path, ...]

    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        """Name and tensor, as stored, one at a time. No file stays open, or mapped into memory, longer than the tensor
        that was read from it. Raises ModelError where a file is no longer what it was."""
        return ((name, _get(file, name)) for name, file in self.places.items())


def find_weights(folder: Path, config: ModelConfig) -> Stored:
    """The weights in `folder` of a model of the shape `config`, checked by the files' headers.

    Raises ModelError that names the tensors that are missing, unexpected, of the wrong shape, no floating-point
    numbers or stored twice, and where a tied head beside its embedding is another matrix.
    """
    files = tuple(weight_files(folder))
    wanted = shapes(config)
    places: dict[str, Path] = {}
    types: dict[str, torch.dtype] = {}
    faults: dict[str, list[str]] = {"missing": [], "unexpected": [], "wrong shape": [], "stored twice": []}
    head = None
    for file in files:
        for name, (shape, kind) in _headers(file).items():
            if name.endswith(".rotary_emb.inv_freq"):
                continue  # a table that old transformers versions stored; it follows from the configuration
            if name == _HEAD and config.tied:
                head = file
            elif name not in wanted:
                faults["unexpected"].append(name)
            elif shape != wanted[name]:
                faults["wrong shape"].append(f"{name} is {shape}, not {wanted[name]}")
            elif name in places:
                faults["stored twice"].append(f"{name} (in {places[name].name} and {file.name})")
            else:
                places[name], types[name] = file, _type(kind, name, file)
    found = {*places, *(fault.split(" ")[0] for fault in faults["wrong shape"])}
    faults["missing"] = [name for name in wanted if name not in found]
    _raise_faults(faults, folder)
    if head is not None:
        _check_tied(head, places[_EMBEDDING], folder)
    return Stored(places, types, files)


def _raise_faults(faults: Mapping[str, list[str]], folder: Path) -> None:
    parts = [
        f"{title}: {', '.join(names[:5])}{f' and {len(names) - 5} more' if len(names) > 5 else ''}"
        for title, names in faults.items()
        if names
    ]
    if parts:
        raise ModelError(
            f"the weights do not fit config.json; {'; '.join(parts)}",
            where=str(folder),
            mend="give the config.json that these weights were saved with",
        )


def fill(config: ModelConfig, tensors: Iterable[tuple[str, Tensor]], dtype: torch.dtype = torch.float32) -> Decoder:
    """A decoder of the shape `config` with the weights `tensors`, in any order, its parameters of type `dtype` on the
    CPU. One tensor is held at a time. Raises ModelError for one that does not belong to it and for missing ones."""
    with _default(dtype):
        model = build(config)
    state, wanted = model.state_dict(), shapes(config)
    missing = set(wanted)
    with Progress("reading the weights", len(wanted), "tensors") as bar:

        def put(name: str, tensor: Tensor) -> None:
            check_declared(name, tensor, wanted)
            state[name].copy_(tensor)
            missing.discard(name)
            bar.update(len(wanted) - len(missing))

        # A loop's variable would keep each tensor in memory while the next one is read.
        deque(starmap(put, tensors), maxlen=0)
    if missing:
        raise ModelError(f"{len(missing)} tensors are missing, {min(missing)} among them", where="weights")
    return model


@contextmanager
def _default(dtype: torch.dtype) -> Iterator[None]:
    """Let new parameters be of this type, so that none is ever held in a larger one."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def _check_tied(head: Path, embedding: Path, folder: Path) -> None:
    """Some writers store a tied head beside the embedding: harmless if it is the same matrix."""
    with safe_open(head, framework="pt") as one, safe_open(embedding, framework="pt") as other:
        left, right = one.get_slice(_HEAD), other.get_slice(_EMBEDDING)
        same = left.get_shape() == right.get_shape() and all(
            torch.equal(left[row : row + _ROWS].float(), right[row : row + _ROWS].float())
            for row in range(0, left.get_shape()[0], _ROWS)
        )
    if not same:
        raise ModelError(
            f"config.json ties the head to the embedding, but {_HEAD} is another matrix",
            where=str(folder),
            mend='set "tie_word_embeddings": false in config.json',
        )


def _get(file: Path, name: str) -> Tensor:
    try:
        with safe_open(file, framework="pt") as opened:
            tensor: Tensor = opened.get_tensor(name)
            return tensor
    except (SafetensorError, OSError) as error:
        raise ModelError(f"{name} cannot be read: {error}", where=str(file), mend=AGAIN) from None


def _headers(file: Path) -> dict[str, tuple[tuple[int, ...], str]]:
    """Shape and type of each tensor in a file, in the order in which they lie there."""
    try:
        with safe_open(file, framework="pt") as opened:
            slices = {name: opened.get_slice(name) for name in opened.keys()}  # noqa: SIM118, no mapping
            return {name: (tuple(found.get_shape()), found.get_dtype()) for name, found in slices.items()}
    except (SafetensorError, OSError) as error:
        raise ModelError(f"the weights cannot be read: {error}", where=str(file), mend=AGAIN) from None


def _type(kind: str, name: str, file: Path) -> torch.dtype:
    if kind not in _TYPES:
        raise ModelError(
            f"{name} is stored as {kind}; weights are read as F32, F16, BF16 or F64",
            where=str(file),
            mend="give the model before quantisation",
        )
    return _TYPES[kind]


def tensor_shapes(file: Path) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the tensors in a safetensors file, from its header; ModelError where it is damaged."""
    return {name: shape for name, (shape, _) in _headers(file).items()}


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
            reason = f"the index of the weights is damaged: {error}"
            raise ModelError(reason, where=str(index), mend=AGAIN) from None
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

"""Reading a checkpoint of llama2.c: one file with a header and the weights in fp32, little-endian.

Two layouts hold floats: the first one (a header of seven int32, a negative vocabulary for a head of its own) and
version 1 (256 bytes, beginning with a magic number). Neither stores the rotary base, the norms' epsilon or the
special tokens; llama2.c computes with 10000 and 1e-5, begins a text with token 1, and calls token 2 its end.

llama2.c turns neighbouring channels (2i, 2i + 1) of a head, Hugging Face and this decoder i and i + head_dim/2. So
the rows of q and k are put in another order, head by head: the even ones, then the odd ones.
"""

from __future__ import annotations

import io
import math
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from lilliput.errors import ModelError
from lilliput.export.sound import AGAIN
from lilliput.export.weights import fill
from lilliput.model.config import ModelConfig
from lilliput.model.decoder import Decoder
from lilliput.model.spaces import shapes
from lilliput.tokenizer.llama2c import is_tokenizer_bin

_MAGIC = 0x616B3432
_SIZES = ("dim", "hidden_dim", "n_layers", "n_heads", "n_kv_heads", "vocab_size", "seq_len")
_FIRST_BYTES, _VERSIONED_BYTES, _FLOAT = 28, 256, 4
# No model has a dimension beyond; other files give such numbers.
_LARGEST = 1 << 26
_FOREIGN = {
    b"PK\x03\x04": "a zip archive, as PyTorch writes",
    b"\x80": "a pickle",
    b"GGUF": "a GGUF model",
    b"\x1f\x8b": "a gzip archive",
}
_MEND = "give a .bin that llama2.c's export.py wrote as version 0 or 1, or a model folder in the Hugging Face layout"
_LAYER = "model.layers.{layer}."
_ATTENTION = [f"{_LAYER}self_attn.{part}_proj.weight" for part in "qkvo"]
# llama2.c's w1, w2, w3.
_FFN = [f"{_LAYER}mlp.{part}_proj.weight" for part in ("gate", "down", "up")]
_NORMS = [f"{_LAYER}{part}_layernorm.weight" for part in ("input", "post_attention")]


@dataclass(frozen=True)
class _Header:
    """sizes: as _SIZES names them, the vocabulary positive. start: of the weights, in bytes."""

    sizes: dict[str, int]
    tied: bool
    versioned: bool
    start: int

    def config(self) -> ModelConfig:
        sizes = self.sizes
        return ModelConfig(
            vocab_size=sizes["vocab_size"],
            depth=sizes["n_layers"],
            width=sizes["dim"],
            heads=sizes["n_heads"],
            kv_heads=sizes["n_kv_heads"],
            head_dim=sizes["dim"] // sizes["n_heads"],
            ffn=sizes["hidden_dim"],
            bos_id=1,
            eos_id=2,
            tied=self.tied,
            context=sizes["seq_len"],
            rope_theta=1e4,
            norm_eps=1e-5,
        )


@dataclass(frozen=True)
class Checkpoint:
    """A llama2.c checkpoint whose header and size were checked, and of which nothing more is read yet."""

    file: Path
    config: ModelConfig
    header: _Header

    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        """Name and tensor, fp32, one at a time, in the file's order and by the names and rows of the decoder. Raises
        ModelError where the file ends early."""
        wanted, tables = shapes(self.config), _FLOAT * self.config.context * self.config.head_dim
        at = self.header.start
        for name in _order(self.header, self.config):
            if name is not None:
                yield name, self._tensor(name, wanted[name], at)
            at += tables if name is None else _FLOAT * math.prod(wanted[name])

    def _tensor(self, name: str, shape: tuple[int, ...], at: int) -> Tensor:
        try:
            values = np.fromfile(self.file, "<f4", math.prod(shape), offset=at)
        except OSError as error:
            raise _unreadable(error, str(self.file)) from None
        if len(values) != math.prod(shape):
            raise ModelError(f"the file ends within {name}", where=str(self.file), mend=AGAIN)
        tensor = torch.from_numpy(values).view(shape)
        turned = name.endswith(("q_proj.weight", "k_proj.weight"))
        return _halves(tensor, self.config.head_dim) if turned else tensor


def find_checkpoint(file: Path) -> Checkpoint:
    """The llama2.c checkpoint in a file. Raises ModelError where it is none, is quantised (version 2), or its size is
    not what the header says."""
    where = str(file)
    try:
        with file.open("rb") as opened:
            size = opened.seek(0, io.SEEK_END)
            opened.seek(0)
            header = _read_header(opened.read(_VERSIONED_BYTES), where)
    except OSError as error:
        raise _unreadable(error, where) from None
    config = header.config()
    _check_size(header, config, size, where)
    return Checkpoint(file, config, header)


def is_checkpoint(file: Path) -> bool:
    """Whether a file is a llama2.c checkpoint."""
    try:
        find_checkpoint(file)
    except ModelError:
        return False
    return True


def read_llama2c(file: Path) -> Decoder:
    """A llama2.c checkpoint as a decoder, fp32 on the CPU; its tokenizer lies in a file of its own. Memory is the model
    and one of its matrices. Errors as for `find_checkpoint`."""
    checkpoint = find_checkpoint(file)
    return fill(checkpoint.config, checkpoint.tensors())


def _unreadable(error: OSError, where: str) -> ModelError:
    return ModelError(f"the checkpoint cannot be read: {error.strerror}", where=where, mend="check it")


def _read_header(head: bytes, where: str) -> _Header:
    """head: the file's first bytes, as many as the longer header has."""
    if len(head) < _FIRST_BYTES:
        reason = f"of {len(head)} bytes" if head else "which is empty"
        raise ModelError(f"not a llama2.c checkpoint: a file {reason}", where=where, mend=_MEND)
    (magic,) = struct.unpack_from("<I", head)
    if magic == _MAGIC:
        return _versioned(head, where)
    sizes = struct.unpack_from("<7i", head)
    named = dict(zip(_SIZES, (*sizes[:5], abs(sizes[5]), sizes[6]), strict=True))
    if problem := _problem(named):
        raise _no_checkpoint(head, problem, where)
    return _Header(named, tied=sizes[5] > 0, versioned=False, start=_FIRST_BYTES)


def _versioned(head: bytes, where: str) -> _Header:
    if len(head) < _VERSIONED_BYTES:
        raise ModelError("the header is cut off", where=where, mend=AGAIN)
    version, *sizes = struct.unpack_from("<8i", head, 4)
    named = dict(zip(_SIZES, sizes, strict=True))
    if version == 2:
        mend = "export the model it was made from again: export.py NEW.bin --version 1"
        raise ModelError("an int8 checkpoint (llama2.c's version 2) is not read", where=where, mend=mend)
    if version != 1:
        raise ModelError(f"version {version} of llama2.c's checkpoints is not known", where=where, mend=_MEND)
    problem = _problem(named) or (f"the flag for a shared head is {head[36]}" if head[36] > 1 else None)
    if problem:
        raise ModelError(f"the header is damaged: {problem}", where=where, mend=AGAIN)
    return _Header(named, tied=head[36] == 1, versioned=True, start=_VERSIONED_BYTES)


def _problem(sizes: dict[str, int]) -> str | None:
    """Why these are no sizes of a model; None where they are."""
    for name, size in sizes.items():
        if not 0 < size <= _LARGEST:
            return f"{name} is {size}"
    for name, divisor in (("dim", "n_heads"), ("n_heads", "n_kv_heads")):
        if sizes[name] % sizes[divisor]:
            return f"{name} is {sizes[name]}, no multiple of {divisor} ({sizes[divisor]})"
    if sizes["dim"] // sizes["n_heads"] % 2:
        return f"a head has {sizes['dim'] // sizes['n_heads']} channels, which make no pairs"
    return None


def _no_checkpoint(head: bytes, problem: str, where: str) -> ModelError:
    """The error for a file whose first numbers are no header; problem: why not."""
    turned = struct.unpack_from(">7i", head)
    if struct.pack(">I", _MAGIC) == head[:4] or not _problem(dict(zip(_SIZES, map(abs, turned), strict=True))):
        mend = "write it on a little-endian machine, or turn the bytes of each number around"
        return ModelError("the checkpoint is big-endian; llama2.c's are little-endian", where=where, mend=mend)
    what = next((what for magic, what in _FOREIGN.items() if head.startswith(magic)), None)
    if head[8:10] == b'{"':
        what = "a safetensors file"
    elif is_tokenizer_bin(head):
        what = "llama2.c's tokenizer.bin, which belongs beside one"
    elif what is None and _is_text(head):
        what = "a text"
    reason = f"it is {what}" if what else f"by its header {problem}"
    return ModelError(f"not a llama2.c checkpoint: {reason}", where=where, mend=_MEND)


def _is_text(head: bytes) -> bool:
    # The last character may be cut in two.
    text = head.decode("utf-8", "ignore")
    return len(head) - len(text.encode()) < 4 and all(letter.isprintable() or letter.isspace() for letter in text)


def _check_size(header: _Header, config: ModelConfig, size: int, where: str) -> None:
    """Raises ModelError where a file of `size` bytes is not exactly what the header announces."""
    tables = 0 if header.versioned else config.context * config.head_dim
    wanted = header.start + _FLOAT * (config.parameters() + tables)
    if size != wanted:
        shape = ", ".join(f"{name} {value}" for name, value in header.sizes.items())
        fault = f"{wanted - size} are missing" if size < wanted else f"{size - wanted} are too many"
        reason = f"the file has {size} bytes, a checkpoint of its header ({shape}) has {wanted}: {fault}"
        raise ModelError(reason, where=where, mend=f"{AGAIN}, or {_MEND}")


def _order(header: _Header, config: ModelConfig) -> Iterator[str | None]:
    """The tensors' names in the file's order; None for the first layout's rotary tables, which follow from the rest."""
    embedding, norm, head = "model.embed_tokens.weight", "model.norm.weight", "lm_head.weight"

    def layers(*templates: str) -> Iterator[str]:
        for template in templates:
            yield from (template.format(layer=layer) for layer in range(config.depth))

    if header.versioned:
        yield from (*layers(*_NORMS), norm, embedding, *layers(*_ATTENTION, *_FFN))
    else:
        yield from (embedding, *layers(_NORMS[0], *_ATTENTION, _NORMS[1], *_FFN), norm, None)
    if not config.tied:
        yield head


def _halves(rows: Tensor, head_dim: int) -> Tensor:
    """The rows (heads · head_dim, width) of each head with the even ones first, in a tensor of its own."""
    pairs = rows.view(-1, head_dim // 2, 2, rows.shape[1])
    return pairs.transpose(1, 2).reshape(rows.shape)

"""A bigger model to inherit from: opened, checked by what its files say of themselves, and read one tensor at a time.

Two kinds are teachers: a model directory, ours or of `transformers` (its weights in one file or in shards), and a
checkpoint of llama2.c with its tokenizer.bin. Everything else is refused by what it is, before any work.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from lilliput.errors import ConfigError, ModelError, TokenizerError
from lilliput.export.hf import check_fit, read_config
from lilliput.export.llama2c import find_checkpoint, is_checkpoint
from lilliput.export.sound import check_downloaded, check_sound
from lilliput.export.weights import fill, find_weights
from lilliput.model.config import ModelConfig
from lilliput.model.decoder import Decoder
from lilliput.progress import Progress
from lilliput.store import canonical_hash, file_hash
from lilliput.tokenizer.formats import find_file
from lilliput.tokenizer.load import Tokenizer
from lilliput.tokenizer.source import Source, read_source

# What goes along with weights wherever they go.
_BESIDE = ("LICENSE*", "LICENCE*", "NOTICE*", "COPYING*", "generation_config.json")
_LARGEST = 1_000_000  # bytes of such a file
_DOWNLOAD = "a model of the Hugging Face hub has to be there first: hf download NAME --local-dir DIR"
_MEND = "give a model folder in the Hugging Face layout, or a checkpoint of llama2.c (.bin)"
# Why a folder without config.json is none, by a file that it holds.
_HOLDS = {
    "adapter_config.json": ("an adapter, no model", "merge it into its model first (merge_and_unload of peft)"),
    "*.gguf": ("a GGUF model", "give the folder that it was converted from"),
    "*.onnx": ("an ONNX model", "give the folder that it was converted from"),
    "*.safetensors": ("weights without config.json", "put the model's own config.json beside them"),
    "*.index.json": ("weights without config.json", "put the model's own config.json beside them"),
    "*.bin": ("pickled weights without config.json", _MEND),
    "*.p[tk]*": ("pickled weights without config.json", _MEND),
}


@dataclass(frozen=True)
class Teacher:
    """A model that was opened to inherit from; none of its weights are in memory.

    place: what was named. dtype: the type in which a child is kept: the stored one where all tensors share one of
    fp32, fp16 and bf16, else fp32, which holds each of them exactly; so a carve that removes nothing gives back the
    stored numbers. files: all that weights are read from.
    """

    place: Path
    kind: Literal["transformers", "llama2.c"]
    config: ModelConfig
    tokenizer: Tokenizer
    dtype: torch.dtype
    files: tuple[Path, ...]
    definition: str  # the hash of the tokenizer with all that is declared of it
    stream: Callable[[], Iterator[tuple[str, Tensor]]] = field(repr=False)

    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        """Every tensor by its name here, as stored, from the beginning at each call; a tied head is not among them.

        One is read when it is asked for, and no file stays open. Raises ModelError where a file is no longer whole, or
        a tensor holds what is no weight.
        """
        return map(self._sound, self.stream())

    def _sound(self, found: tuple[str, Tensor]) -> tuple[str, Tensor]:
        check_sound(self.place, *found)
        return found

    def model(self, device: torch.device | str = "cpu") -> Decoder:
        """The whole model, fp32 on `device`."""
        return fill(self.config, self.tensors()).to(device)

    def identity(self) -> dict[str, str]:
        """Hashes of all that is read, by file: the weights, config.json and what goes along; `tokenizer` is that of
        the whole definition. Raises ModelError for a file that is not what was downloaded."""
        return dict(self._hashes)

    @cached_property
    def _hashes(self) -> dict[str, str]:
        own = [self.place / "config.json"] if self.kind == "transformers" else []
        read = [*own, *self.files, *self._along()]
        found: dict[str, str] = {"tokenizer": self.definition}
        with Progress("hashing the teacher", sum(file.stat().st_size for file in read), "B") as bar:
            for file in read:
                found[file.name] = file_hash(file)
                check_downloaded(file, found[file.name])
                bar.update(bar.done + file.stat().st_size)
        return found

    def beside(self) -> dict[str, bytes]:
        """Files that a child takes along as they are, by name: the licence, and how the teacher asks to be sampled
        (generation_config.json)."""
        return {file.name: file.read_bytes() for file in self._along()}

    def _along(self) -> list[Path]:
        if self.kind != "transformers":
            return []
        found = {file for pattern in _BESIDE for file in self.place.glob(pattern)}
        return sorted(file for file in found if file.is_file() and file.stat().st_size <= _LARGEST)


def open_teacher(place: Path | str, tokenizer: Path | str | None = None) -> Teacher:
    """The teacher in a model directory or a llama2.c checkpoint; one that was opened before is given again as long as
    its files are the same (by inode, size and times).

    tokenizer: for a checkpoint, which has none, its tokenizer.bin; for a directory without one, the model's own.
    Reads the weights' headers, and of the weights themselves only a tied head that is stored beside its embedding.
    Raises ModelError for what is no teacher, is damaged or incomplete, or computes what this decoder does not,
    ConfigError where the tokenizer has to be named, TokenizerError where it cannot be this model's.
    """
    place = Path(place).expanduser()
    named = None if tokenizer is None else Path(tokenizer).expanduser()
    files = sorted(place.iterdir()) if place.is_dir() else [place]
    states = [(file.name, file.stat()) for file in (*files, *([named] if named else [])) if file.is_file()]
    state = tuple((name, at.st_ino, at.st_size, at.st_mtime_ns, at.st_ctime_ns) for name, at in states)
    return _opened(place, named, state)


# A teacher, and what a compaction made of it.
@lru_cache(maxsize=2)
def _opened(place: Path, named: Path | None, state: tuple[object, ...]) -> Teacher:
    """state: of the files, so that changed ones are read anew."""
    if place.is_dir():
        return _open_directory(place, named)
    if place.is_file():
        return _open_checkpoint(place, named)
    raise ModelError("there is no such file or folder", where=str(place), mend=f"{_MEND}; {_DOWNLOAD}")


def _open_directory(place: Path, named: Path | None) -> Teacher:
    if not (place / "config.json").is_file():
        raise _no_model(place)
    config = read_config(place / "config.json")
    if config.share is not None:
        mend = "give a model without, or train this one further: lilliput make from=DIR"
        raise ModelError("its layers share weights, which inheritance cannot take apart", where=str(place), mend=mend)
    if config.capacity:
        reason = "a mixture of depths is no teacher: its routers go with its layers"
        raise ModelError(reason, where=str(place), mend="give a teacher of another family")
    stored = find_weights(place, config)
    source = _source_of(place, named)
    tokenizer = Tokenizer.of(source)
    check_fit(config, tokenizer, str(named or place))
    types = set(stored.types.values())
    dtype = types.pop() if len(types) == 1 else torch.float32
    return Teacher(
        place,
        "transformers",
        config,
        tokenizer,
        torch.float32 if dtype is torch.float64 else dtype,
        stored.files,
        _definition(source),
        stored.tensors,
    )


def _open_checkpoint(place: Path, named: Path | None) -> Teacher:
    try:
        checkpoint = find_checkpoint(place)
    except ModelError as error:
        if (place.parent / "config.json").is_file():
            raise ModelError(error.message, where=error.where, mend=f"name the folder: {place.parent}") from None
        raise
    config = checkpoint.config
    if named is None:
        beside = sorted(file.name for file in place.parent.glob("tok*.bin"))
        there = f"--tokenizer {place.parent / beside[0]} lies beside it" if beside else "name it with --tokenizer FILE"
        reason = "a checkpoint of llama2.c does not hold its tokenizer"
        raise ConfigError(reason, where="--tokenizer", mend=there)
    source = read_source(named)
    tokenizer = Tokenizer.of(source)
    if tokenizer.vocab_size != config.vocab_size:
        raise TokenizerError(
            f"it has {tokenizer.vocab_size:,} pieces, and {place.name} has {config.vocab_size:,} rows for them",
            where=str(named),
            mend="give the tokenizer.bin that the checkpoint was trained with",
        )
    # The header says nothing of special pieces: the tokenizer knows them by name.
    config = replace(config, bos_id=tokenizer.bos_id, eos_id=tokenizer.eos_id)
    return Teacher(
        place, "llama2.c", config, tokenizer, torch.float32, (place,), _definition(source), checkpoint.tensors
    )


def _source_of(place: Path, named: Path | None) -> Source:
    """The tokenizer of a model directory; one that is named must be the same, where the directory has its own."""
    if named is None:
        return read_source(place)
    found = read_source(named)
    if _has_tokenizer(place) and read_source(place).hash != found.hash:
        raise TokenizerError(
            f"the teacher in {place} has a tokenizer of its own, which gives other numbers",
            where=str(named),
            mend="leave --tokenizer out",
        )
    return found


def _has_tokenizer(folder: Path) -> bool:
    """Whether one file in a folder is its tokenizer; of several, one has to be named."""
    try:
        find_file(folder)
    except TokenizerError:
        return False
    return True


def _definition(source: Source) -> str:
    return canonical_hash({"definition": source.definition, "config": source.config})


def _no_model(place: Path) -> ModelError:
    """The error for a folder without config.json, by what lies there."""
    where = str(place)
    if not any(place.iterdir()):
        return ModelError("the folder is empty", where=where, mend=f"{_MEND}; {_DOWNLOAD}")
    if (place / "model" / "config.json").is_file():
        return ModelError("this is a run, not its model", where=where, mend=f"name {place / 'model'}")
    for file in sorted(place.glob("*.bin")):
        if is_checkpoint(file):
            reason = "no model folder: it holds a checkpoint of llama2.c"
            return ModelError(reason, where=where, mend=f"name the file: {file}")
    for pattern, (what, mend) in _HOLDS.items():
        if found := sorted(file.name for file in place.glob(pattern)):
            return ModelError(f"there is no model here, but {what} ({found[0]})", where=where, mend=mend)
    return ModelError("there is no model here: config.json is absent", where=where, mend=_MEND)

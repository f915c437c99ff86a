"""A teacher's answers on disk: for each position of a run's windows the k likeliest pieces, the rest as one mass.

    manifest.json        what decides the answers: teacher, id map, temperature, k, context, vocabulary
    part-000000/         some windows; a part is there whole or not at all, and interrupted work goes on after the last
        windows.npy      S16 (W,), a hash of each window's tokens: how it is found again, whatever the order
        pieces.npy       uint16 or uint32 (W, context, k), numbers of the student, the likeliest first
        logs.npy         float16 (W, context, k), log-probabilities less the first one's
        rest.npy         float32 (W, context), probability outside the k, given that the piece is a kept one
        kept.npy         float32 (W, context), probability of all kept pieces

Differences to the likeliest are stored, not the log-probabilities: the sum is known from `rest`, so what float16 rounds
off alike in all of them is put back when it is read.
"""

from __future__ import annotations

import hashlib
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lilliput.errors import ConfigError, StorageError
from lilliput.inherit.teacher_logits import Answer, Live, TeacherView, too_long
from lilliput.model.loss import chunk_rows
from lilliput.progress import Progress, count, say
from lilliput.store import atomic_dir, locked, read_json, write_json
from lilliput.train.checkpoint import disk_full
from lilliput.train.order import Windows, permute

if TYPE_CHECKING:
    from lilliput.train.config import TrainConfig

FORMAT = 1
_MANIFEST = "manifest.json"
_FIELDS = ("windows", "pieces", "logs", "rest", "kept")
# Of a part, and what a killed process loses at most: one of a slow teacher is shorter.
_PART_BYTES, _PART_SECONDS = 8 << 20, 60.0
# Tokens that the teacher reads at once.
_BATCH_TOKENS = {"cpu": 4096, "cuda": 65536}
_HASHED_TOKENS = 1 << 20  # tokens held while windows are looked up
_LOWEST = -6e4  # the smallest difference that float16 holds, about


@dataclass(frozen=True)
class Caching:
    """What came of `cache`. windows: that the folder has now. added: of these, written now. bytes: of the folder."""

    folder: Path
    windows: int
    added: int
    bytes: int


def position_bytes(k: int, vocab: int) -> int:
    """Bytes of one position."""
    return k * (_piece_type(vocab).itemsize + 2) + 8


def cache(
    folder: Path | str,
    teacher: Live,
    shards: Windows,
    config: TrainConfig,
    *,
    vocab: int,
    k: int = 32,
    device: torch.device | str = "cpu",
) -> Caching:
    """Write the answers of `teacher` to every window that a run of `config` reads, for a student of `vocab` rows.

    k: pieces kept for a position, at most those that both have. What is in the folder already is not done again, so
    interrupted work goes on, and a longer run adds what it needs. The size is said before the work begins.
    Raises ConfigError where the folder holds answers of another kind or the teacher cannot read the windows,
    StorageError where they would not fit on the disk.
    """
    folder = Path(folder)
    context, pieces = config.context, _answered(teacher, vocab)
    if k < 1:
        raise ConfigError(f"{k} pieces of each position cannot be kept", where="k", mend="give 32, or at least 1")
    if context > teacher.context:
        raise too_long(context, teacher.context)
    k = min(k, pieces)
    decisive = {**teacher.identity(), "k": k, "context": context, "vocab": pieces}
    folder.mkdir(parents=True, exist_ok=True)
    with locked(folder / ".lock", "the teacher's answers"):
        _open(folder, decisive)
        known = {digest for part in _parts(folder) for digest in part["windows"].tolist()}
        todo = _missing(shards, config, known)
        size = position_bytes(k, pieces) * context + 16
        _announce(folder, len(todo), size, context)
        writer = _Writer(folder, max(1, _PART_BYTES // size), _piece_type(pieces))
        with Progress("asking the teacher", len(todo) * context, "tokens") as bar:
            step = max(1, _BATCH_TOKENS.get(torch.device(device).type, 4096) // context)
            for begin in range(0, len(todo), step):
                batch = torch.from_numpy(_read(shards, todo[begin : begin + step], context))
                writer.add(batch, _asked(teacher, batch.to(device), pieces, k))
                bar.update((begin + len(batch)) * context)
        writer.flush()
    held = len(known) + len(todo)
    return Caching(folder, held, len(todo), held * size)


def _answered(teacher: Live, vocab: int) -> int:
    """How many of the student's rows the teacher answers for: the first ones."""
    return min(vocab, teacher.model.config.vocab_size) if teacher.ids is None else len(teacher.ids)


def _piece_type(vocab: int) -> np.dtype[Any]:
    return np.dtype("<u2" if vocab <= 1 << 16 else "<u4")


def _open(folder: Path, decisive: dict[str, Any]) -> None:
    """Begin the folder, or prove that it holds answers of this kind; to be called with its lock held."""
    wanted = {"format": FORMAT, **decisive}
    file = folder / _MANIFEST
    for left in folder.glob(".part-*"):  # of a killed process
        shutil.rmtree(left, ignore_errors=True)
    if not file.is_file():
        if any(not path.name.startswith(".") for path in folder.iterdir()):
            raise ConfigError("the folder is not empty", where=str(folder), mend="give another one for the answers")
        write_json(file, wanted)
    found = read_json(file)
    changed = [f"{name} {found.get(name)!r} → {value!r}" for name, value in wanted.items() if found.get(name) != value]
    if changed:
        raise ConfigError(
            f"the folder holds answers of another kind: {', '.join(changed)}",
            where=str(folder),
            mend="give another folder, or remove this one",
        )


def _announce(folder: Path, windows: int, size: int, context: int) -> None:
    """Say how large the work is; refuse what does not fit."""
    need, free = windows * size, shutil.disk_usage(folder).free
    if windows:
        say(f"the teacher's answers to {count(windows * context)} tokens take {count(need)}B in {folder}")
    if need > free:
        raise StorageError(
            f"the teacher's answers take {count(need)}B, {count(free)}B are free",
            where=str(folder),
            mend="give a folder on another disk, a smaller k, or let the teacher answer on the way",
        )


def _missing(shards: Windows, config: TrainConfig, known: set[bytes]) -> NDArray[np.int64]:
    """Numbers of the windows that the run reads and that are not known, each content once, in the corpus's order.

    −1 stands for the window of zeros: what padding reads, and what a compiled model is tried on.
    """
    n, asked = shards.windows(config.context), config.steps * config.batch_sequences
    if asked >= n:
        indices = np.arange(n, dtype=np.int64)
    else:
        indices = np.sort(permute(np.arange(asked, dtype=np.int64), n, config.seed, config.round, 0))
    indices, step = np.concatenate([[-1], indices]), max(1, _HASHED_TOKENS // config.context)
    seen, found = set(known), []
    with Progress("looking windows up", len(indices), "windows") as bar:
        for begin in range(0, len(indices), step):
            some = indices[begin : begin + step]
            for index, digest in zip(some.tolist(), _digests(_read(shards, some, config.context)), strict=True):
                if digest not in seen:
                    seen.add(digest)
                    found.append(index)
            bar.update(begin + len(some))
    return np.array(found, np.int64)


def _read(shards: Windows, indices: NDArray[np.int64], context: int) -> NDArray[np.int64]:
    """What a model reads of the windows, int64 (len(indices), context)."""
    ids_BT = np.zeros((len(indices), context), np.int64)
    real = indices >= 0
    if real.any():
        ids_BT[real] = shards.batch(indices[real], context)[:, :-1]
    return ids_BT


def _digests(ids_BT: NDArray[np.int64]) -> list[bytes]:
    """16 bytes for each window. NumPy's byte strings end at their last byte that is not zero, so these do too."""
    rows = ids_BT.astype("<u4")
    return [hashlib.blake2b(row.tobytes(), digest_size=16).digest().rstrip(b"\0") for row in rows]


Fields = dict[str, NDArray[Any]]


@torch.no_grad()
def _asked(teacher: Live, ids_BT: Tensor, vocab: int, k: int) -> Fields:
    """The fields of a batch but for the hashes, chunk by chunk."""
    view, shape = teacher(ids_BT), tuple(ids_BT.shape)
    total = ids_BT.numel()
    rows = chunk_rows(view.rows, ids_BT.device)
    chunks = []
    for begin in range(0, total, rows):
        answer = view.answer(begin, min(begin + rows, total), vocab)
        logs_CK, pieces_CK = answer.logs.float().topk(k, 1)
        rest_C = (1 - logs_CK.exp().sum(1)).clamp(min=0) if k < vocab else torch.zeros_like(logs_CK[:, 0])
        less_CK = (logs_CK - logs_CK[:, :1]).clamp(min=_LOWEST).half()
        chunks.append((pieces_CK.to(torch.int32), less_CK, rest_C, answer.kept.float()[:, 0]))
    flat = [torch.cat(parts).cpu().numpy() for parts in zip(*chunks, strict=True)]
    return {name: one.reshape(*shape, *one.shape[1:]) for name, one in zip(_FIELDS[1:], flat, strict=True)}


class _Writer:
    """Gathers windows and writes them as parts."""

    def __init__(self, folder: Path, windows: int, piece: np.dtype[Any]) -> None:
        self._folder, self._windows, self._piece = folder, windows, piece
        self._number = 1 + max((int(part.name.removeprefix("part-")) for part in folder.glob("part-*")), default=-1)
        self._held: list[Fields] = []
        self._begun = time.monotonic()

    def add(self, batch: Tensor, fields: Fields) -> None:
        """batch: (B, context), what the answers are to."""
        windows = np.array(_digests(batch.numpy()), "S16")
        self._held.append({**fields, "windows": windows, "pieces": fields["pieces"].astype(self._piece)})
        full = sum(len(one["windows"]) for one in self._held) >= self._windows
        if full or time.monotonic() - self._begun > _PART_SECONDS:
            self.flush()

    def flush(self) -> None:
        """Write what is held as one part, whole or not at all."""
        if not self._held:
            return
        try:
            with atomic_dir(self._folder / f"part-{self._number:06d}") as part:
                for name in _FIELDS:
                    np.save(part / f"{name}.npy", np.concatenate([one[name] for one in self._held]))
        except OSError as error:
            if not disk_full(error):
                raise
            mend = "make room there and ask again: what is there is kept"
            raise StorageError("no room left for the teacher's answers", where=str(self._folder), mend=mend) from error
        self._number, self._held, self._begun = self._number + 1, [], time.monotonic()


def _parts(folder: Path) -> Iterator[Fields]:
    """The parts, mapped into memory. Raises StorageError where one is damaged."""
    for path in sorted(folder.glob("part-*")):
        try:
            part = {name: np.load(path / f"{name}.npy", mmap_mode="r") for name in _FIELDS}
            if len({len(one) for one in part.values()}) > 1:
                raise ValueError("its files are of different lengths")
        except (OSError, ValueError, EOFError) as error:
            mend = "remove this part, and let the teacher answer again: only these windows are asked anew"
            raise StorageError(f"damaged answers of a teacher: {error}", where=str(path), mend=mend) from None
        yield part


class Cached:
    """A teacher that answers from what `cache` wrote; found by the content of the windows.

    Raises ConfigError where the folder holds no answers, or is asked for windows that it has none to.
    """

    def __init__(self, folder: Path | str) -> None:
        self.folder = Path(folder)
        if not (self.folder / _MANIFEST).is_file():
            mend = "let the teacher answer first, or on the way"
            raise ConfigError("no answers of a teacher are here", where=str(folder), mend=mend)
        self.manifest: dict[str, Any] = read_json(self.folder / _MANIFEST)
        if self.manifest.get("format") != FORMAT:
            reason = f"the answers are of format {self.manifest.get('format')}, this version reads {FORMAT}"
            raise ConfigError(reason, where=str(folder), mend="remove the folder, and let the teacher answer again")
        self.temperature, self.context = float(self.manifest["temperature"]), int(self.manifest["context"])
        self.pieces, self.mapped = int(self.manifest["vocab"]), str(self.manifest["ids"])
        self._parts = list(_parts(self.folder))
        sizes = [len(part["windows"]) for part in self._parts]
        hashes = np.concatenate([np.zeros(0, "S16"), *(part["windows"] for part in self._parts)])
        order = np.argsort(hashes, kind="stable")
        self._hashes = hashes[order]
        # Of each window its part and its place there.
        self._at = np.stack([np.repeat(np.arange(len(sizes)), sizes), np.concatenate([[], *map(np.arange, sizes)])])
        self._at = self._at[:, order].astype(np.int64)

    def identity(self) -> dict[str, object]:
        """What decides its answers."""
        return {name: self.manifest[name] for name in ("teacher", "ids", "temperature", "k")}

    def __call__(self, ids_BT: Tensor) -> TeacherView:
        """The answers to these windows."""
        if ids_BT.shape[1] != self.context:
            reason = f"the answers are to windows of {self.context} tokens, not of {ids_BT.shape[1]}"
            raise ConfigError(reason, where=str(self.folder), mend="let the teacher answer again, in another folder")
        wanted = np.array(_digests(ids_BT.cpu().numpy()), "S16")
        places = np.searchsorted(self._hashes, wanted)
        if (places == len(self._hashes)).any() or (self._hashes[places] != wanted).any():
            raise ConfigError(
                "the teacher was not asked about a window of this run",
                where=str(self.folder),
                mend="let it answer again for this run's text, seed and length (longer, if steps were left out): "
                "what is there is kept",
            )
        rows = [(self._parts[part], row) for part, row in self._at[:, places].T.tolist()]
        fields = {name: np.concatenate([part[name][row] for part, row in rows]) for name in _FIELDS[1:]}
        return _CachedView({name: _tensor(one, ids_BT.device) for name, one in fields.items()})


def _tensor(array: NDArray[Any], device: torch.device) -> Tensor:
    """Small ones as they are, unsigned ones as int64: torch indexes with nothing else."""
    return torch.from_numpy(array.astype(np.int64) if array.dtype.kind == "u" else array).to(device)


@dataclass(frozen=True)
class _CachedView:
    """fields: `pieces`, `logs` (N, k), `rest`, `kept` (N,)."""

    fields: dict[str, Tensor]

    @property
    def rows(self) -> int:
        """Numbers alive for each position."""
        return self.fields["pieces"].shape[1]

    def answer(self, begin: int, end: int, vocab: int) -> Answer:
        """The k likeliest, made to sum to what the rest leaves."""
        pieces, logs, rest, kept = (self.fields[name][begin:end] for name in _FIELDS[1:])
        rest_C1 = rest[:, None]
        return Answer(pieces, torch.log_softmax(logs.float(), 1) + torch.log1p(-rest_C1), rest_C1, kept[:, None])

"""What a teacher says of the next piece, in the numbers of a student whose vocabulary is a part of the teacher's."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor

from lilliput.errors import ConfigError
from lilliput.model.gemm import multiply
from lilliput.progress import Progress

if TYPE_CHECKING:
    from lilliput.model.decoder import Decoder


@dataclass(frozen=True)
class Answer:
    """The teacher's distribution at C positions.

    Its vocabulary falls into the kept pieces, which the student has too, and one bucket of all others (dropped by a
    compaction, or rows of padding). pieces: (C, K), the student's numbers of K kept pieces; None: the first K in order.
    logs: (C, K), their log-probabilities given that the piece is a kept one. rest: (C, 1), what all other kept pieces
    have together, given the same. kept: (C, 1), the probability of all kept pieces: 1 − the bucket's.
    """

    pieces: Tensor | None
    logs: Tensor
    rest: Tensor
    kept: Tensor


class TeacherView(Protocol):
    """A teacher's answers to one batch of windows, made or read piece by piece."""

    @property
    def rows(self) -> int:
        """Numbers alive for each position that is asked for."""
        ...

    def answer(self, begin: int, end: int, vocab: int) -> Answer:
        """At positions begin … end of the flattened batch, for a student of `vocab` rows."""
        ...


class Answering(Protocol):
    """A teacher that can be asked: `Live`, or `teacher_cache.Cached`."""

    temperature: float
    """What its logits are divided by."""
    context: int
    """Positions of the longest window it answers to."""
    pieces: int
    """Rows that a student must have."""
    mapped: str
    """Hash of the id map (`map_hash`)."""

    def identity(self) -> dict[str, object]:
        """What decides its answers."""
        ...

    def __call__(self, ids_BT: Tensor) -> TeacherView:
        """ids_BT: int64, the student's numbers."""
        ...


def map_hash(ids: Tensor | None) -> str:
    """Tells one id map from another; empty where both number alike."""
    return "" if ids is None else hashlib.sha256(ids.cpu().to(torch.int64).numpy().tobytes()).hexdigest()[:24]


def compute_dtype(x: Tensor) -> torch.dtype:
    """What matrix products run in: autocast's type where it is on (it does not reach into our own products)."""
    if torch.is_autocast_enabled(x.device.type):
        return torch.get_autocast_dtype(x.device.type)
    return x.dtype


def head_logits(x_CD: Tensor, w_VD: Tensor) -> Tensor:
    """x · wᵀ, in fp32 or better."""
    logits_CV = multiply(x_CD, w_VD)
    return logits_CV.to(torch.promote_types(logits_CV.dtype, torch.float32))


class Live:
    """A teacher that computes its answers while the student trains: in eval, without gradients, on the student's
    device and in its precision.

    model: the teacher; it is moved to that device and put in eval. ids: (n,), the teacher's number of each of the
    student's n pieces; None where both number alike (then rows that only one of the two has are padding).
    """

    def __init__(self, model: Decoder, *, temperature: float = 1.0, ids: Tensor | None = None) -> None:
        rows = model.config.vocab_size
        if ids is not None and not (ids.dim() == 1 and len(ids) and 0 <= int(ids.min()) <= int(ids.max()) < rows):
            raise ConfigError(
                f"the id map names pieces beyond the teacher's {rows} rows",
                where="ids",
                mend="give the ids.json of the compaction that cut the student's vocabulary out of this teacher's",
            )
        self.model, self.temperature, self.ids = model, temperature, ids
        self.context, self.mapped = model.config.context, map_hash(ids)
        self.pieces = 1 if ids is None else len(ids)

    @cached_property
    def weights(self) -> str:
        """Hash of all the teacher's weights."""
        digest, state = hashlib.sha256(), self.model.state_dict()
        with Progress("reading the teacher", sum(tensor.nbytes for tensor in state.values()), "B") as bar:
            for name, tensor in sorted(state.items()):
                digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
                digest.update(tensor.cpu().contiguous().view(torch.uint8).numpy())
                bar.update(bar.done + tensor.nbytes)
        return digest.hexdigest()[:24]

    def identity(self) -> dict[str, object]:
        """What decides its answers."""
        return {"teacher": self.weights, "ids": self.mapped, "temperature": self.temperature}

    def __call__(self, ids_BT: Tensor) -> TeacherView:
        """The teacher's answers to windows in the student's numbers. Raises ConfigError for windows that are longer
        than its context, or hold pieces that the map does not know."""
        if ids_BT.shape[1] > self.context:
            raise too_long(ids_BT.shape[1], self.context)
        known = self.model.config.vocab_size if self.ids is None else len(self.ids)
        if int(ids_BT.max()) >= known:
            raise ConfigError(
                f"the text holds a piece of number {int(ids_BT.max())}; the teacher knows {known}",
                where="teacher",
                mend="give the teacher that this tokenizer is from, and the id map of its compaction",
            )
        self.model.to(ids_BT.device).eval()
        if self.ids is not None:
            self.ids = self.ids.to(ids_BT.device)
            ids_BT = self.ids[ids_BT]
        with torch.no_grad():
            states_ND = self.model.model(ids_BT).flatten(0, 1)
            dtype = compute_dtype(states_ND)
            return _LiveView(states_ND.to(dtype), self.model.head_weight().to(dtype), self.ids, self.temperature)


@dataclass(frozen=True)
class _LiveView:
    """states: (N, D), what the teacher's head (V, D) reads; its logits exist only where they are asked for."""

    states: Tensor
    head: Tensor
    ids: Tensor | None
    temperature: float

    @property
    def rows(self) -> int:
        """Numbers alive for each position."""
        return self.head.shape[0]

    @torch.no_grad()
    def answer(self, begin: int, end: int, vocab: int) -> Answer:
        """All kept pieces; nothing is left for the rest."""
        logits_CV = head_logits(self.states[begin:end], self.head) / self.temperature
        kept_CK = logits_CV[:, :vocab] if self.ids is None else logits_CV.index_select(1, self.ids)
        log_CK = torch.log_softmax(kept_CK, 1)
        nothing_C1 = torch.zeros_like(log_CK[:, :1])
        if self.ids is None and vocab >= self.rows:
            return Answer(None, log_CK, nothing_C1, nothing_C1 + 1)
        inside_C1, all_C1 = (part.logsumexp(1, keepdim=True) for part in (kept_CK, logits_CV))
        return Answer(None, log_CK, nothing_C1, (inside_C1 - all_C1).exp())


def too_long(context: int, limit: int) -> ConfigError:
    """The error for windows that a teacher cannot read whole."""
    return ConfigError(
        f"windows of {context} tokens are longer than the teacher's context of {limit}",
        where="context",
        mend=f"set model.context={limit} or less, or take a teacher of a longer context",
    )

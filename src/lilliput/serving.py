"""A classifier or a committee in use: texts in, labels and probabilities out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from lilliput.evaluate.votes import shares
from lilliput.export.committee_dir import is_committee, load_committee
from lilliput.export.encoder_dir import load_classifier
from lilliput.model.encoder import Classifier
from lilliput.store import read_json
from lilliput.tokenizer.load import Tokenizer
from lilliput.tuning import Tuning, encode, logits_of


@dataclass(frozen=True)
class Opened:
    """One classifier or more, which read alike; what their outputs are called, and how they vote. length: positions
    after which texts were cut in training."""

    members: list[Classifier]
    tokenizer: Tokenizer
    labels: list[str]
    vote: str = "softmax"
    length: int = Tuning.length

    def shares(self, texts: Sequence[str], length: int | None = None) -> npt.NDArray[np.float64]:
        """Probabilities (texts, labels), each text cut after `length` positions, by default as in training."""
        votes = []
        for member in self.members:
            ids, _ = encode(self.tokenizer, member.config, texts, length or self.length)
            votes.append(logits_of(member, ids, title="telling labels"))
        return shares(np.stack(votes), self.vote)

    def tell(self, texts: Sequence[str], length: int | None = None) -> list[tuple[str, float]]:
        """(label, its probability) of each text."""
        return [(self.labels[int(row.argmax())], float(row.max())) for row in self.shares(texts, length)]


def open_classifier(path: Path, device: torch.device) -> Opened:
    """The classifier or the committee in a model directory. Raises ModelError where there is none."""
    if is_committee(path):
        members, tokenizer, labels, vote = load_committee(path)
        return Opened([member.to(device) for member in members], tokenizer, labels, vote, _length(path))
    model, tokenizer, labels = load_classifier(path)
    return Opened([model.to(device).eval()], tokenizer, labels, length=_length(path))


def _length(path: Path) -> int:
    """Where texts were cut in training; the usual place for a classifier that is not of Lilliput's making."""
    file = path / "lilliput.json"
    return int(read_json(file)["tuning"]["length"]) if file.is_file() else Tuning.length

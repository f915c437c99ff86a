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
from lilliput.tokenizer.load import Tokenizer
from lilliput.tuning import encode, logits_of


@dataclass(frozen=True)
class Opened:
    """One classifier or more, which read alike; what their outputs are called, and how they vote."""

    members: list[Classifier]
    tokenizer: Tokenizer
    labels: list[str]
    vote: str = "softmax"

    def shares(self, texts: Sequence[str], length: int = 128) -> npt.NDArray[np.float64]:
        """Probabilities (texts, labels), each text cut after `length` positions."""
        votes = []
        for member in self.members:
            ids, _ = encode(self.tokenizer, member.config, texts, length)
            votes.append(logits_of(member, ids, title="telling labels"))
        return shares(np.stack(votes), self.vote)

    def tell(self, texts: Sequence[str], length: int = 128) -> list[tuple[str, float]]:
        """(label, its probability) of each text."""
        return [(self.labels[int(row.argmax())], float(row.max())) for row in self.shares(texts, length)]


def open_classifier(path: Path, device: torch.device) -> Opened:
    """The classifier or the committee in a model directory. Raises ModelError where there is none."""
    if is_committee(path):
        members, tokenizer, labels, vote = load_committee(path)
        return Opened([member.to(device) for member in members], tokenizer, labels, vote)
    model, tokenizer, labels = load_classifier(path)
    return Opened([model.to(device).eval()], tokenizer, labels)

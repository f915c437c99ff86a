"""A ladder settled, before any training: its arms, their shapes and horizons, and the text that judges them. Kept in
`ladder.json`, so that a ladder goes on as it began.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from lilliput.model.config import ModelConfig

BASE, COMPACT, ARCHITECTURE, INHERITANCE, ROUNDS, PLANNER = (
    "base", "compact", "architecture", "inheritance", "rounds", "planner",
)  # fmt: skip
RUNGS = (BASE, COMPACT, ARCHITECTURE, INHERITANCE, ROUNDS)
TEACHER = "teacher"
# The ladder's folder in its studies' paths, so that the cells are the same wherever it lies.
FOLDER = "LADDER"
# Names for people, as the paper's Fig. 1 has them.
TITLES = {
    BASE: "base",
    COMPACT: "+ compact tokenizer",
    ARCHITECTURE: "+ architecture",
    INHERITANCE: "+ inheritance",
    ROUNDS: "+ several rounds",
    PLANNER: "the planner's best",
    TEACHER: "teacher",
}


@dataclass(frozen=True)
class Arm:
    """settings: what the arm sets in the common recipe. lr: the rule's peak rate. tokens: of its horizon. flops: of its
    training, without what came before."""

    settings: list[str]
    shape: ModelConfig
    lr: float
    tokens: int
    flops: float


@dataclass(frozen=True)
class Plan:
    """recipe: what all arms share, as YAML. bytes: text that each arm reads. pieces: of the big and the compact
    tokenizer. choose, judge: files that learning rates are chosen by and the arms compared by; none for the held-out
    part. planner: the arm with the planner's best shape."""

    recipe: str
    bytes: int
    pieces: dict[str, int]
    bytes_per_token: dict[str, float]
    arms: dict[str, Arm]
    teacher: Arm
    planner: str
    choose: list[str]
    judge: list[str]
    notes: list[str]

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Plan:
        """What `to_dict` gave."""
        arms = {name: _arm(told) for name, told in values["arms"].items()}
        return cls(**{**values, "arms": arms, "teacher": _arm(values["teacher"])})


def _arm(told: dict[str, Any]) -> Arm:
    return Arm(**{**told, "shape": ModelConfig(**told["shape"])})


@contextmanager
def known_folder(folder: Path) -> Iterator[None]:
    """Let `$LADDER` in paths stand for `folder`."""
    before = os.environ.get(FOLDER)
    os.environ[FOLDER] = str(folder)
    try:
        yield
    finally:
        if before is None:
            del os.environ[FOLDER]
        else:
            os.environ[FOLDER] = before

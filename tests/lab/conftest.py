"""A study small enough to run for real in a few seconds."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from lab_support import write_text

from lilliput.store import Store


@pytest.fixture(scope="session")
def tiny_corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_text(tmp_path_factory.mktemp("text") / "train.jsonl", 0)


@pytest.fixture(scope="session")
def shared_store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """One store for all tests here: they share corpus, tokenizer and shards, and a cell measured before."""
    return Store(tmp_path_factory.mktemp("lab-store"))


@pytest.fixture
def write_study(tmp_path: Path, tiny_corpus: Path) -> Callable[..., Path]:
    """Writes a study of two arms and two seeds; keyword arguments change its keys."""

    def write(**changes: Any) -> Path:
        settings = {
            "corpus": str(tiny_corpus),
            "budget.params": "25k",
            "model.context": 32,
            "train.tokens": 16_384,
            "train.batch_tokens": 1024,
        }
        values = {
            "question": "Does training at a sane rate help?",
            "recipe": "tiny",
            "settings": settings | changes.pop("more", {}),
            "arms": {"slow": ["train.lr=0.00001"], "fast": ["train.lr=0.01"]},
            "seeds": 2,
            "claims": [{"kind": "superiority", "arm": "fast", "versus": "slow", "delta": 0.01}],
        }
        path = tmp_path / "mine.yaml"
        path.write_text(yaml.safe_dump({**values, **changes}, sort_keys=False))
        return path

    return write

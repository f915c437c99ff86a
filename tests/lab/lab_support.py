"""What the tests of studies share by import."""

import json
import random
from pathlib import Path

WORDS = ("the", "a", "cat", "dog", "sat", "ran", "on", "under", "tree", "and", "it", "was", "very", "old", "new", "red")


def write_text(path: Path, seed: int, documents: int = 400) -> Path:
    """Made-up documents of about 250 bytes as JSONL, different for each seed."""
    rng = random.Random(seed)
    rows = [{"text": " ".join(rng.choices(WORDS, k=60)) + "."} for _ in range(documents)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path

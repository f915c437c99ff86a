"""Training on from a finished model: what it has seen, and how high the rate may rise again.

A finished run has let its rate fall; raised to a fresh run's peak, it first spoils what was learned, and a short run
has no time to make that good. So the peak is the fresh one times f / (f + 1.4), f being the new tokens over those that
the model has seen. [D] It is our own formula: at f = 0.05, 0.035 of the peak was the best of three shares tried
(results/compact-trained), which sets the 1.4; a run as long as the first has 0.42 of the peak, a much longer
one nearly all of it, since by then it is a fresh run in all but its start.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from lilliput.errors import StorageError
from lilliput.progress import count
from lilliput.store import read_json
from lilliput.train.derive import TOKENS_PER_PARAMETER

# f/(f + HALF) = 0.035 at f = 0.05.
HALF = 1.4
# Runs that each went on from the one before are followed back so far.
_LONGEST = 100


@dataclass(frozen=True)
class Trained:
    """What a model has learned from before. tokens: how many it has seen. why: how that is known."""

    tokens: float
    why: str

    def share(self, tokens: float) -> float:
        """The share of a fresh run's peak rate for `tokens` more."""
        return tokens / (tokens + HALF * self.tokens)

    def told(self, tokens: float) -> str:
        """The same for people."""
        return (
            f"{self.share(tokens):.3g} of a fresh run's peak = f/(f + {HALF:g}) with f = {tokens / self.tokens:.3g} of "
            f"the tokens seen before (our own, docs/train.md), as {self.why}"
        )


def trained(folder: Path, parameters: int) -> Trained | None:
    """What the model in `folder` has seen: as its `lilliput.json` says, and those of the models that it went on from.

    parameters: of the model; where nothing is written 20 tokens for each are assumed (2203.15556). None for one that
    was just carved out of a bigger one: far from any minimum, it learns at a fresh run's rate (2402.02791 §3.2).
    """
    if _carved(folder):
        return None
    seen, place = 0.0, folder
    for _ in range(_LONGEST):
        told = _told(place)
        if told is None:
            break
        seen += told[0]
        if told[1] is None:
            return Trained(seen, f"the model has seen {count(seen)} tokens")
        place = Path(told[1]).expanduser()
    assumed = float(TOKENS_PER_PARAMETER * parameters)
    if seen:
        assumed += seen
    why = f"the model is taken to have seen {count(assumed)} tokens, {TOKENS_PER_PARAMETER} a parameter"
    return Trained(assumed, why + (f" and {count(seen)} known of" if seen else ""))


def _carved(folder: Path) -> bool:
    """Whether `lilliput inherit` wrote the model, and it was not trained since."""
    try:
        info = read_json(folder / "lilliput.json")
        return "inherit" in info and "cost" not in info
    except (OSError, StorageError, TypeError, ValueError):
        return False


def _told(folder: Path) -> tuple[float, str | None] | None:
    """(tokens of the run that made the model in `folder`, the model that this run went on from); None where nothing
    of use is written."""
    try:
        info = read_json(folder / "lilliput.json")
        tokens, before = float(info["cost"]["tokens"]), info["recipe"].get("from")
    except (OSError, StorageError, KeyError, TypeError, ValueError, AttributeError):
        return None
    return (tokens, before) if tokens > 0 and isinstance(before, str | None) else None

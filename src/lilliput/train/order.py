"""The order of the data: a function of (seed, round, epoch, position), with no state to store or replay.

Each epoch is a permutation of the windows by a Feistel network with cycle walking (Black & Rogaway 2002,
"Ciphers with arbitrary finite domains"): any position of any epoch costs O(1) time and memory, so a resumed
run reads its cursor and goes on; nothing is fast-forwarded.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from lilliput.errors import ConfigError

ROUNDS = 6
_MASK = (1 << 64) - 1


class Windows(Protocol):
    """What the loop needs of the packed corpus (`lilliput.corpus.shards.Shards`)."""

    def windows(self, context: int) -> int:
        """How many windows of context + 1 tokens there are."""
        ...

    def batch(self, indices: np.ndarray, context: int) -> np.ndarray:
        """int64 (len(indices), context + 1)."""
        ...


def mix(*words: int) -> int:
    """One 64-bit number from several, by splitmix64 (Steele, Lea & Flood 2014); their order matters."""
    state = 0x9E3779B97F4A7C15
    for word in words:
        state = (state ^ (word & _MASK)) & _MASK
        state = (state + 0x9E3779B97F4A7C15) & _MASK
        state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
        state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & _MASK
        state ^= state >> 31
    return state


def scramble(x: np.ndarray, key: int) -> np.ndarray:
    """splitmix64's finaliser on x + key, the network's round function. uint64 → uint64."""
    x = x + np.uint64(key)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    out: np.ndarray = x ^ (x >> np.uint64(31))
    return out


def permute(positions: np.ndarray, n: int, *key: int) -> np.ndarray:
    """Where the permutation of range(n) chosen by `key` sends each position. int64 in, int64 out.

    The network permutes the smallest power of four that holds n; a value ≥ n is sent through again until it
    falls below n (less than four passes on average), which keeps it a permutation of range(n).
    """
    half = max(1, (max(n - 1, 1).bit_length() + 1) // 2)
    low = np.uint64((1 << half) - 1)
    shift = np.uint64(half)
    keys = [mix(*key, number) for number in range(ROUNDS)]

    def once(x: np.ndarray) -> np.ndarray:
        left, right = x >> shift, x & low
        for round_key in keys:
            left, right = right, left ^ (scramble(right, round_key) & low)
        return (left << shift) | right

    out = once(positions.astype(np.uint64))
    outside = np.flatnonzero(out >= n)
    while outside.size:
        out[outside] = once(out[outside])
        outside = outside[out[outside] >= n]
    return out.astype(np.int64)


def reading(places: NDArray[np.int64], n: int, seed: int, number: int = 0) -> NDArray[np.int64]:
    """The windows at places of a reading that goes on through the corpus, epoch after epoch: int64 in, int64 out.

    n: windows of the corpus. number: of the round whose order it is.
    """
    out = np.empty_like(places)
    epochs = places // n
    for epoch in np.unique(epochs).tolist():
        here = epochs == epoch
        out[here] = permute(places[here] - epoch * n, n, seed, number, epoch)
    return out


def fingerprint(shards: Windows, context: int) -> str:
    """Tells one packed corpus from another: hex SHA-256 of its number of windows and of 16 of them."""
    n = shards.windows(context)
    digest = hashlib.sha256(f"{n} {context}".encode())
    if n:
        digest.update(shards.batch(np.unique(np.linspace(0, n - 1, 16).astype(np.int64)), context).tobytes())
    return digest.hexdigest()


@dataclass
class Cursor:
    """Where the reading is. Explicit state: this is all a resumed run needs."""

    epoch: int = 0
    cursor: int = 0
    """Windows of this epoch already read."""
    round: int = 0

    def to_dict(self) -> dict[str, int]:
        """Plain values for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, int]) -> Cursor:
        """The inverse of `to_dict`."""
        return cls(epoch=int(data["epoch"]), cursor=int(data["cursor"]), round=int(data["round"]))


@dataclass(frozen=True)
class Pool:
    """What a later round reads in place of the corpus: units of the first round's reading, shuffled.

    units: their numbers, int64. size: windows in each; unit u stands at places u · size to (u + 1) · size of that
    reading.
    before: windows read in earlier rounds.
    """

    units: NDArray[np.int64]
    size: int
    before: int

    @property
    def windows(self) -> int:
        """Windows of one pass."""
        return len(self.units) * self.size


class Loader:
    """Hands out global batches of windows in the order of (seed, round, epoch).

    Where a later round reads a `pool`, the epochs are passes over that, and its units stay whole.
    """

    def __init__(self, shards: Windows, context: int, batch_sequences: int, seed: int, state: Cursor) -> None:
        self.shards = shards
        self.context = context
        self.batch_sequences = batch_sequences
        self.seed = seed
        self.state = state
        self.first = state.round
        self.pool: Pool | None = None
        self.corpus = shards.windows(context)
        if self.corpus < 1:
            raise ConfigError(
                f"the training text is shorter than one window of {context + 1} tokens",
                where="model.context",
                mend="give more text or a smaller model.context",
            )

    @property
    def n(self) -> int:
        """Windows of one epoch."""
        return self.pool.windows if self.pool else self.corpus

    @property
    def passes(self) -> float:
        """Passes over the corpus so far, counting what is read again as often as it is."""
        state, pool = self.state, self.pool
        if pool is None:
            return state.epoch + state.cursor / self.corpus
        return (pool.before + state.epoch * pool.windows + state.cursor) / self.corpus

    def begin(self, number: int, pool: Pool) -> None:
        """Read `pool` as round `number` (1 is the second): from its start, or where a resumed run stands in it."""
        self.pool = pool
        if self.state.round != self.first + number:
            self.state = Cursor(round=self.first + number)

    def next_indices(self) -> np.ndarray:
        """The next global batch's window numbers, int64 (batch_sequences,); moves the cursor.

        A batch may straddle an epoch's edge, or several where the corpus is smaller than a batch.
        """
        parts: list[np.ndarray] = []
        missing = self.batch_sequences
        while missing:
            state = self.state
            take = min(missing, self.n - state.cursor)
            positions = np.arange(state.cursor, state.cursor + take, dtype=np.int64)
            parts.append(self._windows(positions))
            missing -= take
            state.cursor += take
            if state.cursor == self.n:
                state.epoch, state.cursor = state.epoch + 1, 0
        return np.concatenate(parts)

    def _windows(self, positions: NDArray[np.int64]) -> NDArray[np.int64]:
        """The windows at positions of this epoch."""
        state, pool = self.state, self.pool
        if pool is None:
            return permute(positions, self.corpus, self.seed, state.round, state.epoch)
        slots = permute(positions // pool.size, len(pool.units), self.seed, state.round, state.epoch)
        places = pool.units[slots] * pool.size + positions % pool.size
        return reading(places, self.corpus, self.seed, self.first)

    def next_batch(self, rank: int = 0, world: int = 1) -> np.ndarray:
        """This process's share of the next global batch: int64 (≤ ceil(batch / world), context + 1)."""
        indices = self.next_indices()
        share = -(-len(indices) // world)
        return self.shards.batch(indices[rank * share : (rank + 1) * share], self.context)

"""Sequences of ids laid out as trees, so that what they have in common is read once.

Sorted, sequences that begin alike stand beside each other, and what each adds to the one before it are the nodes of
their tree, in depth-first order: the layout that `model.tree` reads. A tree is kept small, since attention costs its
length squared: sequences are added up to `_SMALL` nodes, and beyond that only those that share at least half.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Ids = npt.NDArray[np.int64]

_SMALL = 64
# Nodes of a tree with much in common, at most; a long sequence may have a few more beside it.
_LARGE = 512


@dataclass(frozen=True)
class Tree:
    """A tree of tokens, depth first. ids, depth, end: of its nodes (see `TreeReader.read`).

    at, targets: the predictions asked for, each a node and the id that follows it. asked: for each of its sequences
    (number, the predictions that are its own).
    """

    ids: Ids
    depth: Ids
    end: Ids
    at: Ids
    targets: Ids
    asked: list[tuple[int, Ids]]


@dataclass(frozen=True)
class _Member:
    """A sequence of a tree. nodes: those that are predicted. last, final: the node that predicts its last id, and
    that id, which is no node."""

    number: int
    nodes: Ids
    last: int
    final: int


class _Growing:
    """A tree as sequences are added to it, in sorted order."""

    def __init__(self) -> None:
        self.size = 0
        self._last = self._path = np.zeros(0, np.int64)
        self._ids: list[Ids] = []
        self._depth: list[Ids] = []
        self._parent: list[Ids] = []
        self._closed: list[tuple[Ids, int]] = []
        self._members: list[_Member] = []

    def shared(self, sequence: Ids) -> int:
        """How many of the sequence's first ids the tree holds already, as nodes."""
        length = min(len(self._last), len(sequence) - 1)
        differ = self._last[:length] != sequence[:length]
        first = int(differ.argmax()) if length else 0
        return first if length and differ[first] else length

    def add(self, number: int, sequence: Ids, scored: int, shared: int) -> None:
        """Add a sequence of which the last `scored` ids are predicted. Its last id is no node: nothing follows it."""
        nodes = sequence[:-1]
        new = np.arange(self.size, self.size + len(nodes) - shared)
        self._closed.append((self._path[shared:], self.size))
        path = np.concatenate((self._path[:shared], new))
        if len(new):
            self._ids.append(nodes[shared:])
            self._depth.append(np.arange(shared, len(nodes)))
            self._parent.append(np.concatenate((path[shared - 1 : shared] if shared else [-1], new[:-1])))
        self._members.append(_Member(number, path[len(sequence) - scored :], int(path[-1]), int(sequence[-1])))
        self._path, self._last, self.size = path, nodes, self.size + len(new)

    def finish(self) -> Tree:
        """The tree; what several sequences ask for, but for their last ids, stands in it once."""
        ids, parent = np.concatenate(self._ids), np.concatenate(self._parent).astype(np.int64)
        end = np.full(self.size, self.size)
        for nodes, size in self._closed:
            end[nodes] = size
        wanted = np.zeros(self.size, bool)
        for member in self._members:
            wanted[member.nodes] = True
        inside, where = np.flatnonzero(wanted), np.cumsum(wanted) - 1
        asked = [
            (member.number, np.append(where[member.nodes], len(inside) + place))
            for place, member in enumerate(self._members)
        ]
        at = np.append(parent[inside], [member.last for member in self._members])
        targets = np.append(ids[inside], [member.final for member in self._members])
        return Tree(ids, np.concatenate(self._depth), end, at, targets, asked)


def trees(sequences: Sequence[Ids], scored: Sequence[int]) -> Iterator[Tree]:
    """The sequences as trees, each sequence in one of them.

    scored: how many of each sequence's last ids are to be predicted, fewer than it has ids; one with 0 is left out.
    The same sequences give the same trees.
    """
    asked = [number for number, count in enumerate(scored) if count]
    # Bytes with the most significant first compare as the numbers do.
    asked.sort(key=lambda number: sequences[number].astype(">u4").tobytes())
    tree = _Growing()
    for number in asked:
        sequence = sequences[number]
        length, shared = len(sequence) - 1, tree.shared(sequence)
        size = tree.size + length - shared
        alike = 2 * shared >= length and size <= max(_LARGE, 2 * length)
        if tree.size and size > _SMALL and not alike:
            yield tree.finish()
            tree, shared = _Growing(), 0
        tree.add(number, sequence, scored[number], shared)
    if tree.size:
        yield tree.finish()

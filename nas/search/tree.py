"""The tree of a history: trials by their decisions, and how good what they share has been."""

from array import array
from collections.abc import Hashable, Sequence

import numpy as np
from numpy.typing import NDArray

Path = tuple[int, ...]
"""A trial as what was chosen at each of its decisions, in order."""

Array = NDArray[np.float64]


class Node:
    """Where some decisions lead.

    Attributes:
        trials: Those that begin with these decisions.
        children: Nodes by the next decision; None while at most one trial has come here.
        closed: Whether all that lies below has been tried.
    """

    __slots__ = ("children", "closed", "trials")

    def __init__(self) -> None:
        self.trials = array("i")
        self.children: dict[int, Node] | None = None
        self.closed = False


class Tree:
    """Trials by their decisions; a part of it is laid out where two trials have met.

    So it takes memory in proportion to the trials.
    """

    def __init__(self) -> None:
        self.root = Node()
        self._paths: dict[int, Path] = {}

    def add(self, trial: int, path: Path, widths: Path) -> None:
        """Lead a trial down.

        Args:
            trial: Its number.
            path: Its decisions.
            widths: How many alternatives each of them had.
        """
        self._paths[trial] = path
        node = self.root
        above: list[tuple[Node, int]] = []
        for depth in range(len(path) + 1):
            node.trials.append(trial)
            if depth == len(path):
                node.closed = True
                break
            if node.children is None:
                if len(node.trials) == 1:
                    break
                node.children = {}
                self._lay_out(node, depth)
            above.append((node, widths[depth]))
            node = node.children.setdefault(path[depth], Node())
        for node, width in reversed(above):
            children = (node.children or {}).values()
            node.closed = len(children) == width and all(child.closed for child in children)
            if not node.closed:
                break

    def step(self, node: Node, depth: int) -> int:
        """The next decision of the one trial that has come to a node, so many decisions down."""
        return self._paths[node.trials[0]][depth]

    def _lay_out(self, node: Node, depth: int) -> None:
        """Lead the first trial of a node one decision on."""
        first = node.trials[0]
        child = Node()
        child.trials.append(first)
        child.closed = depth + 1 == len(self._paths[first])
        assert node.children is not None
        node.children[self._paths[first][depth]] = child


class Moves:
    """How good each decision has been, wherever it was taken (all moves as first).

    Gelly & Silver, "Monte-Carlo tree search and rapid action value estimation in computer Go",
    2011.
    """

    def __init__(self) -> None:
        self._keys: dict[Hashable, int] = {}
        self._moves: list[NDArray[np.int32]] = []
        self._trials: list[NDArray[np.int32]] = []

    def key(self, move: Hashable) -> int:
        """The number of a move; -1 if no trial has made it."""
        return self._keys.get(move, -1)

    def add(self, trial: int, moves: Sequence[Hashable]) -> None:
        """Keep what a trial has decided."""
        numbers = {self._keys.setdefault(move, len(self._keys)) for move in moves}
        self._moves.append(np.fromiter(numbers, np.int32, len(numbers)))
        self._trials.append(np.full(len(numbers), trial, np.int32))
        if len(self._moves) >= 256:
            self._moves = [np.concatenate(self._moves)]
            self._trials = [np.concatenate(self._trials)]

    def count(self, rewards: Array, among: NDArray[np.bool_] | None = None) -> tuple[Array, Array]:
        """How often each move was made, and the sum of the rewards of those trials.

        Args:
            rewards: By trial.
            among: By trial, whether it counts; None: all do.
        """
        if not self._moves:
            return np.zeros(0), np.zeros(0)
        moves, trials = np.concatenate(self._moves), np.concatenate(self._trials)
        if among is not None:
            inside = among[trials]
            moves, trials = moves[inside], trials[inside]
        size = len(self._keys)
        times = np.bincount(moves, minlength=size).astype(np.float64)
        sums = np.bincount(moves, rewards[trials], minlength=size)
        return times, sums.astype(np.float64)

"""The decisions of a derivation in another order: what it is made of first, parameters last."""

from dataclasses import dataclass, field
from operator import attrgetter

from nas.grammar.choices import Point
from nas.grammar.decisions import Choice, down
from nas.grammar.derivation import Derivation
from nas.grammar.network import Network
from nas.grammar.sampling import derive, spend


@dataclass(slots=True, eq=False)
class _Open:
    """A point of the derivation.

    Args:
        point: The point.
        path: Where the node stands that its own place is relative to.
        order: What is decided first: what has parts before what has none, the outer before the
            inner, the one that was opened before.
        chosen: The index that was taken; -1: none yet.
        below: The points that followed, in the order of the text.
    """

    point: Point
    path: tuple[int, ...]
    order: tuple[bool, int, int]
    chosen: int = -1
    below: "list[_Open]" = field(default_factory=list)


class CoarseDecisions:
    """As `Decisions`, from coarse to fine: `Space.decide(coarse=True)`.

    The skeleton of an architecture is decided level by level before any parameter is. Whoever
    learns from few derivations meets the decisions that matter most while many share them.

    Args:
        network: The space's choice points.
    """

    def __init__(self, network: Network) -> None:
        self._network = network
        self._slack = network.slack
        self._count = 0
        self._root = self._opened(network.start, ())
        self._open = [self._root]
        self._legal: tuple[int, ...] = ()
        self._current: Choice | None = None
        self._advance()

    @property
    def current(self) -> Choice | None:
        """The decision to take now, or None when the derivation is finished."""
        return self._current

    def choose(self, index: int) -> None:
        """Take an alternative of the current decision.

        Args:
            index: Its position in `current.alternatives`.

        Raises:
            IndexError: There is no such alternative, or no decision left.
        """
        if self._current is None:
            raise IndexError("the derivation is finished: there is no decision left")
        if not 0 <= index < len(self._legal):
            raise IndexError(f"{index} is not one of {len(self._legal)} alternatives")
        self._take(self._next(), self._legal[index])
        self._advance()

    def _opened(self, point: Point, path: tuple[int, ...]) -> _Open:
        parts = any(alternative.references for alternative in point.alternatives)
        self._count += 1
        return _Open(point, path, (not parts, len(path), self._count))

    def _next(self) -> _Open:
        return min(self._open, key=attrgetter("order"))

    def _take(self, each: _Open, index: int) -> None:
        self._open.remove(each)
        each.chosen = index
        # Routes come last first.
        for route, point in reversed(self._network.link(each.point, index).routes):
            each.below.append(self._opened(point, (*each.path, *route)))
        self._open += each.below
        self._slack = spend(self._slack, each.point.deltas[index])

    def _advance(self) -> None:
        while self._open:
            # What is no choice is taken at once: a choice may hide behind it.
            fixed = (each for each in self._open if len(each.point.alternatives) == 1)
            each = next(fixed, None) or self._next()
            self._legal = each.point.affordable(self._slack)
            if len(self._legal) > 1:
                self._current = self._choice(each)
                return
            self._take(each, self._legal[0])
        self._current = None

    def _choice(self, each: _Open) -> Choice:
        point = each.point
        alternatives, probabilities = point.alternatives, point.probabilities
        if len(self._legal) < len(alternatives):
            alternatives = tuple([alternatives[i] for i in self._legal])
            probabilities = point.renormalised(self._legal)[0]
        path = down(None, (*each.path, *point.at))
        return Choice(point.rule, point.context, alternatives, probabilities, path)

    @property
    def derivation(self) -> Derivation:
        """The derivation, once every decision is taken.

        Raises:
            ValueError: Decisions are left.
        """
        if self._current is not None:
            raise ValueError(f"not finished: `{self._current.rule}` is to be decided")
        indices: list[int] = []
        stack = [self._root]
        while stack:
            each = stack.pop()
            indices.append(each.chosen)
            stack += reversed(each.below)
        indices.reverse()
        return derive(self._network, lambda _: indices.pop())

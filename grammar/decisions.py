"""A derivation as a sequence of decisions, for whoever wants to take them.

One iterator serves sampling by a policy, tree search, scoring and model-based optimisers.
"""

from dataclasses import dataclass

from nas.grammar.choices import Point
from nas.grammar.context import Context
from nas.grammar.derivation import Derivation
from nas.grammar.network import Network
from nas.grammar.rules import Alternative
from nas.grammar.sampling import derive, spend

_Path = tuple["_Path", int] | None  # the parent's path and the child's index: shared, cheap to make
_Stack = tuple["_Stack", Point, _Path] | None
_Chosen = tuple["_Chosen", int] | None


@dataclass(frozen=True, eq=False)
class Choice:
    """One decision: a rule that can become two things or more.

    Attributes:
        rule: The rule.
        context: Where it stands.
        alternatives: What it can become.
        probabilities: Of each alternative, by the space's weights; they sum to 1.
    """

    rule: str
    context: Context
    alternatives: tuple[Alternative, ...]
    probabilities: tuple[float, ...]
    _path: _Path

    @property
    def path(self) -> tuple[int, ...]:
        """Where its node stands in the derivation: indices of children, from the root down."""
        indices: list[int] = []
        path = self._path
        while path is not None:
            path, index = path
            indices.append(index)
        return tuple(reversed(indices))


class Decisions:
    """Takes a derivation's decisions one at a time, in a fixed order; see `Space.decide`.

    Rules with one legal alternative are expanded by themselves. The order is that of the text, but
    under caps all parameters of a term are decided before its blocks, whose budget they settle.

        decisions = space.decide()
        while (choice := decisions.current) is not None:
            decisions.choose(policy(choice.alternatives, choice.probabilities))
        derivation = decisions.derivation

    Args:
        network: The space's choice points.
    """

    __slots__ = ("_chosen", "_current", "_legal", "_network", "_slack", "_stack")

    def __init__(self, network: Network) -> None:
        self._network = network
        self._slack = network.slack
        self._stack: _Stack = (None, network.start, None)
        self._chosen: _Chosen = None
        self._current: Choice | None = None
        self._legal: tuple[int, ...] = ()
        self._advance()

    def copy(self) -> "Decisions":
        """An independent iterator at the same decision, made in constant time."""
        twin = object.__new__(Decisions)
        for name in Decisions.__slots__:
            setattr(twin, name, getattr(self, name))
        return twin

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
        self._take(self._legal[index])
        self._advance()

    def _take(self, index: int) -> None:
        assert self._stack is not None
        stack, point, path = self._stack
        for route, following in self._network.link(point, index).routes:
            stack = (stack, following, down(path, route))
        self._stack = stack
        self._slack = spend(self._slack, point.deltas[index])
        self._chosen = (self._chosen, index)

    def _advance(self) -> None:
        while self._stack is not None:
            _, point, path = self._stack
            self._legal = point.affordable(self._slack)
            if len(self._legal) > 1:
                self._current = self._choice(point, path)
                return
            self._take(self._legal[0])
        self._current = None

    def _choice(self, point: Point, path: _Path) -> Choice:
        alternatives, probabilities = point.alternatives, point.probabilities
        if len(self._legal) < len(alternatives):
            alternatives = tuple([alternatives[i] for i in self._legal])
            probabilities = point.renormalised(self._legal)[0]
        return Choice(point.rule, point.context, alternatives, probabilities, down(path, point.at))

    @property
    def derivation(self) -> Derivation:
        """The derivation, once every decision is taken.

        Raises:
            ValueError: Decisions are left.
        """
        if self._current is not None:
            raise ValueError(f"not finished: `{self._current.rule}` is to be decided")
        indices: list[int] = []
        chosen = self._chosen
        while chosen is not None:
            chosen, index = chosen
            indices.append(index)
        return derive(self._network, lambda _: indices.pop())


def down(path: _Path, route: tuple[int, ...]) -> _Path:
    """The path of a node, given the one above that a route leads from."""
    for index in route:
        path = (path, index)
    return path

"""Choice points linked into a network that sampling runs through without looking anything up.

A `Point` is a rule in a context, compiled: the cumulative probabilities of its alternatives and,
for each of them, the text it writes and the points that follow. Points are made when they are first
met and then stay, so that a derivation costs about a microsecond a node.

Under caps a point also knows how much more than the cheapest completion each alternative costs at
least. What the caps leave after the cheapest derivation of the whole is the **slack**; every choice
spends some of it, and an alternative is legal when it spends no more than there is.
"""

from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate
from operator import le
from typing import NamedTuple

from nas.grammar.context import Context
from nas.grammar.derivation import Node
from nas.grammar.rules import Alternative
from nas.grammar.settings import Route

Emit = tuple[Alternative | Node, int]
"""An alternative that joins the derivation and the number of its children, or a leaf and 0."""

Slack = tuple[float, ...]
"""What is left of each cap, after the cheapest completion of everything that is still open."""


class Link(NamedTuple):
    """What follows an alternative.

    Args:
        head: The text up to the next point.
        emits: What joins the derivation before the next point.
        tail: The points and texts that follow, last one first.
        routes: The same points, and where their nodes stand relative to the node before.
    """

    head: str
    emits: tuple[Emit, ...]
    tail: "tuple[Point | str, ...]"
    routes: "tuple[tuple[Route, Point], ...]"


class Point:
    """A choice: a rule in a context, or a parameter of a term that has a cost.

    Attributes:
        rule: The rule.
        context: Where it stands.
        at: Where its node stands, relative to the node that its path leads to.
        alternatives: What it can become.
        probabilities: Of each, without regard to caps.
        deltas: For each, what it spends of the slack, per capped measure.
        plan: For whoever links the point: what follows each alternative.
        scale: How often what is derived here counts in the whole, per capped measure.
        cumulative: Where in [0, 1) the second, third, ... alternative begins.
        spends: The deltas of the first measure (0 without caps).
        span: The largest of them.
        links: For each alternative, what follows; None until it is first chosen.
        fixed: Whether this is no choice, only text and nodes that are due.
    """

    __slots__ = (
        "_all",
        "_picks",
        "_ranked",
        "_some",
        "_spans",
        "alternatives",
        "at",
        "context",
        "cumulative",
        "deltas",
        "fixed",
        "links",
        "plan",
        "probabilities",
        "rule",
        "scale",
        "span",
        "spends",
    )

    def __init__(
        self,
        rule: str,
        context: Context,
        at: Route,
        alternatives: Sequence[Alternative],
        probabilities: Sequence[float],
        deltas: Sequence[Slack],
        scale: Slack,
        plan: object,
    ) -> None:
        self.rule = rule
        self.context = context
        self.at = at
        self.alternatives = tuple(alternatives)
        self.probabilities = tuple(probabilities)
        self.deltas = tuple(deltas)
        self.scale = scale
        self.plan = plan
        self.cumulative = tuple(accumulate(self.probabilities))[:-1]
        self.spends = tuple([delta[0] if delta else 0 for delta in deltas])
        self.span = max(self.spends)
        self.links: list[Link | None] = [None] * len(self.alternatives)
        self.fixed = False
        self._all = tuple(range(len(self.alternatives)))
        self._spans = tuple(map(max, zip(*deltas, strict=True)))
        # Made when a cap first rules something out: most points are never that close to one.
        self._ranked: list[float] | None = None
        self._picks: dict[int, tuple[tuple[int, ...], tuple[float, ...]]] | None = None
        self._some: dict[tuple[int, ...], tuple[tuple[float, ...], tuple[float, ...]]] | None = None

    def affordable(self, slack: Slack) -> tuple[int, ...]:
        """The alternatives that spend no more than the slack; never none."""
        if all(map(le, self._spans, slack)):
            return self._all
        return tuple(i for i, delta in enumerate(self.deltas) if all(map(le, delta, slack)))

    def renormalised(self, indices: tuple[int, ...]) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Probabilities and their cumulative sums when only some alternatives are legal."""
        if self._some is None:
            self._some = {}
        found = self._some.get(indices)
        if found is None:
            weights = [self.probabilities[i] for i in indices]
            total = sum(weights)
            probabilities = tuple([weight / total for weight in weights])
            found = probabilities, tuple(accumulate(probabilities))[:-1]
            self._some[indices] = found
        return found

    def pick(self, slack: float, chance: float) -> int:
        """Choose among what a single cap leaves.

        Args:
            slack: What is left of it.
            chance: A random number in [0, 1).
        """
        if self._ranked is None or self._picks is None:
            self._ranked = sorted(self.spends)
            self._picks = {}
        count = bisect_right(self._ranked, slack)
        found = self._picks.get(count)
        if found is None:
            indices = self.affordable((slack,))
            found = self._picks[count] = (indices, self.renormalised(indices)[1])
        indices, cumulative = found
        return indices[bisect_right(cumulative, chance)]

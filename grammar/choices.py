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

from nas.grammar.context import Context
from nas.grammar.derivation import Node
from nas.grammar.rules import Alternative

Emit = tuple[Alternative | Node, int]
"""An alternative that joins the derivation and the number of its children, or a leaf and 0."""

Slack = tuple[float, ...]
"""What is left of each cap, after the cheapest completion of everything that is still open."""


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
        heads: For each alternative, the text up to the next point; None until it is linked.
        emits: For each, what it adds to the derivation before the next point.
        tails: For each, the points and texts that follow, last one first.
        routes: For each, the points that follow, last one first, and where their nodes are.
        fixed: Whether this is no choice, only text and nodes that are due.
    """

    __slots__ = (
        "_affordable",
        "_all",
        "_picks",
        "_ranked",
        "_spans",
        "alternatives",
        "at",
        "context",
        "cumulative",
        "deltas",
        "emits",
        "fixed",
        "heads",
        "plan",
        "probabilities",
        "routes",
        "rule",
        "scale",
        "span",
        "spends",
        "tails",
    )

    def __init__(
        self,
        rule: str,
        context: Context,
        at: tuple[int, ...],
        alternatives: Sequence[Alternative],
        probabilities: Sequence[float],
        deltas: Sequence[Slack],
        scale: Slack,
        plan: object,
    ) -> None:
        count = len(alternatives)
        self.rule = rule
        self.context = context
        self.at = at
        self.alternatives = tuple(alternatives)
        self.probabilities = tuple(probabilities)
        self.deltas = tuple(deltas)
        self.scale = scale
        self.plan = plan
        self.cumulative = list(accumulate(probabilities))[:-1]
        self.spends = [delta[0] if delta else 0 for delta in deltas]
        self.span = max(self.spends)
        self.heads: list[str | None] = [None] * count
        self.emits: list[tuple[Emit, ...]] = [()] * count
        self.tails: list[tuple[Point | str, ...]] = [()] * count
        self.routes: list[tuple[tuple[tuple[int, ...], Point], ...]] = [()] * count
        self.fixed = False
        self._all = tuple(range(count))
        self._spans = tuple(map(max, zip(*deltas, strict=True)))
        self._ranked = sorted(self.spends)
        self._picks: dict[int, tuple[tuple[int, ...], list[float]]] = {}
        self._affordable: dict[tuple[int, ...], tuple[tuple[float, ...], list[float]]] = {}

    def affordable(self, slack: Slack) -> tuple[int, ...]:
        """The alternatives that spend no more than the slack; never none."""
        if all(map(le, self._spans, slack)):
            return self._all
        return tuple(i for i, delta in enumerate(self.deltas) if all(map(le, delta, slack)))

    def renormalised(self, indices: tuple[int, ...]) -> tuple[tuple[float, ...], list[float]]:
        """Probabilities and their cumulative sums when only some alternatives are legal."""
        found = self._affordable.get(indices)
        if found is None:
            weights = [self.probabilities[i] for i in indices]
            total = sum(weights)
            probabilities = tuple(weight / total for weight in weights)
            found = probabilities, list(accumulate(probabilities))[:-1]
            self._affordable[indices] = found
        return found

    def pick(self, slack: float, chance: float) -> int:
        """Choose among what a single cap leaves.

        Args:
            slack: What is left of it.
            chance: A random number in [0, 1).
        """
        count = bisect_right(self._ranked, slack)
        found = self._picks.get(count)
        if found is None:
            indices = self.affordable((slack,))
            found = self._picks[count] = (indices, self.renormalised(indices)[1])
        indices, cumulative = found
        return indices[bisect_right(cumulative, chance)]

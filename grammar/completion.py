"""The cheapest way to finish a derivation, for every rule in every context that can be met.

Sampling never retries and never meets a dead end because it knows, before it chooses, how flat and
how cheap the rest of a derivation can be. Both follow from one shortest-path problem on a directed
hypergraph, solved by Knuth's generalisation of Dijkstra's algorithm (D. E. Knuth, "A generalization
of Dijkstra's algorithm", Information Processing Letters 6(1), 1977): a rule is as cheap as its
cheapest alternative, an alternative costs what it is itself plus what its parts cost.
"""

import heapq
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from itertools import count
from typing import Protocol

from nas.grammar.context import Context, Contexts
from nas.grammar.derivation import Term
from nas.grammar.errors import SpaceError
from nas.grammar.expression import Value
from nas.grammar.rules import Alternative

Item = tuple[str | Alternative, Context]
"""A rule, or an alternative that is already chosen, in a context."""

MAX_ITEMS = 200_000  # rules in contexts: more than this is a context that grows without end


class CostModel(Protocol):
    """What the terms of a space cost, in measures that caps can be put on.

    Whether `cost` is None depends on the name alone. Costs are not negative; multipliers are at
    least 1 where caps are to be kept exactly (with smaller ones they are kept, but a few
    architectures just under a cap may be missed).

    Attributes:
        measures: What is counted, such as `("parameters", "flops")`.
    """

    measures: tuple[str, ...]

    def cost(
        self,
        name: str,
        arguments: tuple[Term | str | None, ...],
        context: Mapping[str, Value],
    ) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
        """The cost of a term itself, and how often it uses its blocks.

        Args:
            name: The term's name.
            arguments: Its arguments; None stands for each block, an argument that has a cost.
            context: What is known where the term stands (`depth` left out).

        Returns:
            Own cost and multiplier of the blocks' cost, each per measure; None when the term is a
            parameter, which costs nothing by itself.
        """


@dataclass(frozen=True, slots=True)
class Edge:
    """One way to expand an item.

    Args:
        own: Its own cost, per capped measure.
        scale: What the cost of its parts is multiplied with, per capped measure.
        parts: The items below.
        offsets: For every part, how many levels it lies below the item.
        reach: How many levels below the item the edge's own, already expanded rules reach.
    """

    own: tuple[float, ...]
    scale: tuple[float, ...]
    parts: tuple[Item, ...]
    offsets: tuple[int, ...]
    reach: int = 0


@dataclass(frozen=True, slots=True)
class Completion:
    """The cheapest derivation of an item: its cost per capped measure, and its height in levels."""

    cost: tuple[float, ...]
    height: int
    score: float


@dataclass(slots=True)
class _Use:
    """An edge that waits for the completion of some of its parts."""

    edge: Edge
    item: Item
    left: int  # number of parts still without one


class Solver:
    """Cheapest completions over a hypergraph that is explored as far as it is asked for.

    Of several measures the sum of the costs, each divided by its cap, decides; of equal costs the
    smaller height. Every item keeps one canonical completion, made of the canonical completions of
    its parts, so that what is promised for the whole is promised for each part.

    Args:
        edges: The ways to expand an item.
        units: For every measure, what one unit counts for in the sum.
        known: Answers for items that are solved elsewhere.
    """

    def __init__(
        self,
        edges: Callable[[Item], Iterable[Edge]],
        units: tuple[float, ...] = (),
        known: Callable[[Item], Completion | None] | None = None,
    ) -> None:
        self._edges = edges
        self._units = units
        self._known = known
        self._solved: dict[Item, Completion | None] = {}

    def __call__(self, item: Item) -> Completion | None:
        """The cheapest completion of an item; None when it has no derivation.

        Raises:
            SpaceError: The contexts below the item do not end.
        """
        if item not in self._solved:
            self._solve(item)
        return self._solved[item]

    def _solve(self, goal: Item) -> None:
        users: dict[Item, list[_Use]] = {}
        heap: list[tuple[float, int, int, Item, tuple[float, ...]]] = []
        order = count()

        def offer(item: Item, edge: Edge) -> None:
            completion = self._complete(edge)
            entry = (completion.score, completion.height, next(order), item, completion.cost)
            heapq.heappush(heap, entry)

        pending = [goal]
        explored = {goal}
        while pending:
            item = pending.pop()
            known = self._known(item) if self._known is not None else None
            if known is not None:
                heapq.heappush(heap, (known.score, known.height, next(order), item, known.cost))
                continue
            for edge in self._edges(item):
                waiting = {part for part in edge.parts if part not in self._solved}
                if any(self._solved.get(part, edge) is None for part in edge.parts):
                    continue  # a part is known to have no derivation
                if not waiting:
                    offer(item, edge)
                    continue
                use = _Use(edge, item, len(waiting))
                for part in waiting:
                    users.setdefault(part, []).append(use)
                    if part not in explored:
                        explored.add(part)
                        pending.append(part)
            if len(explored) > MAX_ITEMS:
                _refuse_endless(goal, item)
        while heap:
            score, height, _, item, cost = heapq.heappop(heap)
            if item in self._solved:
                continue
            self._solved[item] = Completion(cost, height, score)
            for use in users.get(item, ()):
                use.left -= 1
                if not use.left:
                    offer(use.item, use.edge)
        for item in explored:
            self._solved.setdefault(item, None)

    def _complete(self, edge: Edge) -> Completion:
        cost = list(edge.own)
        height = edge.reach
        for part, offset in zip(edge.parts, edge.offsets, strict=True):
            completion = self._solved[part]
            assert completion is not None
            height = max(height, offset + completion.height)
            for k, amount in enumerate(completion.cost):
                cost[k] += edge.scale[k] * amount
        score = float(sum(amount * unit for amount, unit in zip(cost, self._units, strict=True)))
        return Completion(tuple(cost), height, score)


class Completions:
    """Cheapest completions within a space's `max_depth`.

    As long as no `where` or `let` reads `depth`, the problem is solved once for contexts without
    depth; the answer holds wherever its height fits, and only close to `max_depth` is it solved
    again for the levels that are left.

    Args:
        contexts: The space's contexts.
        edges: The ways to expand an item, whatever its depth.
        units: As for `Solver`.
    """

    def __init__(
        self,
        contexts: Contexts,
        edges: Callable[[Item], Iterable[Edge]],
        units: tuple[float, ...] = (),
    ) -> None:
        self._contexts = contexts
        self._edges = edges
        self._shallow = None if contexts.depth_decides else Solver(edges, units)
        self._exact = Solver(self._fitting, units, self._fits_anyway)

    def __call__(self, item: Item) -> Completion | None:
        """The cheapest completion of an item at its depth, or None when there is none."""
        if self._contexts.too_deep(item[1]):
            return None
        if self._shallow is not None:
            found = self._fits_anyway(item)
            if found is not None or self._contexts.max_depth is None:
                return found
        return self._exact(item)

    def _fits_anyway(self, item: Item) -> Completion | None:
        if self._shallow is None:
            return None
        what, context = item
        found = self._shallow((what, context.without_depth))
        deepest = self._contexts.max_depth
        if found is not None and deepest is not None and context.depth + found.height > deepest:
            return None
        return found

    def _fitting(self, item: Item) -> Iterable[Edge]:
        deepest = self._contexts.max_depth
        for edge in self._edges(item):
            if deepest is not None:
                depth = item[1].depth
                if depth + max((edge.reach, *edge.offsets)) > deepest:
                    continue
            yield edge


def _refuse_endless(goal: Item, item: Item) -> None:
    what = item[0]
    rule = what if isinstance(what, str) else what.rule
    location = None if isinstance(what, str) else what.location
    raise SpaceError(
        f"the contexts below `{rule}` do not end (one of them: {item[1]}): bound what `let` or "
        "`where` make of them, or write `//@ max_depth N`",
        location,
    )

"""The cheapest completions of a space, explored only as far as something cheap can be found."""

from nas.grammar.completion import (
    MAX_ITEMS,
    Completion,
    Edge,
    Flattest,
    Item,
    refuse_endless,
    rule_of,
    score,
    settle,
)
from nas.grammar.context import Context, Contexts
from nas.grammar.frames import Frames
from nas.grammar.rules import Alternative
from nas.grammar.settings import Leaf, Setting, leaves

Cost = tuple[float, ...]


class Cheapest:
    """For every rule, and every alternative once chosen, its cheapest derivation in a context.

    Contexts may go on for ever, but costs only grow: an alternative that alone costs more than a
    derivation that is known (the flattest one) is not followed. As long as no `where` depends on
    depth, contexts without depth are enough, except where `max_depth` cuts off the cheapest.

    Args:
        contexts: The space's contexts.
        flattest: Its flattest completions.
        frames: Its terms with a cost.
        caps: The most that each capped measure may be.
    """

    def __init__(self, contexts: Contexts, flattest: Flattest, frames: Frames, caps: Cost) -> None:
        self._contexts = contexts
        self._flattest = flattest
        self._frames = frames
        # A cap of nothing makes every unit of it unaffordable rather than undefined.
        self._units = tuple(1.0 / cap if cap > 0 else 1.0 for cap in caps)
        self._final: dict[Item, Completion | None] = {}
        self._bounds: dict[Item, Cost] = {}
        self._floors: dict[Item, float] = {}

    def __call__(self, item: Item) -> Completion | None:
        """The cheapest completion of an item within `max_depth`; None when there is none."""
        what, context = item
        if self._flattest(item) is None:
            return None
        view = self._contexts.view(rule_of(what), context)
        found = self._solved((what, view.core))
        deepest = self._contexts.max_depth
        if found is None or deepest is None or context.depth + found.height <= deepest:
            return found
        return self._solved((what, view.deep_core))

    def value(self, leaf: Leaf, context: Context) -> Cost | None:
        """What a setting costs with its blocks' cheapest completions; None where these end."""
        edge = self._frames.edge(leaf, context)
        if not self._fits(edge, context):
            return None
        cost = list(edge.own)
        for part in edge.parts:
            completion = self(part)
            if completion is None:
                return None
            for k, amount in enumerate(completion.cost):
                cost[k] += edge.scale[k] * amount
        return tuple(cost)

    def score(self, cost: Cost) -> float:
        """What is minimised: the sum over measures, each in units of its cap."""
        return score(cost, self._units)

    def _fits(self, edge: Edge, context: Context) -> bool:
        deepest = self._contexts.max_depth
        return deepest is None or context.depth + edge.reach <= deepest

    def _solved(self, goal: Item) -> Completion | None:
        if goal not in self._final:
            graph: dict[Item, list[Edge]] = {}
            pending = [goal]
            while pending:
                item = pending.pop()
                if item in graph or item in self._final:
                    continue
                if self._known(item):
                    continue
                graph[item] = self._edges(item)
                pending += (part for edge in graph[item] for part in edge.parts)
                if len(graph) > MAX_ITEMS:
                    refuse_endless(goal, item)
            settled = settle(graph, self._final, self._units)
            for item in graph:
                self._final[item] = settled.get(item)
        return self._final[goal]

    def _known(self, item: Item) -> bool:
        """Settle an item whose cheapest completion leaves enough depth without being cut off."""
        what, context = item
        deepest = self._contexts.max_depth
        if context is context.core or deepest is None:
            return False
        found = self._solved((what, context.core))
        if found is None or context.depth + found.height > deepest:
            return False
        self._final[item] = found
        return True

    def _edges(self, item: Item) -> list[Edge]:
        """The ways to expand an item, without those that are too dear to be followed."""
        what, context = item
        most = self.score(self._bound((what, context.core)))
        if isinstance(what, str):
            flattest = self._flattest_of(what, context)
            ones, zeros = (1.0,) * len(self._units), (0.0,) * len(self._units)
            return [
                Edge(zeros, ones, ((alternative, context),), (0,))
                for alternative in self._frames.legal(what, context)
                if alternative is flattest or self._floor(alternative, context) < most
            ]
        flattest_leaf = self._flattest_leaf(what, context)
        tree = self._frames.tree(what, context)
        edges = [
            self._frames.edge(leaf, context)
            for leaf in leaves(tree)
            if leaf is flattest_leaf or self.score(leaf.own) < most
        ]
        return [
            edge
            for edge in edges
            if self._fits(edge, context)
            and all(self._flattest(part) is not None for part in edge.parts)
        ]

    def _floor(self, alternative: Alternative, context: Context) -> float:
        """The least that an alternative costs by itself."""
        key = (alternative, context.core)
        found = self._floors.get(key)
        if found is None:
            tree = self._frames.tree(alternative, context)
            found = self._floors[key] = min(self.score(leaf.own) for leaf in leaves(tree))
        return found

    def _flattest_of(self, rule: str, context: Context) -> Alternative:
        completion = self._flattest((rule, context))
        assert completion is not None
        alternative = completion.edge.parts[0][0]
        assert isinstance(alternative, Alternative)
        return alternative

    def _flattest_leaf(self, alternative: Alternative, context: Context) -> Leaf:
        """The setting that belongs to the flattest derivation of an alternative."""
        tree: Setting | Leaf = self._frames.tree(alternative, context)
        scopes = [self._contexts.below(alternative, context)]
        while isinstance(tree, Setting):
            chosen = self._flattest_of(tree.rule, scopes[tree.scope])
            if not self._frames.blocks.has_cost(chosen.name):
                scopes.append(self._contexts.below(chosen, scopes[tree.scope]))
            tree = next(branch for a, branch in tree.branches if a is chosen)
        return tree

    def _bound(self, goal: Item) -> Cost:
        """What the flattest derivation of an item costs."""
        bounds = self._bounds
        stack: list[Item] = [goal]
        while stack:
            item = stack[-1]
            what, context = item
            if isinstance(what, str):
                zeros, ones = (0.0,) * len(self._units), (1.0,) * len(self._units)
                edge = Edge(zeros, ones, ((self._flattest_of(what, context), context),), (0,))
            else:
                edge = self._frames.edge(self._flattest_leaf(what, context), context)
            waiting = [part for part in edge.parts if part not in bounds]
            if waiting:
                stack += waiting
                continue
            stack.pop()
            cost = list(edge.own)
            for part in edge.parts:
                for k, amount in enumerate(bounds[part]):
                    cost[k] += edge.scale[k] * amount
            bounds[item] = tuple(cost)
        return bounds[goal]

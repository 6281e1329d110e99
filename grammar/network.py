"""The choice points of a space, and how one leads to the next."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from operator import mul, sub

from nas.grammar.budget import Budget, Frame
from nas.grammar.choices import Emit, Link, Point, Slack
from nas.grammar.context import Context, Contexts
from nas.grammar.derivation import Node
from nas.grammar.options import OptionTable
from nas.grammar.rules import Alternative, Grammar
from nas.grammar.settings import Chosen, Leaf, Part, Route, Setting
from nas.grammar.spelling import fragments, join, words_can_meet


@dataclass(frozen=True, slots=True)
class _Plan:
    """What follows the alternatives of a parameter.

    Args:
        frame: The term that it is a parameter of.
        taken: The alternatives chosen so far, the term's own first.
        scopes: For each of them, the context below it.
        setting: The parameter.
        branches: For every legal alternative, what follows.
    """

    frame: Frame
    taken: tuple[Alternative, ...]
    scopes: tuple[Context, ...]
    setting: Setting
    branches: Sequence[Setting | Leaf]


class Network:
    """The points of a space.

    Args:
        grammar: The rules.
        contexts: Their contexts.
        options: Their options.
        budget: What terms cost and what caps allow; None without caps.

    Attributes:
        start: The point of the start rule.
        slack: What the caps leave after the cheapest derivation of the whole, per capped measure.
        write: Makes one text of its parts.
    """

    def __init__(
        self,
        grammar: Grammar,
        contexts: Contexts,
        options: OptionTable,
        budget: Budget | None,
    ) -> None:
        self._contexts = contexts
        self._options = options
        self._budget = budget
        self.write = join if words_can_meet(grammar) else "".join
        self._points: dict[tuple[str | Alternative, Context, Slack], Point] = {}
        self._fragments: dict[Alternative, tuple[str, ...]] = {}
        self._plain: dict[Alternative, Leaf] = {}
        self.slack: Slack = () if budget is None else budget.slack(grammar.start, contexts.root)
        self.start = self.point(grammar.start, contexts.root, (1,) * len(self.slack))

    def point(self, what: str | Alternative, context: Context, scale: Slack) -> Point:
        """The point of a rule, or of an alternative that is already chosen, in a context.

        Args:
            what: The rule or the alternative.
            context: Where it stands.
            scale: How often what is derived here counts in the whole, per capped measure.
        """
        rule = what if isinstance(what, str) else what.rule
        context = self._contexts.view(rule, context)
        key = (what, context, scale)
        found = self._points.get(key)
        if found is None:
            alternatives: Sequence[Alternative] = ()
            if isinstance(what, str):
                options = self._options(what, context)
                alternatives, probabilities = options.alternatives, options.probabilities
            else:
                alternatives, probabilities = (what,), (1.0,)
            deltas: list[Slack] = [()] * len(alternatives)
            if self._budget is not None:
                extras = self._budget.extras(what, alternatives, context)
                deltas = [tuple(map(mul, extra, scale)) for extra in extras]
            found = Point(rule, context, (), alternatives, probabilities, deltas, scale, None)
            self._points[key] = found
        return found

    def link(self, point: Point, index: int) -> Link:
        """What follows an alternative of a point; made once and kept there."""
        found = point.links[index]
        if found is None:
            found = point.links[index] = self._make_link(point, index)
        return found

    def _make_link(self, point: Point, index: int) -> Link:
        alternative = point.alternatives[index]
        plan = point.plan
        if isinstance(plan, _Plan):
            taken, scopes = plan.taken, plan.scopes
            if not self._is_block(alternative):
                above = scopes[plan.setting.scope]
                taken = (*taken, alternative)
                scopes = (*scopes, self._contexts.below(alternative, above))
            return self._follow(point, plan.frame, taken, scopes, plan.branches[index])
        scopes = (self._contexts.below(alternative, point.context),)
        if self._budget is None:
            return self._derive(point, (alternative,), scopes, self._without_cost(alternative))
        frame, tree = self._budget.frame(alternative, point.context)
        return self._follow(point, frame, (alternative,), scopes, tree)

    def _is_block(self, alternative: Alternative) -> bool:
        return self._budget is not None and self._budget.has_cost(alternative)

    def _without_cost(self, alternative: Alternative) -> Leaf:
        found = self._plain.get(alternative)
        if found is None:
            parts = (Part(r, 0, (i,), 0) for i, r in enumerate(alternative.references))
            found = Leaf((Chosen(alternative, -1, (), 0),), tuple(parts), (), ())
            self._plain[alternative] = found
        return found

    def _follow(
        self,
        point: Point,
        frame: Frame,
        taken: tuple[Alternative, ...],
        scopes: tuple[Context, ...],
        tree: Setting | Leaf,
    ) -> Link:
        if isinstance(tree, Leaf):
            return self._derive(point, taken, scopes, tree)
        parameter = self._parameter(frame, taken, scopes, tree, point.scale)
        return Link("", (), (parameter,), (((), parameter),))

    def _parameter(
        self,
        frame: Frame,
        taken: tuple[Alternative, ...],
        scopes: tuple[Context, ...],
        setting: Setting,
        scale: Slack,
    ) -> Point:
        """The point of a parameter of a term that has a cost."""
        context = self._contexts.view(setting.rule, scopes[setting.scope])
        options = self._options(setting.rule, context)
        weights = dict(zip(options.alternatives, options.probabilities, strict=True))
        least = frame.values[id(setting)]
        assert least is not None
        alternatives: list[Alternative] = []
        branches: list[Setting | Leaf] = []
        deltas: list[Slack] = []
        for alternative, branch in setting.branches:
            value = frame.values[id(branch)]
            if value is not None and alternative in weights:
                alternatives.append(alternative)
                branches.append(branch)
                deltas.append(tuple(map(mul, map(sub, value, least), scale)))
        total = sum(weights[a] for a in alternatives)
        probabilities = [weights[a] / total for a in alternatives]
        plan = _Plan(frame, taken, scopes, setting, branches)
        return Point(
            setting.rule, context, setting.route, alternatives, probabilities, deltas, scale, plan
        )

    def _derive(
        self,
        point: Point,
        taken: tuple[Alternative, ...],
        scopes: tuple[Context, ...],
        leaf: Leaf,
    ) -> Link:
        """Text, nodes and points that follow when all parameters of a term are chosen."""
        scale = tuple(map(mul, point.scale, leaf.scale))
        parts: list[Part] = []
        texts: list[list[str]] = [[]]  # before, between and after the parts
        emits: list[list[Emit]] = [[]]
        for piece in self._pieces(taken, leaf):
            if isinstance(piece, str):
                texts[-1].append(piece)
            elif isinstance(piece, Part):
                parts.append(piece)
                texts.append([])
                emits.append([])
            else:
                emits[-1].append(piece)
        points = [self.point(part.what, scopes[part.scope], scale) for part in parts]
        tail: list[Point | str] = []
        for following, text, due in zip(points, texts[1:], emits[1:], strict=True):
            tail.append(following)
            if due:
                tail.append(_due(self.write(text), tuple(due), point))
            elif any(text):
                tail.append(self.write(text))
        routes = [(part.route, p) for part, p in zip(parts, points, strict=True)]
        return Link(
            head=self.write(texts[0]),
            emits=tuple(emits[0]),
            tail=tuple(reversed(tail)),
            routes=tuple(reversed(routes)),
        )

    def _pieces(self, taken: tuple[Alternative, ...], leaf: Leaf) -> Iterator[str | Emit | Part]:
        """A setting in the order of its text: alternatives before their own text, blocks."""
        at: dict[Route, tuple[Alternative, Route] | Part] = {
            each.route: (alternative, each.route)
            for each, alternative in zip(leaf.chosen, taken, strict=True)
        }
        at.update((part.route, part) for part in leaf.parts)
        stack: list[str | tuple[Alternative, Route] | Part] = [at[()]]
        while stack:
            top = stack.pop()
            if not isinstance(top, tuple):
                yield top
                continue
            alternative, route = top
            texts = self._texts(alternative)
            arity = len(texts) - 1
            yield (alternative, arity) if arity else (Node(alternative), 0)
            for child in reversed(range(arity)):
                stack += (texts[child + 1], at[(*route, child)])
            yield texts[0]

    def _texts(self, alternative: Alternative) -> tuple[str, ...]:
        found = self._fragments.get(alternative)
        if found is None:
            found = self._fragments[alternative] = fragments(alternative)
        return found


def _due(text: str, emits: tuple[Emit, ...], like: Point) -> Point:
    """Text and nodes that follow a block of the same term: a point without a choice."""
    nothing = (0,) * len(like.scale)
    due = Point(like.rule, like.context, (), like.alternatives[:1], (1.0,), (nothing,), (), None)
    due.links[0] = Link(text, emits, (), ())
    due.fixed = True
    return due

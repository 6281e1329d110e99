"""Terms with a cost, and the settings of their parameters that a cost depends on.

What `attention(heads, kv, window)` costs is known only when all its parameters are. A **frame** is
such a term in a context: its alternative, every way to choose its parameters (a tree of settings,
in the order in which they are chosen), and for each of these what it costs and which blocks it
leaves to be derived. Parameters are chosen before blocks, so that the blocks' budget is exact.
"""

from collections.abc import Callable, Mapping
from typing import NoReturn

from nas.grammar.blocks import BlockCounts
from nas.grammar.completion import Arguments, CostModel, Discerning, Edge, rule_of
from nas.grammar.context import Context, Contexts
from nas.grammar.derivation import Term
from nas.grammar.errors import SpaceError
from nas.grammar.reach import levels
from nas.grammar.rules import Alternative, Grammar, Literal
from nas.grammar.settings import Chosen, Leaf, Part, Route, Setting

MAX_LEAVES = 20_000  # settings of one term in one context
MAX_SETTINGS = 100  # parameters of one term

_Open = tuple[str, int, Route, int]  # a parameter to be chosen: its rule, scope, route, level
_Seen = tuple[tuple[Chosen, ...], tuple[Part, ...]]  # what the cost of a setting depends on


class Frames:
    """The frames of a space.

    Args:
        grammar: The rules.
        contexts: Their contexts.
        legal: The legal alternatives of a rule in a context.
        costs: What terms cost.
        measures: Which of the cost model's measures count.
    """

    def __init__(
        self,
        grammar: Grammar,
        contexts: Contexts,
        legal: Callable[[str, Context], tuple[Alternative, ...]],
        costs: CostModel,
        measures: tuple[str, ...],
    ) -> None:
        self.contexts = contexts
        self.legal = legal
        self._costs = costs
        self._names = measures
        self._measures = tuple(costs.measures.index(measure) for measure in measures)
        self.blocks = BlockCounts(grammar, costs, contexts.root)
        self._trees: dict[tuple[Alternative, Context], Setting | Leaf] = {}
        self._grown: dict[tuple[Alternative, Context], Setting | Leaf] = {}
        self._names_of: dict[Alternative, frozenset[str]] = {}

    def tree(self, alternative: Alternative, context: Context) -> Setting | Leaf:
        """The settings of an alternative in a context, legal ones only.

        An alternative without a cost of its own has one setting: none.

        Raises:
            SpaceError: There are too many to tell what the term costs, or one has no cost.
        """
        core = self.contexts.view(alternative.rule, context).core
        key = (alternative, core)
        found = self._trees.get(key)
        if found is None:
            # Where all that the parameters look at is the same, so is the tree.
            seen = (alternative, self.contexts.part(core, self._names_seen(alternative)))
            found = self._grown.get(seen)
            if found is None:
                found = self._grown[seen] = self._grow(alternative, core)
            self._trees[key] = found
        return found

    def _grow(self, alternative: Alternative, core: Context) -> Setting | Leaf:
        try:
            return _Growth(self, alternative, core, counted=False).tree()
        except _CountMattersError:
            return _Growth(self, alternative, core, counted=True).tree()

    def _names_seen(self, alternative: Alternative) -> frozenset[str]:
        """Names of a context that the settings of an alternative and their costs depend on."""
        found = self._names_of.get(alternative)
        if found is None:
            parameters = [r for r in alternative.references if not self.blocks.of_rule(r).one]
            found = self.contexts.names_seen(alternative, parameters)
            self._names_of[alternative] = found
        return found

    def indifferent(self, alternative: Alternative) -> Mapping[str, frozenset[str]]:
        """As `Discerning.indifferent`, of an alternative's term."""
        if alternative.name is None or not isinstance(self._costs, Discerning):
            return {}
        return self._costs.indifferent(alternative.name, self._names)

    def scopes(self, leaf: Leaf, context: Context) -> list[Context]:
        """For every chosen alternative of a setting, the context of what stands below it."""
        found: list[Context] = []
        for chosen in leaf.chosen:
            above = context if chosen.scope < 0 else found[chosen.scope]
            found.append(self.contexts.below(chosen.alternative, above))
        return found

    def edge(self, leaf: Leaf, context: Context) -> Edge:
        """A setting as an edge of the cheapest-completion problem, in that context."""
        scopes = self.scopes(leaf, context) if leaf.parts else []
        return Edge(
            own=leaf.own,
            scale=leaf.scale,
            parts=tuple(
                (part.what, self.contexts.view(rule_of(part.what), scopes[part.scope]))
                for part in leaf.parts
            ),
            offsets=tuple(part.level for part in leaf.parts),
            reach=max(chosen.level for chosen in leaf.chosen),
        )

    def cost(
        self, alternative: Alternative, arguments: Arguments, context: Context
    ) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Own cost and multipliers of a term, in the measures that count.

        Raises:
            SpaceError: It has none: the space allows what cannot be built.
        """
        assert alternative.name is not None
        try:
            found = self._costs.cost(alternative.name, arguments, context.given)
        except ValueError as error:
            shown = Term(alternative.name, tuple(a for a in arguments if a is not None))
            raise SpaceError(
                f"no cost for {shown} where {context.given}: {error} (forbid it by a `where`)",
                alternative.location,
            ) from error
        assert found is not None, f"{alternative.name} had a cost before"
        own, scale = (tuple(amounts[k] for k in self._measures) for amounts in found)
        for k, a, b in zip(self._measures, own, scale, strict=True):
            if not (a >= 0 and b >= 1):
                raise SpaceError(
                    f"a cap on `{self._costs.measures[k]}` cannot be kept: `{alternative.name}` "
                    f"costs {a} and its blocks {b} times theirs (at least 0 and 1 are needed)",
                    alternative.location,
                )
        return own, scale


class _CountMattersError(Exception):
    """What a term costs depends on how often a block is repeated in it."""


class _Growth:
    """Grows the tree of settings of one frame."""

    def __init__(
        self, frames: Frames, alternative: Alternative, context: Context, counted: bool
    ) -> None:
        self._frames = frames
        self._alternative = alternative
        self._context = context
        self._counted = counted  # whether the number of repeated blocks is chosen as a parameter
        self._leaves = 0
        self._indifferent: Mapping[str, frozenset[str]] = {}
        self._told: dict[Alternative, bool] = {}
        self._known: dict[_Seen, tuple[tuple[float, ...], tuple[float, ...]]] = {}

    def tree(self) -> Setting | Leaf:
        """The tree of settings."""
        alternative = self._alternative
        if self._frames.blocks.has_cost(alternative.name):
            self._indifferent = self._frames.indifferent(alternative)
            return self._choose((), (), (), (Chosen(alternative, -1, (), 0),))
        below = levels(alternative)
        parts = tuple(Part(rule, 0, (i,), below) for i, rule in enumerate(alternative.references))
        measures = len(self._frames._measures)
        return Leaf((Chosen(alternative, -1, (), 0),), parts, (0,) * measures, (1,) * measures)

    def _choose(
        self,
        agenda: tuple[_Open, ...],
        parts: tuple[Part, ...],
        scopes: tuple[Context, ...],
        chosen: tuple[Chosen, ...],
    ) -> Setting | Leaf:
        """What follows once `chosen` is: its last alternative is new, `agenda` is left."""
        frames = self._frames
        if len(chosen) > len(scopes):
            new = chosen[-1]
            above = self._context if new.scope < 0 else scopes[new.scope]
            scopes = (*scopes, frames.contexts.below(new.alternative, above))
            inside: list[_Open] = []
            for i, rule in enumerate(new.alternative.references):
                level = new.level + levels(new.alternative)
                place = (len(chosen) - 1, (*new.route, i), level)
                if self._is_block(rule):
                    parts = (*parts, Part(rule, *place))
                else:
                    inside.append((rule, *place))
            agenda = (*inside, *agenda)
        if not agenda:
            return self._leaf(chosen, tuple(sorted(parts, key=lambda part: part.route)))
        if len(chosen) > MAX_SETTINGS:
            self._refuse()
        (rule, scope, route, level), rest = agenda[0], agenda[1:]
        branches: list[tuple[Alternative, Setting | Leaf]] = []
        shared: dict[str | None, Setting | Leaf] = {}
        for alternative in frames.legal(rule, scopes[scope]):
            alike = not alternative.references and not self._tells(alternative)
            if alike and alternative.name in shared:
                branch = shared[alternative.name]
            elif frames.blocks.has_cost(alternative.name):
                part = Part(alternative, scope, route, level)
                branch = self._choose(rest, (*parts, part), scopes, chosen)
            else:
                new = Chosen(alternative, scope, route, level)
                branch = self._choose(rest, parts, scopes, (*chosen, new))
                if alike:
                    shared[alternative.name] = branch
            branches.append((alternative, branch))
        return Setting(rule, scope, route, tuple(branches))

    def _is_block(self, rule: str) -> bool:
        blocks = self._frames.blocks.of_rule(rule)
        if blocks.parameters or not blocks.most:
            return False
        return blocks.one or not self._counted

    def _leaf(self, chosen: tuple[Chosen, ...], parts: tuple[Part, ...]) -> Leaf:
        self._leaves += 1
        if self._leaves > MAX_LEAVES:
            self._refuse()
        if not self._indifferent:
            return Leaf(chosen, parts, *self._priced(chosen, parts))
        # Settings that differ only where the cost does not see it are priced once.
        seen = tuple([each for each in chosen if self._tells(each.alternative)]), parts
        found = self._known.get(seen)
        if found is None:
            found = self._known[seen] = self._priced(chosen, parts)
        return Leaf(chosen, parts, *found)

    def _tells(self, alternative: Alternative) -> bool:
        """Whether the cost depends on a parameter's having this value, rather than some others."""
        found = self._told.get(alternative)
        if found is None:
            found = self._told[alternative] = self._is_seen(alternative)
        return found

    def _is_seen(self, alternative: Alternative) -> bool:
        alike = self._indifferent.get(alternative.name or "")
        if not alike:
            return alike is None
        return not any(
            isinstance(s, Literal) and s.kept and s.text in alike for s in alternative.symbols
        )

    def _priced(
        self, chosen: tuple[Chosen, ...], parts: tuple[Part, ...]
    ) -> tuple[tuple[float, ...], tuple[float, ...]]:
        counts = [self._frames.blocks.of_part(part.what) for part in parts]
        fewest = [int(count.fewest) for count in counts]
        found = self._cost(chosen, parts, fewest)
        for more in (1, 2):
            numbers = [int(min(c.fewest + more, c.most)) for c in counts]
            if numbers != fewest and self._cost(chosen, parts, numbers) != found:
                raise _CountMattersError
        return found

    def _cost(
        self, chosen: tuple[Chosen, ...], parts: tuple[Part, ...], numbers: list[int]
    ) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """What the term costs with so many blocks in each of its parts."""
        at: dict[Route, Arguments] = {
            part.route: (None,) * number for part, number in zip(parts, numbers, strict=True)
        }
        for each in reversed(chosen):
            arguments: list[Term | str | None] = []
            children = 0
            for symbol in each.alternative.symbols:
                if isinstance(symbol, Literal):
                    if symbol.kept:
                        arguments.append(symbol.text)
                else:
                    arguments += at[(*each.route, children)]
                    children += 1
            at[each.route] = _contribution(each.alternative.name, tuple(arguments))
            if each.scope < 0:
                return self._frames.cost(each.alternative, tuple(arguments), self._context)
        raise AssertionError("a frame has an alternative of its own")

    def _refuse(self) -> NoReturn:
        name = self._alternative.name
        raise SpaceError(
            f"`{name}` has too many settings in one context to keep a cap on what it costs: bound "
            "its repetitions (`~ 2..8`), give its parameters fewer values, or set no cap",
            self._alternative.location,
        )


def _contribution(name: str | None, arguments: Arguments) -> Arguments:
    """What an alternative without a cost adds to the arguments of the term it stands in."""
    if name is None:
        return arguments
    if None in arguments:
        return (None,)
    return (Term(name, arguments),)  # type: ignore[arg-type]

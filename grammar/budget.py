"""Caps on what an architecture costs: what each choice takes at least, and what is left for it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from operator import sub

from nas.grammar.cheapest import Cheapest
from nas.grammar.choices import Slack
from nas.grammar.completion import CostModel, Flattest
from nas.grammar.context import Context, Contexts
from nas.grammar.errors import SpaceError
from nas.grammar.frames import Frames
from nas.grammar.options import OptionTable
from nas.grammar.rules import Alternative, Grammar
from nas.grammar.settings import Leaf, Setting


@dataclass(frozen=True, slots=True)
class Frame:
    """A term in a context.

    Args:
        alternative: Its alternative.
        context: Where it stands.
        values: What every setting of its tree (by `id`) costs at least, with the cheapest
            completion of its blocks; None where that has none.
    """

    alternative: Alternative
    context: Context
    values: Mapping[int, Slack | None]


class Budget:
    """The caps of a space.

    Args:
        grammar: The rules.
        contexts: Their contexts.
        flattest: Their flattest completions.
        options: Their options.
        costs: What terms cost.
        caps: For some of its measures, the most that an architecture may cost.

    Raises:
        SpaceError: A cap on something that the cost model does not measure.
    """

    def __init__(
        self,
        grammar: Grammar,
        contexts: Contexts,
        flattest: Flattest,
        options: OptionTable,
        costs: CostModel,
        caps: Mapping[str, float],
    ) -> None:
        for measure in caps:
            if measure not in costs.measures:
                known = ", ".join(costs.measures)
                raise SpaceError(f"no cap on `{measure}` can be kept: costs are {known}")
        self._caps = dict(caps)
        self._frames = Frames(grammar, contexts, options.legal, costs, tuple(caps))
        self._cheapest = Cheapest(contexts, flattest, self._frames, tuple(caps.values()))
        self._extras: dict[tuple[str | Alternative, Context], list[Slack]] = {}
        self._values: dict[tuple[Alternative, Context], dict[int, Slack | None]] = {}

    def has_cost(self, alternative: Alternative) -> bool:
        """Whether the term that an alternative makes has a cost of its own."""
        return self._frames.blocks.has_cost(alternative.name)

    def least(self, what: str | Alternative, context: Context) -> Slack:
        """What the cheapest derivation of a rule or of a chosen alternative costs."""
        completion = self._cheapest((what, context))
        assert completion is not None, "asked for what is not legal"
        return completion.cost

    def extras(
        self, what: str | Alternative, alternatives: Sequence[Alternative], context: Context
    ) -> list[Slack]:
        """How much more than the cheapest derivation of a rule each of its alternatives costs."""
        key = (what, context)
        found = self._extras.get(key)
        if found is None:
            least = self.least(what, context)
            found = [tuple(map(sub, self.least(a, context), least)) for a in alternatives]
            self._extras[key] = found
        return found

    def slack(self, start: str, root: Context) -> Slack:
        """What the caps leave after the cheapest derivation of the whole.

        Raises:
            SpaceError: Nothing fits.
        """
        completion = self._cheapest((start, root))
        if completion is None:
            return (0.0,) * len(self._caps)  # the options say why
        for (measure, cap), least in zip(self._caps.items(), completion.cost, strict=True):
            if least > cap:
                raise SpaceError(
                    f"no architecture of this space has at most {cap:,} {measure} here: the "
                    f"smallest has {least:,}"
                )
        return tuple(
            cap - least for cap, least in zip(self._caps.values(), completion.cost, strict=True)
        )

    def frame(self, alternative: Alternative, context: Context) -> tuple[Frame, Setting | Leaf]:
        """The term that an alternative makes in a context, and the tree of its settings."""
        tree = self._frames.tree(alternative, context)
        key = (alternative, context.deep_core)
        values = self._values.get(key)
        if values is None:
            values = self._values[key] = {}
            promised = self.least(alternative, context)
            self._value(tree, context, promised, values)
        return Frame(alternative, context, values), tree

    def _value(
        self,
        tree: Setting | Leaf,
        context: Context,
        promised: Slack,
        values: dict[int, Slack | None],
    ) -> Slack | None:
        """What the best setting in a tree costs; the one that was promised is best."""
        if id(tree) in values:
            return values[id(tree)]
        best: Slack | None = None
        if isinstance(tree, Leaf):
            best = self._cheapest.value(tree, context)
        else:
            for _, branch in tree.branches:
                value = self._value(branch, context, promised, values)
                if value is not None and (
                    best is None
                    or value == promised
                    or (best != promised and self._better(value, best))
                ):
                    best = value
        values[id(tree)] = best
        return best

    def _better(self, a: Slack, b: Slack) -> bool:
        return (self._cheapest.score(a), a) < (self._cheapest.score(b), b)

"""A space: the rules of a `.lark` file in the context of a study, ready to derive architectures."""

import hashlib
import math
from collections.abc import Mapping
from functools import cached_property, lru_cache
from pathlib import Path
from random import Random

from nas.grammar.budget import Budget
from nas.grammar.coarse import CoarseDecisions
from nas.grammar.completion import CostModel, Flattest
from nas.grammar.context import Context, Contexts
from nas.grammar.costs import derivation_cost
from nas.grammar.decisions import Decisions
from nas.grammar.derivation import Derivation, Node
from nas.grammar.errors import SpaceError
from nas.grammar.expression import Value
from nas.grammar.loader import NAMES, load_grammar
from nas.grammar.network import Network
from nas.grammar.normal import normalised
from nas.grammar.options import Options, OptionTable
from nas.grammar.parser import TextParser
from nas.grammar.rules import Alternative, Grammar
from nas.grammar.sampling import sample, spend


class Space:
    """All architectures that a grammar derives in a context, and how likely each is.

    Args:
        grammar: The rules.
        context: What a study gives: `L` (length or lengths), `D` (width), `causal`, ...
        costs: What terms cost; needed for caps.
        caps: For some of the cost model's measures, the most that an architecture may cost.
    """

    def __init__(
        self,
        grammar: Grammar,
        *,
        context: Mapping[str, Value] | None = None,
        costs: CostModel | None = None,
        caps: Mapping[str, float] | None = None,
    ) -> None:
        self.grammar = grammar
        self.costs = costs
        self.caps = dict(caps or {})
        self._given = dict(context or {})
        if self.caps and costs is None:
            raise SpaceError("caps need a cost model: pass costs=...")
        self._contexts = Contexts(grammar, self._given, costly=bool(self.caps))
        self.context = self._contexts.root
        self._flattest = Flattest(grammar, self._contexts)
        self._options = OptionTable(grammar, self._contexts, self._flattest)
        self._parser = _parser_of(grammar)

    @classmethod
    def load(
        cls,
        path: str | Path,
        *,
        context: Mapping[str, Value] | None = None,
        costs: CostModel | None = None,
        caps: Mapping[str, float] | None = None,
    ) -> "Space":
        """Read a space file.

        Args:
            path: The `.lark` file.
            context: As for the class; rules may read these names, `L`, `D` and `causal`.
            costs: As for the class.
            caps: As for the class.

        Raises:
            SpaceError: Something is wrong with the file; says file, line and what to write instead.
        """
        grammar = load_grammar(str(path), {*NAMES, *(context or ())})
        return cls(grammar, context=context, costs=costs, caps=caps)

    def under(
        self,
        *,
        context: Mapping[str, Value] | None = None,
        costs: CostModel | None = None,
        caps: Mapping[str, float] | None = None,
    ) -> "Space":
        """The same rules in another context, with other costs or caps; None keeps the present."""
        return Space(
            self.grammar,
            context=self._given if context is None else context,
            costs=self.costs if costs is None else costs,
            caps=self.caps if caps is None else caps,
        )

    @cached_property
    def hash(self) -> str:
        """SHA-256 of the rules, independent of comments, layout and the names of files."""
        return hashlib.sha256(normalised(self.grammar).encode()).hexdigest()

    @cached_property
    def _network(self) -> Network:
        contexts, options = self._contexts, self._options
        budget = None
        if self.caps and self.costs is not None:
            budget = Budget(self.grammar, contexts, self._flattest, options, self.costs, self.caps)
        return Network(self.grammar, contexts, options, budget)

    def options(self, rule: str, context: Context) -> Options:
        """What a rule can become in a context: legal alternatives, probabilities, contexts below.

        What caps leave depends on the rest of a derivation: `decide` knows, this does not.

        Raises:
            SpaceError: Nothing: the rule has no derivation there.
        """
        return self._options(rule, context)

    def height(self, alternative: Alternative, context: Context) -> int:
        """Levels of the flattest derivation that begins with a legal alternative of a rule.

        Args:
            alternative: One of `options(rule, context).alternatives`.
            context: Where the rule stands.
        """
        completion = self._flattest((alternative, context))
        assert completion is not None, "the alternative is not legal there"
        return completion.height

    def below(self, node: Node, context: Context) -> Context:
        """The context of a node's children, where the node stands in `context`."""
        return self._contexts.below(node.alternative, context)

    def sample(self, rng: Random) -> Derivation:
        """Draw an architecture.

        Args:
            rng: Source of chance; the same state gives the same architecture.

        Raises:
            SpaceError: The space is empty in this context or under these caps.
        """
        return sample(self._network, rng)

    def decide(self, *, coarse: bool = False) -> "Decisions | CoarseDecisions":
        """The decisions of a new derivation, to be taken one at a time.

        Args:
            coarse: From coarse to fine, see `CoarseDecisions`; else in the order of the text.

        Raises:
            SpaceError: The space is empty in this context or under these caps.
        """
        return CoarseDecisions(self._network) if coarse else Decisions(self._network)

    def log_probability(self, derivation: Derivation) -> float:
        """Natural logarithm of the probability that `sample` draws a derivation.

        Args:
            derivation: One of these rules; -inf where it cannot be drawn in this context or under
                these caps.
        """
        network = self._network
        total = 0.0
        slack = network.slack
        stack = [(derivation.root, network.start)]
        while stack:
            base, point = stack.pop()
            chosen = node_at(base, point.at).alternative
            legal = point.affordable(slack)
            index = next((i for i in legal if point.alternatives[i] is chosen), None)
            if index is None:
                return -math.inf
            total += math.log(point.renormalised(legal)[0][legal.index(index)])
            slack = spend(slack, point.deltas[index])
            routes = network.link(point, index).routes
            stack += [(node_at(base, route), p) for route, p in routes]
        return total

    def cost(self, derivation: Derivation) -> dict[str, float]:
        """What an architecture costs, for every measure of the cost model.

        Raises:
            ValueError: The space has no cost model.
        """
        if self.costs is None:
            raise ValueError("the space has no cost model: pass costs=...")
        return derivation_cost(derivation.root, self._contexts, self.costs)

    def parse(self, text: str, file: str | None = None) -> Derivation:
        """The derivation that a text is written for.

        White space, line breaks and `// comments` do not matter.

        Args:
            text: An architecture.
            file: Where the text comes from, for messages.

        Raises:
            SpaceError: The text is not in the language, or a `where`, `max_depth` or cap forbids it
                in this context; says which, and where in the text.
        """
        parsed = self._parser.parse(text, file)
        problem = self._problem(parsed.root)
        if problem is not None:
            raise parsed.error(*problem)
        return Derivation(parsed.root)

    def check(self, derivation: Derivation) -> None:
        """Make sure that a derivation of these rules is legal in this context and under these caps.

        Raises:
            SpaceError: It is not; says which `where`, `max_depth` or cap forbids it.
        """
        problem = self._problem(derivation.root)
        if problem is not None:
            raise SpaceError(problem[0])

    def _problem(self, root: Node) -> tuple[str, int] | None:
        """The first thing that is illegal, and the pre-order index of the node where it is."""
        stack = [(root, self.context)]
        index = -1
        while stack:
            node, context = stack.pop()
            index += 1
            alternative = node.alternative
            if self._contexts.too_deep(context):
                deepest = self.grammar.max_depth
                return f"`{alternative.rule}` lies deeper than max_depth {deepest} allows", index
            if not self._contexts.allows(alternative, context):
                message = (
                    f"`{alternative.name or alternative.rule}` is legal only where "
                    f"{alternative.where} ({alternative.location}), and here {context}"
                )
                return message, index
            below = self._contexts.below(alternative, context)
            stack += [(child, below) for child in reversed(node.children)]
        if self.caps and self.costs is not None:
            costs = derivation_cost(root, self._contexts, self.costs)
            for measure, cap in self.caps.items():
                if costs[measure] > cap:
                    return f"{costs[measure]:,} {measure} are more than the cap of {cap:,}", 0
        return None


@lru_cache(maxsize=8)
def _parser_of(grammar: Grammar) -> TextParser:
    """One parser for all spaces of the same rules: making its tables takes a while."""
    return TextParser(grammar)


def node_at(root: Node, path: tuple[int, ...]) -> Node:
    """The node at a path: indices of children, from the root down."""
    for index in path:
        root = root.children[index]
    return root

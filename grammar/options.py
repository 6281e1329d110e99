"""The legal alternatives of a rule in a context: the one function behind everything else.

Sampling, scoring, tree search, mutation, parsing and linting all ask `OptionTable`; what it says is
legal leads to a finished derivation, so nobody has to try and fail.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

from nas.grammar.completion import Completions, Edge, Item
from nas.grammar.context import Context, Contexts, is_helper
from nas.grammar.errors import SpaceError
from nas.grammar.rules import Alternative, Grammar


@dataclass(frozen=True, slots=True, eq=False)
class Options:
    """What a rule can become in a context.

    Args:
        rule: The rule.
        context: Where it stands.
        alternatives: Its legal alternatives, in file order: never empty.
        probabilities: Of each; they sum to 1.
        contexts: For each, the context of its parts (after `let`).
    """

    rule: str
    context: Context
    alternatives: tuple[Alternative, ...]
    probabilities: tuple[float, ...]
    contexts: tuple[Context, ...]


class OptionTable:
    """All options of a space, computed when first met.

    Args:
        grammar: The rules.
        contexts: Their contexts.
    """

    def __init__(self, grammar: Grammar, contexts: Contexts) -> None:
        self.grammar = grammar
        self.contexts = contexts
        self._flattest = Completions(contexts, self.edges)
        self._options: dict[tuple[str, Context], Options] = {}

    def edges(self, item: Item) -> Iterator[Edge]:
        """The ways to expand an item, costs aside."""
        what, context = item
        if isinstance(what, str):
            for alternative in self.grammar.rules[what]:
                if self.contexts.allows(alternative, context):
                    yield Edge((), (), ((alternative, context),), (0,))
            return
        references = what.references
        below = self.contexts.below(what, context)
        offset = 0 if is_helper(what.rule) else 1
        yield Edge((), (), tuple((rule, below) for rule in references), (offset,) * len(references))

    def height(self, item: Item) -> int | None:
        """Levels below an item in its flattest derivation; None when it has none."""
        completion = self._flattest(item)
        return None if completion is None else completion.height

    def legal(self, alternative: Alternative, context: Context) -> bool:
        """Whether an alternative can be chosen in a context and lead to a derivation."""
        return (
            self.contexts.allows(alternative, context)
            and self.height((alternative, context)) is not None
        )

    def __call__(self, rule: str, context: Context) -> Options:
        """The options of a rule in a context.

        Raises:
            SpaceError: The rule has no derivation in this context.
        """
        key = (rule, context)
        found = self._options.get(key)
        if found is None:
            found = self._options[key] = self._make(rule, context)
        return found

    def _make(self, rule: str, context: Context) -> Options:
        alternatives = tuple(a for a in self.grammar.rules[rule] if self.legal(a, context))
        if not alternatives:
            raise SpaceError(
                f"`{rule}` has no derivation where {context or 'nothing is given'}: every "
                "alternative is ruled out by `where` or `max_depth`, here or further below",
                self.grammar.rules[rule][0].location,
            )
        weights = [a.weight.mean(context) for a in alternatives]
        for alternative, weight in zip(alternatives, weights, strict=True):
            if weight <= 0:
                raise SpaceError(
                    f"the weight `{alternative.weight}` is 0 where {context}: write `where` for an "
                    "alternative that is not legal everywhere",
                    alternative.location,
                )
        total = math.fsum(weights)
        return Options(
            rule=rule,
            context=context,
            alternatives=alternatives,
            probabilities=tuple(weight / total for weight in weights),
            contexts=tuple(self.contexts.below(a, context) for a in alternatives),
        )

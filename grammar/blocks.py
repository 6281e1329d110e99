"""Which rules stand for blocks of a term, which for its parameters, and how many they can be.

A block is an argument that has a cost; a parameter has none. What a rule adds to the term that it
stands in follows from the names of its alternatives alone, whatever the context.
"""

import math
from dataclasses import dataclass

from nas.grammar.completion import CostModel
from nas.grammar.context import Context
from nas.grammar.rules import Alternative, Grammar, Literal


@dataclass(frozen=True, slots=True)
class Blocks:
    """What a rule or an alternative adds to the arguments of the term it stands in.

    Args:
        fewest: At least so many blocks.
        most: At most so many; infinite where they can be repeated without end.
        parameters: Whether it can add arguments that have no cost.
    """

    fewest: float
    most: float
    parameters: bool

    @property
    def one(self) -> bool:
        """Whether it is one block and nothing else."""
        return self.fewest == self.most == 1 and not self.parameters


class BlockCounts:
    """The blocks of every rule and alternative of a grammar.

    Args:
        grammar: The rules.
        costs: Knows the names that have a cost.
        context: Any context in which costs can be asked for.
    """

    def __init__(self, grammar: Grammar, costs: CostModel, context: Context) -> None:
        self._grammar = grammar
        self._costs = costs
        self._context = context.given
        self._has_cost: dict[str, bool] = {}
        self._fewest: dict[str, float] = dict.fromkeys(grammar.rules, math.inf)
        self._most: dict[str, float] = dict.fromkeys(grammar.rules, 0)
        self._parameters: dict[str, bool] = dict.fromkeys(grammar.rules, False)
        # In this order: a term without a cost is a block or a parameter by what is inside.
        self._grow_most()
        self._settle_fewest()
        self._settle_parameters()

    def has_cost(self, name: str | None) -> bool:
        """Whether terms of that name have a cost of their own."""
        if name is None:
            return False
        found = self._has_cost.get(name)
        if found is None:
            try:
                found = self._costs.cost(name, (), self._context) is not None
            except Exception:  # a cost that needs its arguments: so there is one
                found = True
            self._has_cost[name] = found
        return found

    def of_rule(self, rule: str) -> Blocks:
        """What a rule adds to the term it stands in."""
        return Blocks(self._fewest[rule], self._most[rule], self._parameters[rule])

    def of_part(self, part: str | Alternative) -> Blocks:
        """What a rule, or an alternative, adds to the term it stands in."""
        if isinstance(part, str):
            return self.of_rule(part)
        return Blocks(self._fewest_of(part), self._most_of(part), self._parameters_of(part))

    def _most_of(self, alternative: Alternative) -> float:
        if self.has_cost(alternative.name):
            return 1
        inside = sum(self._most[rule] for rule in alternative.references)
        return inside if alternative.name is None else min(inside, 1)

    def _fewest_of(self, alternative: Alternative) -> float:
        if self.has_cost(alternative.name):
            return 1
        inside = sum(self._fewest[rule] for rule in alternative.references)
        return inside if alternative.name is None else min(inside, 1, self._most_of(alternative))

    def _parameters_of(self, alternative: Alternative) -> bool:
        if self.has_cost(alternative.name):
            return False
        if alternative.name is not None:
            return self._fewest_of(alternative) < 1
        return any(isinstance(s, Literal) and s.kept for s in alternative.symbols) or any(
            self._parameters[rule] for rule in alternative.references
        )

    def _grow_most(self) -> None:
        rules = self._grammar.rules
        changed = True
        rounds = 0
        while changed:
            changed = False
            rounds += 1
            for rule, alternatives in rules.items():
                most = max((self._most_of(a) for a in alternatives), default=0)
                if most > self._most[rule]:
                    # What still grows after as many rounds as there are rules grows for ever.
                    self._most[rule] = most if rounds <= len(rules) else math.inf
                    changed = True

    def _settle_fewest(self) -> None:
        changed = True
        while changed:
            changed = False
            for rule, alternatives in self._grammar.rules.items():
                fewest = min((self._fewest_of(a) for a in alternatives), default=math.inf)
                if fewest < self._fewest[rule]:
                    self._fewest[rule] = fewest
                    changed = True

    def _settle_parameters(self) -> None:
        changed = True
        while changed:
            changed = False
            for rule, alternatives in self._grammar.rules.items():
                if not self._parameters[rule] and any(map(self._parameters_of, alternatives)):
                    self._parameters[rule] = changed = True

"""What can stand below a rule, whatever the context: names that are read, levels that are added."""

import math
import re
from collections.abc import Mapping

from nas.grammar.rules import Alternative, Grammar

DEPTH = "depth"
"""The name that the grammar itself keeps in every context: the number of rules above."""


def levels(alternative: Alternative) -> int:
    """How many levels the parts of an alternative lie below it.

    Rules that stand for a group or a repetition add none: ten in a row are as deep as two.
    """
    return 0 if is_helper(alternative.rule) else 1


def is_helper(rule: str) -> bool:
    """Whether a rule stands for a group or a repetition rather than being written in a file."""
    return rule.startswith("__")


def helper_kind(rule: str) -> str | None:
    """What a helper rule stands for: `group`, `opt`, `star`, `plus`, `times`; None for others."""
    match = re.fullmatch(r"__.*_(group|opt|star|plus|times)_\d+", rule, re.DOTALL)
    return match and match[1]


def names_below(grammar: Grammar) -> Mapping[str, frozenset[str]]:
    """For every rule, the names of the context that it and all below it read."""
    found = {
        rule: frozenset[str]().union(*(_reads(a) for a in alternatives))
        for rule, alternatives in grammar.rules.items()
    }
    changed = True
    while changed:
        changed = False
        for rule, alternatives in grammar.rules.items():
            names = found[rule].union(*(found[r] for a in alternatives for r in a.references))
            if names != found[rule]:
                found[rule] = names
                changed = True
    return found


def _reads(alternative: Alternative) -> frozenset[str]:
    names = alternative.weight.names.union(*(e.names for _, e in alternative.lets))
    return names if alternative.where is None else names | alternative.where.names


def heights_below(grammar: Grammar) -> Mapping[str, float]:
    """For every rule, how many levels can lie below it; infinite where it can contain itself."""
    found: dict[str, float] = dict.fromkeys(grammar.rules, 0)
    changed = True
    rounds = 0
    while changed:
        changed = False
        rounds += 1
        for rule, alternatives in grammar.rules.items():
            height = max(
                (levels(a) + found[r] for a in alternatives for r in a.references), default=0
            )
            if height > found[rule]:
                # What still grows after as many rounds as there are rules grows for ever.
                found[rule] = height if rounds <= len(grammar.rules) else math.inf
                changed = True
    return found


def deciding_names(grammar: Grammar, given: frozenset[str]) -> frozenset[str]:
    """The names that decide what is legal: those that `where` reads, and what these are made of.

    Args:
        grammar: The rules.
        given: Names that decide for other reasons, such as costs.
    """
    names = set(given)
    lets: set[tuple[str, frozenset[str]]] = set()
    for alternatives in grammar.rules.values():
        for alternative in alternatives:
            if alternative.where is not None:
                names |= alternative.where.names
            lets.update((name, expression.names) for name, expression in alternative.lets)
    while any(name in names and not reads <= names for name, reads in lets):
        names.update(*(reads for name, reads in lets if name in names))
    return frozenset(names)

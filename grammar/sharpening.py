"""A grammar with other weights: those that were learned from derivations."""

import math
from collections.abc import Sequence
from dataclasses import replace

from nas.grammar.expression import Expression, parse_expression
from nas.grammar.learning import Cell, Factors
from nas.grammar.reach import is_helper
from nas.grammar.rules import Alternative, Grammar

NOTHING = 0.01
"""Where all factors of a rule are as close to 1, its weights stay as they are."""

SURE = 0.9999
"""The largest probability of going on."""


def sharpened(grammar: Grammar, factors: Factors) -> Grammar:
    """The same rules with their weights multiplied by factors.

    Alternatives of rules get the factor in their weight; a repetition gets another probability of
    going on.

    Raises:
        SpaceError: An expression becomes too long: it has been sharpened too often.
    """
    rules: dict[str, tuple[Alternative, ...]] = {}
    for rule, alternatives in grammar.rules.items():
        cells = factors.cells(rule)
        if all(abs(math.log(f)) < NOTHING for cell in cells for f in cell.factors.values()):
            rules[rule] = alternatives
        elif is_helper(rule):
            stop, more = alternatives
            odds = cells[0].factors.get(1, 1.0) / cells[0].factors.get(0, 1.0)
            p = _going_on(more.weight, odds)
            left = parse_expression(f"1 - ({p})", p.location)
            rules[rule] = (replace(stop, weight=left), replace(more, weight=p))
        else:
            rules[rule] = tuple(
                replace(each, weight=_weight(each.weight, cells, each.index))
                for each in alternatives
            )
    return replace(grammar, rules=rules)


def _weight(weight: Expression, cells: Sequence[Cell], index: int) -> Expression:
    factors = [_digits(cell.factors.get(index, 1.0)) for cell in cells]
    if len(set(factors)) == 1:
        if weight.constant is not None:
            return parse_expression(_digits(weight.constant * float(factors[0])), weight.location)
        return parse_expression(f"{factors[0]} * ({weight})", weight.location)
    cases = (
        f"{factor} * ({' and '.join(map(str, cell.bounds))})"
        for factor, cell in zip(factors, cells, strict=True)
    )
    return parse_expression(f"({' + '.join(cases)}) * ({weight})", weight.location)


def _going_on(p: Expression, odds: float) -> Expression:
    """The probability whose odds are those of `p` times `odds`."""
    factor = _digits(odds)
    if p.constant is not None:
        found = p.constant * odds / (1 - p.constant + p.constant * odds)
        return parse_expression(_digits(min(found, SURE)), p.location)
    return parse_expression(f"{factor} * ({p}) / (1 - ({p}) + {factor} * ({p}))", p.location)


def _digits(value: float) -> str:
    """A positive number as people read it: four digits."""
    return f"{value:.4g}"

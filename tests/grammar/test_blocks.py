"""Blocks and parameters, told apart by the names that have a cost."""

import math

import pytest

from nas.grammar.blocks import BlockCounts, Blocks
from nas.grammar.space import Space

SPACE = """
start: "net" block -> net
?block: "leaf" -> leaf
      | "cat" "(" __list ")" -> cat
      | "use" "(" maybe "," both "," wrapped ")" -> use
__list: block
      | block "," __list
?maybe: "none" -> none
      | block
_pair: block "and" block
?both: _pair
wrapped: "[" block "]"
_sizes: size size
!size: "1"
_nothing: ";"
__ends: _nothing size
"""


class Costs:
    measures = ("parameters",)

    def cost(self, name, arguments, context):
        prices = {"leaf": lambda: 3, "cat": lambda: len(arguments), "use": lambda: arguments[0]}
        return None if name not in prices else ((prices[name](),), (1,))


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        ("block", Blocks(1, 1, False)),
        ("__list", Blocks(1, math.inf, False)),
        ("maybe", Blocks(0, 1, True)),
        ("_pair", Blocks(2, 2, False)),
        ("both", Blocks(2, 2, False)),
        ("wrapped", Blocks(1, 1, False)),  # a term without a cost around a block is a block
        ("size", Blocks(0, 0, True)),
        ("_sizes", Blocks(0, 0, True)),
        ("_nothing", Blocks(0, 0, False)),
    ],
)
def test_what_a_rule_adds_to_its_term(oracle, rule, expected):
    grammar = oracle.build(SPACE)
    counts = BlockCounts(grammar, Costs(), Space(grammar).context)
    assert counts.of_rule(rule) == expected


def test_a_name_has_a_cost_also_if_it_cannot_be_told_without_arguments(oracle):
    grammar = oracle.build(SPACE)
    counts = BlockCounts(grammar, Costs(), Space(grammar).context)
    assert [counts.has_cost(name) for name in ("leaf", "use", "none", None)] == [
        True,
        True,
        False,
        False,
    ]

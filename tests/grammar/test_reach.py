"""What stands below a rule, whatever the context."""

import math

from nas.grammar.reach import deciding_names, heights_below, levels, names_below

SPACE = """
start: "s" a b                                    //@ w
a: "a" a                                          //@ 1 where n > m
 | "b" c                                          //@ 1 let n = k + 1, z = y
b: "b" __many
__many: c                                         //@ 1
      | c __many                                  //@ v
c: "c" d
d: "d"                                            //@ u where q == 1
"""


def test_names_are_those_that_a_rule_and_all_below_read(oracle):
    names = names_below(oracle.build(SPACE))
    assert names["d"] == names["c"] == {"u", "q"}
    assert names["b"] == {"u", "q", "v"}
    assert names["start"] == {"w", "n", "m", "k", "y", "u", "q", "v"}


def test_heights_are_the_levels_that_can_lie_below(oracle):
    heights = heights_below(oracle.build(SPACE))
    assert heights == {"d": 0, "c": 1, "__many": 1, "b": 2, "a": math.inf, "start": math.inf}


def test_helpers_add_no_level(oracle):
    grammar = oracle.build(SPACE)
    assert [levels(grammar.rules[rule][0]) for rule in ("a", "__many")] == [1, 0]


def test_names_decide_through_what_they_are_made_of(oracle):
    grammar = oracle.build(SPACE)
    assert deciding_names(grammar, frozenset()) == {"n", "m", "k", "q"}
    assert deciding_names(grammar, frozenset({"z"})) == {"n", "m", "k", "q", "z", "y"}

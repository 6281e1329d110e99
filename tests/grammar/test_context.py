"""Contexts: one object each, seen as far as a rule looks, led on by `let` and by depth."""

import pytest

from nas.grammar.context import Contexts
from nas.grammar.errors import SpaceError

SPACE = """
start: "net" block                                //@ 1 let inner = 0
block: "a" block                                  //@ 1 / (1 + inner) let inner = inner + 1
     | "b" __list                                 //@ 1 let D = D * factor, factor = 1
     | "c" leaf                                   //@ 1 where L % 2 == 0 let L = L // 2
__list: block                                     //@ 1
leaf: "d"                                         //@ D
    | "e"                                         //@ 1 where D > 4
"""
GIVEN = {"L": (8, 6), "D": 4, "causal": False, "factor": 2}


@pytest.fixture(scope="module")
def grammar(oracle):
    return oracle.build(SPACE, max_depth=9)


def test_equal_contexts_are_one_object(grammar):
    contexts = Contexts(grammar, GIVEN, costly=False)
    net, (a, b, c) = grammar.rules["start"][0], grammar.rules["block"]
    first = contexts.below(net, contexts.root)
    assert dict(first) == {**GIVEN, "depth": 1, "inner": 0}
    assert contexts.below(b, contexts.below(a, first)) is contexts.below(
        a, contexts.below(b, first)
    )
    assert contexts.below(c, first)["L"] == (4, 3)
    assert contexts.below(b, first) is not first


def test_helpers_add_no_depth(grammar):
    contexts = Contexts(grammar, GIVEN, costly=False)
    (helper,) = grammar.rules["__list"]
    assert contexts.below(helper, contexts.root) is contexts.root


def test_where_holds_only_if_it_does_in_every_lane(grammar):
    contexts = Contexts(grammar, GIVEN, costly=False)
    c = grammar.rules["block"][2]
    assert contexts.allows(c, contexts.root)
    assert not contexts.allows(c, contexts.below(c, contexts.root))  # 4 and 3


def test_one_and_true_are_different_values(oracle):
    grammar = oracle.build('start: "a" start //@ 1 let x = x == 1\n | "b"')
    contexts = Contexts(grammar, {"x": 1}, costly=False)
    below = contexts.below(grammar.rules["start"][0], contexts.root)
    assert below["x"] is True
    assert below is not contexts.root


def test_the_core_holds_what_decides_and_the_view_what_is_read_below(grammar):
    contexts = Contexts(grammar, GIVEN, costly=False)
    at = contexts.below(grammar.rules["start"][0], contexts.root)
    assert dict(at.core) == {"L": (8, 6), "D": 4, "factor": 2}
    assert dict(at.deep_core) == {**at.core, "depth": 1}
    assert dict(at.given) == GIVEN
    assert dict(contexts.view("leaf", at)) == GIVEN  # neither `inner` nor `depth`
    assert dict(contexts.view("block", at)) == dict(at)
    assert contexts.view("leaf", at).core is contexts.view("leaf", at.core)
    costly = Contexts(grammar, GIVEN, costly=True)
    assert set(costly.root.core) == set(GIVEN)


def test_max_depth_comes_into_view_where_it_can_be_reached(oracle):
    grammar = oracle.build('start: "a" b\nb: "b" c\nc: "c"', max_depth=2)
    contexts = Contexts(grammar, {}, costly=False)
    assert not contexts.view("start", contexts.root)  # at most two levels below
    below = contexts.below(grammar.rules["start"][0], contexts.root)
    deeper = contexts.below(grammar.rules["b"][0], below)
    assert dict(contexts.view("b", deeper)) == {"depth": 2}
    assert not contexts.too_deep(deeper)
    assert contexts.too_deep(contexts.below(grammar.rules["b"][0], deeper))


def test_depth_can_neither_be_given_nor_assigned(oracle):
    with pytest.raises(SpaceError, match="it cannot be given"):
        Contexts(oracle.build('start: "a"'), {"depth": 4}, costly=False)
    grammar = oracle.build('start: "a" start //@ 1 let depth = 0\n | "b"', max_depth=3)
    contexts = Contexts(grammar, {}, costly=False)
    with pytest.raises(SpaceError, match=r"space.lark:1: .* assign another name"):
        contexts.below(grammar.rules["start"][0], contexts.root)

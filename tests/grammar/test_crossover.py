"""Crossover: children of two parents, legal where their parts now stand."""

from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nas.grammar.crossover import crossover
from nas.grammar.errors import SpaceError
from nas.grammar.space import Space

SPACE = """
start: "net" "(" block ")" -> net
?block: "seq" "(" block "," block ")" -> seq     //@ 1
      | "down" "(" block ")" -> down             //@ 1 where L % 2 == 0 let L = L // 2
      | "pool" "(" size ")" -> pool              //@ 1
      | "a" -> a                                 //@ 1
      | "b" -> b                                 //@ 1
!size: "2"                                       //@ 1
     | "4"                                       //@ 2 where L >= 4
     | "8"                                       //@ 1 where L >= 8
"""


@pytest.fixture(scope="module")
def space(oracle):
    return Space(oracle.build(SPACE, max_depth=7), context={"L": 8})


@pytest.fixture(scope="module")
def hybrid():
    return Space.load("search_spaces/hybrid.lark", context={"L": 128, "D": 32, "causal": True})


@pytest.mark.parametrize("name", ["space", "hybrid"])
@settings(max_examples=300, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_the_child_is_legal_and_another(request, name, seed):
    space = request.getfixturevalue(name)
    rng = Random(seed)
    a, b = space.sample(rng), space.sample(rng)
    before = a.text, b.text
    child = crossover(space, a, b, rng)
    assert child != a
    assert (a.text, b.text) == before
    assert space.parse(child.text) == child


def test_a_part_of_the_second_stands_in_the_first(space):
    a = space.parse("net(seq(a, seq(a, a)))")
    b = space.parse("net(seq(seq(b, pool(8)), b))")
    parts = {"seq(b, pool(8))", "pool(8)", "seq(seq(b, pool(8)), b)"}
    texts = {crossover(space, a, b, Random(seed)).text for seed in range(200)}
    # Leaves without parts are not exchanged: only seq and pool of b, in place of a seq of a.
    frames = ("net({})", "net(seq(a, {}))")
    assert texts == {frame.format(p) for frame in frames for p in parts} - {b.text}


def test_what_is_illegal_in_its_new_place_is_drawn_again(space):
    a = space.parse("net(down(down(seq(a, a))))")
    b = space.parse("net(seq(pool(8), pool(8)))")
    for seed in range(50):
        child = crossover(space, a, b, Random(seed))
        assert space.parse(child.text) == child


def test_repairs_are_avoided_where_possible(space):
    a = space.parse("net(seq(a, down(down(seq(a, a)))))")
    b = space.parse("net(seq(b, pool(8)))")
    inside = sum("pool(8)" in crossover(space, a, b, Random(seed)).text for seed in range(100))
    assert inside > 90


def test_equal_parents_give_a_mutation(space):
    a = space.parse("net(pool(8))")
    assert all(crossover(space, a, a, Random(seed)) != a for seed in range(50))


def test_parents_without_a_common_part_give_a_mutation(oracle):
    space = Space(oracle.build('start: x -> net\n| y -> net\n!x: "1"\n| "2"\n!y: "3"\n| "4"'))
    a, b = space.parse("1"), space.parse("3")
    assert {crossover(space, a, b, Random(seed)).text for seed in range(50)} == {"2", "3", "4"}


def test_a_parent_of_another_context_is_refused(space):
    a = space.parse("net(pool(8))")
    narrow = space.under(context={"L": 4})
    with pytest.raises(SpaceError, match="not an architecture of this space"):
        crossover(narrow, narrow.sample(Random(0)), a, Random(0))

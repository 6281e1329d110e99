"""Exact counts against enumeration and known sequences."""

import math
from collections import Counter

import pytest

from nas.grammar.counting import counts_by_size, legal_alternatives
from nas.grammar.space import Space

SPACES = {
    "context": (
        """
        start: "net" "(" block ")" -> net
        ?block: "s" "(" block "," block ")" -> s     //@ 1 + n let n = n + 1
              | "u" "(" block ")" -> u               //@ 1 where L % 2 == 0 let L = L // 2
              | "p" "(" size "," size ")" -> p       //@ L
              | "never" -> never                     //@ 1 where L > 4
              | "late" -> late                       //@ 1 where L == 1
        !size: "1"                                   //@ 1
             | "2"                                   //@ 3 where L > 2
        """,
        {"L": 4, "n": 0},
    ),
    "lists": (
        """
        start: "net" "(" block ")" -> net
        ?block: "s" "(" block __more ")" -> s        //@ 1
              | "a" -> a                             //@ 1
        __more: "," block                            //@ 1
              | "," block ";" block                  //@ 1
        """,
        {},
    ),
    "dead ends": (
        """
        start: "net" "(" block ")" -> net
        ?block: "x" "(" deep ")" -> x                //@ 1
              | "y" -> y                             //@ 1
        ?deep: "d" "(" deeper ")" -> d               //@ 1
        ?deeper: "e" "(" deepest ")" -> e            //@ 1
        ?deepest: "f" -> f                           //@ 1
        """,
        {},
    ),
}


@pytest.fixture(params=SPACES)
def space(request, oracle):
    text, context = SPACES[request.param]
    return Space(oracle.build(text, max_depth=4), context=context)


@pytest.fixture
def derivations(space, oracle):
    given = {name: value for name, value in space.context.items() if name != "depth"}
    return [node for node, _ in oracle.everything(space.grammar, given)]


def test_counts_are_those_of_enumeration(space, derivations):
    sizes = Counter(sum(1 for _ in node) for node in derivations)
    largest = max(sizes)
    expected = tuple(sizes[size] for size in range(largest + 3))
    assert counts_by_size(space, largest + 2) == expected


def test_legal_alternatives_are_those_that_occur(space, derivations):
    used = {each.alternative for node in derivations for each in node}
    assert legal_alternatives(space) == (used, True)


def test_binary_trees_are_counted_by_catalan_numbers(oracle):
    space = Space(oracle.build('start: "(" start start ")" -> s\n| "a" -> a'))
    counts = counts_by_size(space, 61)
    for n in range(31):
        assert counts[2 * n + 1] == math.comb(2 * n, n) // (n + 1)
        assert counts[2 * n] == 0


def test_contexts_that_go_on_for_ever_are_counted(oracle):
    text = 'start: "(" start start ")" -> s //@ 1 where n >= 0 let n = n + 1\n| "a" -> a //@ 1'
    space = Space(oracle.build(text), context={"n": 0})
    assert counts_by_size(space, 9) == (0, 1, 0, 1, 0, 2, 0, 5, 0, 14)


def test_a_search_that_is_given_up_says_so(oracle, monkeypatch):
    from nas.grammar import counting

    text = """
    start: "net" "(" start ")" -> net    //@ 1 let n = n + 1
         | "a" -> a                      //@ 1
         | "b" -> b                      //@ 1 where n > 1000
         | "c" -> c                      //@ 1 where n < 0
    """
    space = Space(oracle.build(text), context={"n": 0})
    monkeypatch.setattr(counting, "SEARCHED", 100)
    met, certain = legal_alternatives(space)
    assert {a.name for a in met} == {"net", "a"}
    assert not certain

"""Flattest and cheapest completions, compared with all derivations."""

import itertools
from functools import cache
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nas.grammar.completion import Edge, Flattest, settle
from nas.grammar.context import Contexts
from nas.grammar.errors import SpaceError
from nas.grammar.space import Space

SPACE = """
start: "s" a b
a: "a" a a                                        //@ 1 let n = n - 1
 | "x" b                                          //@ 1 where n % 2 == 0
 | __list                                         //@ 1 where n < 3
b: "b" a                                          //@ 1 where n > 5
 | "c" c                                          //@ 1 where n > 0 let n = n - 2
 | "d"                                            //@ 1 where n <= 0
__list: b                                         //@ 1
      | b __list                                  //@ 1
c: a                                              //@ 1 where n < 4
 | "never" c                                      //@ 1
"""


@pytest.mark.parametrize("n", range(7))
def test_the_flattest_completion_is_the_flattest_there_is(oracle, n):
    grammar = oracle.build(SPACE)

    @cache
    def within(rule, n, height):
        """Whether a rule has a derivation of that height; repeating a list does not help."""
        for alternative in grammar.rules[rule]:
            if alternative.where is None or alternative.where.holds({"n": n}):
                step = 0 if rule.startswith("__") else 1
                m = alternative.lets[0][1].lanes({"n": n}) if alternative.lets else n
                parts = [part for part in alternative.references if part != rule or step]
                if height >= step * bool(parts) and all(
                    within(part, m, height - step) for part in parts
                ):
                    return True
        return False

    contexts = Contexts(grammar, {"n": n}, costly=False)
    flattest = Flattest(grammar, contexts)
    for rule in grammar.rules:
        found = flattest((rule, contexts.root))
        if rule == "c" and n >= 4:
            assert found is None
            assert not within(rule, n, 30)
        else:
            assert found is not None
            assert within(rule, n, found.height)
            assert not within(rule, n, found.height - 1)


@st.composite
def graphs(draw):
    """Small hypergraphs with costs in two measures."""
    names = range(draw(st.integers(2, 5)))
    amounts = st.integers(0, 9)
    graph = {}
    for name in names:
        edges = []
        for _ in range(draw(st.integers(0, 3))):
            parts = draw(st.lists(st.sampled_from(names), max_size=2))
            own = (draw(amounts), draw(amounts))
            scale = (draw(st.integers(1, 3)), 1)
            edges.append(Edge(own, scale, tuple((p, None) for p in parts), (1,) * len(parts)))
        graph[name, None] = edges
    return graph


@given(graphs())
def test_settled_scores_solve_the_equations_of_the_cheapest(graph):
    units = (1.0, 0.5)
    settled = settle(graph, {}, units)

    def through(edge, costs):
        inside = [costs[part] for part in edge.parts]
        return tuple(
            o + s * sum(cost[k] for cost in inside)
            for k, (o, s) in enumerate(zip(edge.own, edge.scale, strict=True))
        )

    # One measure at a time, value iteration from infinity is the slow, obvious answer.
    for k in range(2):
        single = (1.0, 0.0) if k == 0 else (0.0, 1.0)
        values = {item: float("inf") for item in graph}
        for _ in range(len(graph) + 1):
            values = {
                item: min(
                    (e.own[k] + e.scale[k] * sum(values[p] for p in e.parts) for e in edges),
                    default=float("inf"),
                )
                for item, edges in graph.items()
            }
        one = settle(graph, {}, single)
        assert {i for i, v in values.items() if v < float("inf")} == one.keys() == settled.keys()
        assert all(one[item].cost[k] == values[item] for item in one)
    for completion in settled.values():  # each is made of those of its parts
        inside = {part: settled[part].cost for part in completion.edge.parts}
        assert completion.cost == through(completion.edge, inside)


def test_equal_problems_are_settled_equally():
    edges = [Edge((1,), (1,), (), ()), Edge((1,), (1,), (), (), reach=1)]
    for order in itertools.permutations(edges):
        assert settle({("a", None): order}, {}, (1.0,))["a", None].height == 0


def test_widths_that_grow_without_end_are_no_obstacle(oracle):
    text = """
    start: "wide" start                           //@ 1 where D % 2 == 0 let D = 2 * D
         | "leaf"                                 //@ 1
    """
    space = Space(oracle.build(text), context={"D": 2})
    rng = Random(0)
    assert max(space.sample(rng).size for _ in range(500)) > 6


def test_contexts_that_go_on_for_ever_without_a_leaf_are_refused(oracle):
    text = 'start: "a" start //@ 1 let D = D + 1\n | "b" //@ 1 where D < 0'
    with pytest.raises(SpaceError, match=r"do not end .* `//@ max_depth N`"):
        Space(oracle.build(text), context={"D": 0}).sample(Random(0))

"""Cutting derivations up and completing them again."""

import math
from collections import Counter
from random import Random

import pytest
from scipy.stats import chisquare

from nas.grammar.derivation import Derivation
from nas.grammar.edit import HOLE, complete, draw, node_at, places, replaced
from nas.grammar.errors import SpaceError
from nas.grammar.space import Space

SPACE = """
start: "net" "(" block ")" -> net
?block: "seq" "(" block "," block ")" -> seq     //@ 1
      | "down" "(" block ")" -> down             //@ 1 where L % 2 == 0 let L = L // 2
      | "pool" "(" size ")" -> pool              //@ 1
      | "norm" -> norm                           //@ 2
!size: "2"                                       //@ 1
     | "4"                                       //@ 2 where L >= 4
     | "8"                                       //@ 1 where L >= 8
"""


@pytest.fixture(scope="module")
def space(oracle):
    return Space(oracle.build(SPACE, max_depth=4), context={"L": 8})


@pytest.fixture(scope="module")
def derivations(space):
    return [space.sample(Random(seed)) for seed in range(200)]


def test_a_part_is_replaced_where_the_path_leads(space):
    derivation = space.parse("net(seq(norm, down(pool(4))))")
    part = node_at(derivation.root, (0, 1))
    assert Derivation(part).text == "down(pool(4))"
    norm = node_at(derivation.root, (0, 0))
    assert Derivation(replaced(derivation.root, (0, 1), norm)).text == "net(seq(norm, norm))"
    assert Derivation(replaced(derivation.root, (), norm)).text == "norm"
    assert derivation.text == "net(seq(norm, down(pool(4))))"  # nothing is changed in place
    assert node_at(derivation.root, (0, 2)) is None


def test_places_are_the_decisions_that_lead_to_a_derivation(space, derivations):
    for derivation in derivations:
        found = list(places(space, derivation))
        likelihood = sum(math.log(p.choice.probabilities[p.index]) for p in found)
        assert likelihood == pytest.approx(space.log_probability(derivation))
        assert all(p.choice.alternatives[p.index] is p.node.alternative for p in found)
        assert all(node_at(derivation.root, p.choice.path) is p.node for p in found)


def test_places_refuse_what_is_not_of_the_space(space):
    derivation = space.parse("net(pool(8))")
    for length in (4, 2):  # with L = 2 a pool's size is not even a decision
        with pytest.raises(SpaceError, match=r"not an architecture of this space: net\(pool\(8"):
            list(places(space.under(context={"L": length}), derivation))


def test_a_whole_derivation_completes_to_itself(space, derivations):
    for derivation in derivations:
        assert complete(space, derivation.root, Random(0)) == (derivation, 0)


def test_a_hole_is_filled_by_the_grammar(space):
    rng = Random(1)
    kept = space.parse("net(seq(norm, norm))")
    filled = [complete(space, replaced(kept.root, (0, 1), HOLE), rng) for _ in range(4000)]
    assert all(repairs == 0 for _, repairs in filled)
    assert all(d.text.startswith("net(seq(norm, ") for d, _ in filled)
    heads = Counter(node_at(d.root, (0, 1)).alternative.name for d, _ in filled)
    expected = {"seq": 0.2, "down": 0.2, "pool": 0.2, "norm": 0.4}
    observed = [heads[name] for name in expected]
    assert chisquare(observed, [4000 * p for p in expected.values()]).pvalue > 1e-4


def test_what_became_illegal_is_drawn_again(space):
    pool = node_at(space.parse("net(pool(8))").root, (0,))
    below = replaced(space.parse("net(down(norm))").root, (0, 0), pool)  # sees L = 4
    found = [complete(space, below, Random(seed)) for seed in range(50)]
    assert {d.text for d, _ in found} == {"net(down(pool(2)))", "net(down(pool(4)))"}
    assert {repairs for _, repairs in found} == {1}


def test_parts_that_lie_too_deep_are_drawn_again(space):
    tower = space.parse("net(seq(seq(seq(norm, norm), norm), norm))")
    deeper = replaced(tower.root, (0, 0, 0, 1), node_at(tower.root, (0,)))
    completed, repairs = complete(space, deeper, Random(0))
    assert completed == tower  # nothing else than a norm is flat enough
    assert repairs == 1


def test_a_hole_may_stand_for_the_whole(space):
    grown = {complete(space, HOLE, Random(seed))[0].text for seed in range(100)}
    assert len(grown) > 20


def test_draw_follows_the_weights():
    rng = Random(0)
    drawn = Counter(draw([2.0, 0.0, 1.0, 5.0], rng) for _ in range(8000))
    assert drawn[1] == 0
    assert chisquare([drawn[0], drawn[2], drawn[3]], [2000, 1000, 5000]).pvalue > 1e-4

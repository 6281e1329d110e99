"""Decisions from coarse to fine: the same derivations, met in another order."""

import math
import random

import pytest

from nas.bench.pool import capped
from nas.grammar.edit import draw, places
from nas.grammar.space import Space

CONTEXT = {"L": (64,), "D": 32, "causal": False}


@pytest.fixture(scope="module")
def hybrid():
    return Space.load("search_spaces/hybrid.lark", context=CONTEXT)


@pytest.fixture(scope="module", params=["free", "capped"])
def space(request, hybrid):
    return capped(hybrid) if request.param == "capped" else hybrid


def test_every_derivation_is_met_in_both_orders(space):
    rng = random.Random(0)
    for _ in range(40):
        derivation = space.sample(rng)
        decisions = space.decide(coarse=True)
        for place in places(space, derivation, coarse=True):
            decisions.choose(place.index)
        assert decisions.derivation == derivation


def test_what_has_parts_comes_before_what_has_none_and_the_outer_before_the_inner(space):
    rng = random.Random(1)
    for _ in range(20):
        found = [
            (any(a.references for a in place.choice.alternatives), len(place.choice.path))
            for place in places(space, space.sample(rng), coarse=True)
        ]
        structure = [parts for parts, _ in found]
        # Under caps a parameter may stand before blocks: it settles what is left for them.
        if not space.caps:
            assert structure == sorted(structure, reverse=True)
            depths = [depth for parts, depth in found if parts]
            assert depths == sorted(depths)


def test_its_probabilities_are_those_of_the_space(hybrid):
    rng = random.Random(2)
    for _ in range(30):
        derivation = hybrid.sample(rng)
        total = sum(
            math.log(place.choice.probabilities[place.index])
            for place in places(hybrid, derivation, coarse=True)
        )
        assert total == pytest.approx(hybrid.log_probability(derivation))


def test_whatever_is_chosen_is_legal(space):
    rng = random.Random(3)
    for _ in range(40):
        decisions = space.decide(coarse=True)
        while (choice := decisions.current) is not None:
            assert sum(choice.probabilities) == pytest.approx(1)
            even = rng.random() < 0.1  # always, and the derivation would hardly end
            weights = [1.0] * len(choice.alternatives) if even else choice.probabilities
            decisions.choose(draw(weights, rng))
        space.check(decisions.derivation)
        assert space.parse(decisions.derivation.text) == decisions.derivation


def test_wrong_calls_are_refused(hybrid):
    decisions = hybrid.decide(coarse=True)
    with pytest.raises(ValueError, match="not finished"):
        _ = decisions.derivation
    with pytest.raises(IndexError, match="alternatives"):
        decisions.choose(1000)
    while decisions.current is not None:
        decisions.choose(0)
    with pytest.raises(IndexError, match="no decision left"):
        decisions.choose(0)

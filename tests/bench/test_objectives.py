"""Objectives with a known optimum."""

import random

import pytest

from nas.bench.objectives import FAR, LARGEST, OBJECTIVES, PAIRS, SMALLEST, _apart, _pairs, parts
from nas.bench.search import CONTEXT
from nas.grammar.space import Space
from nas.resources import find_space
from nas.search.base import LEARNING_RATES


@pytest.fixture(scope="module")
def space():
    return Space.load(str(find_space("hybrid.lark")), context=CONTEXT)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_the_plant_has_the_optimum_and_nothing_has_more(name, space):
    for seed in range(3):
        objective = OBJECTIVES[name](space, seed)
        assert SMALLEST <= objective.plant.size <= LARGEST
        assert objective(objective.plant, objective.learning_rate) == pytest.approx(1)
        rng = random.Random(seed)
        for _ in range(100):
            derivation = space.sample(rng)
            score = objective(derivation, rng.choice(LEARNING_RATES))
            assert -0.2 <= score < 1
        again = OBJECTIVES[name](space, seed)
        assert again.plant == objective.plant
        assert again.deviation == objective.deviation > 0


def test_parts_of_a_term_as_written_by_hand(space):
    term = space.parse("net(seq(res(mlp(4, gelu)), norm))").term
    assert sorted(part for part, _ in parts(term)) == sorted(
        [("net", "seq"), ("seq", "res"), ("seq", "norm"), ("res", "mlp"),
         ("mlp", "expansion", "4"), ("mlp", "activation", "gelu")]
    )  # fmt: skip


def test_one_part_of_a_pair_alone_is_worth_a_fifth(space):
    objective = OBJECTIVES["distant"](space, 0)
    pairs = _pairs(objective.plant.term, random.Random("pairs/0"))
    assert len(pairs) == PAIRS
    places = {}
    for part, path in parts(objective.plant.term):
        places.setdefault(part, path)
    assert all(_apart(places[a], places[b]) >= FAR for a, b in pairs)
    rng = random.Random(1)
    for _ in range(200):
        derivation = space.sample(rng)
        found = {part for part, _ in parts(derivation.term)}
        worth = sum((0, 0.2, 1)[(a in found) + (b in found)] for a, b in pairs) / PAIRS
        assert objective.structure(derivation) == pytest.approx(worth)


def test_noise_has_the_level_that_was_asked_for(space):
    objective = OBJECTIVES["planted"](space, 1)
    drawn = [objective.noise(0, number, 2.0) for number in range(4000)]
    spread = (sum(x * x for x in drawn) / len(drawn)) ** 0.5
    assert spread == pytest.approx(2 * objective.deviation, rel=0.05)
    assert objective.noise(0, 7, 0.0) == 0.0
    assert objective.noise(0, 7, 1.0) != objective.noise(1, 7, 1.0)

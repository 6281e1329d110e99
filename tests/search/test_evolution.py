"""Regularised evolution: who lives, who has children, and what they inherit."""

import random
from collections import Counter

import pytest

from nas.search.base import LEARNING_RATES, Proposal, random_stream
from nas.search.evolution import RegularizedEvolution
from nas.search.operators import OPERATORS, step_learning_rate
from nas.search.random_search import RandomSearch


def history_of(instant, space, scores, learning_rate=3e-3, state="complete", rung=0):
    rng = random.Random(0)
    return [
        instant.observe(i, Proposal(space.sample(rng), learning_rate, "random"), s, state, rung)
        for i, s in enumerate(scores)
    ]


def parents(strategy, history, times=200):
    children = [strategy.propose(history, random_stream(9, seed)) for seed in range(times)]
    return Counter(child.parents[0] for child in children)


def test_only_the_youngest_have_children(chain, instant):
    scores = [0.9] * 10 + [0.1] * 12
    history = history_of(instant, chain, scores)
    strategy = RegularizedEvolution(chain, population=12, tournament=2, elite=0)
    assert set(parents(strategy, history)) == set(range(10, 22))


def test_an_elite_stays_alive(chain, instant):
    scores = [0.9, 0.8, 0.7] + [0.1] * 20
    history = history_of(instant, chain, scores)
    strategy = RegularizedEvolution(chain, population=12, tournament=1, elite=2)
    assert set(parents(strategy, history)) == {0, 1, *range(11, 23)}


def test_it_begins_anew_from_founders_where_nothing_improves(chain, instant):
    history = history_of(instant, chain, [0.9] + [0.1] * 29)
    strategy = RegularizedEvolution(chain, patience=30, founders=5)
    assert parents(strategy, history)  # the last of the old
    history += history_of(instant, chain, [0.9] + [0.1] * 30)[30:]
    assert strategy.propose(history, random_stream(0, 31)).origin == "random"


def test_the_fittest_of_those_drawn_is_the_parent(chain, instant):
    scores = [i / 20 for i in range(20)]
    history = history_of(instant, chain, scores)
    everyone = RegularizedEvolution(chain, population=20, tournament=20)
    assert set(parents(everyone, history)) == {19}
    few = parents(RegularizedEvolution(chain, population=20, tournament=5), history, times=1000)
    # Of 5 drawn from 20 the best is trial k with probability C(k, 4) / C(20, 5).
    assert few[19] / 1000 == pytest.approx(0.25, abs=0.06)
    assert set(few) <= set(range(4, 20))


def test_a_trial_that_came_further_beats_a_higher_score_at_an_earlier_rung(chain, instant):
    stopped = history_of(instant, chain, [0.9] * 15, state="pruned", rung=0)
    whole = history_of(instant, chain, [0.2] * 16, rung=2)[15]
    everyone = RegularizedEvolution(chain, population=20, tournament=20)
    assert set(parents(everyone, [*stopped, whole])) == {15}


def test_unfinished_and_failed_trials_have_no_children(chain, instant):
    history = history_of(instant, chain, [0.5] * 12)
    history += [
        instant.observe(
            12 + i, Proposal(chain.sample(random.Random(i)), 3e-3, ""), None, state, None
        )
        for i, state in enumerate(("waiting", "running", "failed"))
    ]
    assert set(parents(RegularizedEvolution(chain), history)) <= set(range(12))


def test_founders_are_sampled_until_there_are_enough(chain, instant):
    strategy = RegularizedEvolution(chain, founders=7)
    history = instant.run(strategy, lambda proposal: 0.5, 30, seed=0)
    assert [o.origin for o in history[:7]] == ["random"] * 7
    assert "random" not in {o.origin for o in history[7:]}


def test_children_inherit_the_learning_rate_or_move_it_by_one_step(chain, instant):
    history = history_of(instant, chain, [0.5] * 12, learning_rate=1e-3)
    strategy = RegularizedEvolution(chain)
    children = [strategy.propose(history, random_stream(9, seed)) for seed in range(300)]
    moved = [c for c in children if c.learning_rate != 1e-3]
    assert {c.learning_rate for c in moved} == {3e-4, 3e-3}
    assert {c.origin for c in moved} == {"learning rate"}
    by_number = {o.number: o.text for o in history}
    assert all(c.derivation.text == by_number[c.parents[0]] for c in moved)
    assert 10 < len(moved) < 60
    assert {c.origin for c in children} == set(OPERATORS)
    assert all(len(c.parents) == (2 if c.origin == "crossover" else 1) for c in children)


def test_a_step_on_the_grid_leads_to_a_neighbour():
    steps = {
        rate: {step_learning_rate(rate, random.Random(seed)) for seed in range(20)}
        for rate in (*LEARNING_RATES, 2.5e-3)
    }
    assert steps == {
        3e-4: {1e-3},
        1e-3: {3e-4, 3e-3},
        3e-3: {1e-3, 1e-2},
        1e-2: {3e-3, 3e-2},
        3e-2: {1e-2},
        2.5e-3: {1e-3, 1e-2},
    }


@pytest.mark.parametrize("kind", ["Chain", "Similarity"])
def test_beats_random_search_on_planted_structure(chain, hybrid, instant, kind):
    space, trials = (chain, 150) if kind == "Chain" else (hybrid, 120)
    gains = []
    for seed in range(5):
        planted = planted_in(space, seed)
        objective = getattr(instant, kind)(planted, 1e-2)
        best = {
            make: max(o.score for o in instant.run(make(space), objective, trials, seed))
            for make in (RegularizedEvolution, RandomSearch)
        }
        gains.append(best[RegularizedEvolution] - best[RandomSearch])
    assert min(gains) > 0
    assert sum(gains) / len(gains) > 0.1


def planted_in(space, seed):
    rng = random.Random(f"planted {seed}")
    while True:
        derivation = space.sample(rng)
        if 15 <= derivation.size <= 90:
            return derivation

"""Tree search: where it goes down, and what sends it elsewhere."""

import math
import random
from collections import Counter
from dataclasses import replace

import pytest

from nas.grammar.space import Space
from nas.search.base import LEARNING_RATES, Proposal, random_stream
from nas.search.mcts import TreeSearch
from nas.search.random_search import RandomSearch

PLAIN = {"equivalence": 0.0, "greed": 0.0, "halves": False}
"""PUCT alone: statistics of the tree, one alternative against all others."""

ARMS = """
start: "net" "(" arm "," extra ")" -> net
!arm: "a"                                        //@ 0.7
    | "b"                                        //@ 0.2
    | "c"                                        //@ 0.1
!extra: "1" | "2" | "3" | "4" | "5" | "6" | "7" | "8" | "9"
%import common.WS
%ignore WS
"""


@pytest.fixture(scope="module")
def arms(tmp_path_factory):
    path = tmp_path_factory.mktemp("arms") / "arms.lark"
    path.write_text(ARMS)
    return Space.load(str(path))


def trial(instant, space, number, text, score, state="complete", rung=0, rate=3e-3):
    return instant.observe(number, Proposal(space.parse(text), rate, "tree"), score, state, rung)


def heads(strategy, history, times=300):
    """The first decision of many proposals."""
    proposals = [strategy.propose(history, random_stream(1, seed)) for seed in range(times)]
    return Counter(p.derivation.term.arguments[0].arguments[0] for p in proposals)


def test_without_a_history_it_is_a_sample_of_the_grammar(arms):
    found = heads(TreeSearch(arms), [], times=2000)
    assert found["a"] / 2000 == pytest.approx(0.7, abs=0.05)
    assert found["c"] / 2000 == pytest.approx(0.1, abs=0.03)


def test_the_bound_decides_as_computed_by_hand(arms, instant):
    texts = [("net(a, 1)", 0.1), ("net(a, 2)", 0.4), ("net(b, 1)", 0.9), ("net(a, 3)", 0.2)]
    history = [trial(instant, arms, i, *pair) for i, pair in enumerate(texts)]
    ranks = {0.1: 0, 0.2: 1 / 3, 0.4: 2 / 3, 0.9: 1}
    for exploration in (0.0, 0.1, 0.5, 1.0, 3.0, 10.0, 30.0):
        scale = exploration * math.sqrt(4)
        bounds = {
            "a": (ranks[0.1] + ranks[0.4] + ranks[0.2]) / 3 + scale * 0.7 / 4,
            "b": ranks[0.9] + scale * 0.2 / 2,
            "c": sum(ranks.values()) / 4 + scale * 0.1,
        }
        found = heads(TreeSearch(arms, exploration=exploration, **PLAIN), history, times=20)
        assert set(found) == {max(bounds, key=bounds.get)}


def test_the_scale_of_scores_does_not_matter(arms, instant):
    rng = random.Random(0)
    history = [
        trial(instant, arms, i, f"net({rng.choice('abc')}, {i})", rng.random()) for i in range(1, 9)
    ]
    scaled = [replace(o, score=math.exp(5 * o.score) - 1000) for o in history]
    for seed in range(20):
        a = TreeSearch(arms).propose(history, random_stream(2, seed))
        b = TreeSearch(arms).propose(scaled, random_stream(2, seed))
        assert (a.derivation, a.learning_rate) == (b.derivation, b.learning_rate)


@pytest.mark.parametrize("state", ["waiting", "running", "failed"])
def test_trials_without_a_score_send_others_elsewhere(arms, instant, state):
    done = [
        trial(instant, arms, 0, "net(a, 1)", 0.6),
        trial(instant, arms, 1, "net(b, 1)", 0.5),
        trial(instant, arms, 2, "net(b, 2)", 0.4),
    ]
    assert set(heads(TreeSearch(arms, **PLAIN), done)) == {"a"}
    unscored = [trial(instant, arms, i, f"net(a, {i})", None, state, None) for i in range(3, 9)]
    assert set(heads(TreeSearch(arms, **PLAIN), [*done, *unscored])) == {"b"}


def test_what_is_all_tried_is_closed(arms, instant):
    """All of `a`, the best by far, is measured: the tree goes on beside it."""
    history = []
    for extra in range(1, 10):
        for rate in LEARNING_RATES:
            text = f"net(a, {extra})"
            history.append(trial(instant, arms, len(history), text, 0.9, rate=rate))
    history.append(trial(instant, arms, len(history), "net(b, 1)", 0.1))
    proposals = [TreeSearch(arms).propose(history, random_stream(0, seed)) for seed in range(30)]
    assert all("a" not in p.derivation.text for p in proposals)


def test_the_learning_rate_is_the_last_decision(arms, instant):
    history = [
        trial(instant, arms, 0, "net(a, 1)", 0.9, rate=1e-3),
        *(trial(instant, arms, i - 1, f"net(a, {i})", 0.1, rate=1e-3) for i in range(2, 10)),
        trial(instant, arms, 9, "net(b, 1)", 0.0),
        trial(instant, arms, 10, "net(c, 1)", 0.0),
    ]
    strategy = TreeSearch(arms, exploration=0.01, **PLAIN)
    proposals = [strategy.propose(history, random_stream(0, seed)) for seed in range(40)]
    assert {p.derivation.text for p in proposals} == {"net(a, 1)"}
    assert {p.learning_rate for p in proposals} <= {r for r in LEARNING_RATES if r != 1e-3}


def test_moves_made_elsewhere_count(arms, instant):
    """Below `a`, the best, only `1` is known to the tree; which extra is best is known from `b`."""
    texts = [(f"net(b, {extra})", extra / 100) for extra in range(1, 10)]
    texts.append(("net(a, 1)", 0.9))
    history = [trial(instant, arms, i, *pair) for i, pair in enumerate(texts)]

    def proposed(equivalence):
        strategy = TreeSearch(
            arms, exploration=1e-6, equivalence=equivalence, greed=0.0, halves=False, coarse=False
        )
        return strategy.propose(history, random_stream(3, 0)).derivation.text

    # By the tree alone all extras are worth what `a` is: the first that is new is taken.
    assert proposed(0.0) == "net(a, 2)"
    # By moves, `9` is worth (8/9 + 2 * 1) / 3 and `1` (0 + 1 + 2 * 1) / 4.
    assert proposed(1e9) == "net(a, 9)"


def test_wide_choices_are_made_in_halves(arms, instant):
    """Three trials tell that the upper half of nine is better; one alone knows nothing of 8."""
    texts = [("net(a, 7)", 0.9), ("net(a, 9)", 0.8), ("net(a, 1)", 0.1), ("net(a, 2)", 0.2)]
    texts += [(f"net({arm}, {extra})", 0.0) for arm in "bc" for extra in range(1, 9)]
    history = [trial(instant, arms, i, *pair) for i, pair in enumerate(texts)]
    settings = {"equivalence": 0.0, "greed": 0.0, "exploration": 0.1}
    found = Counter(
        p.derivation.term.arguments[1].arguments[0]
        for seed in range(20)
        if (p := TreeSearch(arms, **settings).propose(history, random_stream(4, seed)))
        and p.derivation.term.arguments[0].arguments[0] == "a"
    )
    assert found
    assert set(found) <= set("56789")


@pytest.mark.parametrize("kind", ["Chain", "Similarity"])
def test_beats_random_search_on_planted_structure(chain, hybrid, instant, kind):
    space, trials = (chain, 150) if kind == "Chain" else (hybrid, 150)
    gains = []
    for seed in range(6):
        planted = planted_in(space, seed)
        objective = getattr(instant, kind)(planted, 1e-2)
        best = {
            make: max(o.score for o in instant.run(make(space), objective, trials, seed))
            for make in (TreeSearch, RandomSearch)
        }
        gains.append(best[TreeSearch] - best[RandomSearch])
    assert sum(gains) / len(gains) > 0.08
    assert sum(gain > 0 for gain in gains) >= 5


def planted_in(space, seed):
    rng = random.Random(f"planted {seed}")
    while True:
        derivation = space.sample(rng)
        if 15 <= derivation.size <= 90:
            return derivation

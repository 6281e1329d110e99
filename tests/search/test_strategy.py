"""What every strategy promises, whatever it does."""

import random
from dataclasses import replace

import pytest

from nas.errors import UsageError
from nas.grammar.canonical import canonical_hash
from nas.grammar.space import Space
from nas.resources import find_architecture
from nas.search.strategy import (
    LEARNING_RATES,
    START_LEARNING_RATES,
    STRATEGIES,
    make_strategy,
    random_stream,
)

ZOO = ("transformer", "hawk", "tcn")


@pytest.fixture
def start(hybrid):
    return [hybrid.parse(find_architecture(name)) for name in ZOO]


@pytest.fixture(params=STRATEGIES)
def name(request):
    return request.param


def same(a, b):
    return (a.derivation.text, a.learning_rate, a.origin, a.parents) == (
        b.derivation.text,
        b.learning_rate,
        b.origin,
        b.parents,
    )


def size_score(proposal):
    return 1 / (1 + abs(proposal.derivation.size - 60)) + proposal.learning_rate


def untidy(instant, strategy, trials, seed=0):
    """Histories as they are met with four workers, one after the other.

    Trials wait, run, and end complete, pruned or failed, later than others that began after them.
    """
    rng = random.Random(seed)
    history = []
    for number in range(trials):
        yield list(history)
        proposal = strategy.propose(history, random_stream(seed, number))
        state = rng.choice(["waiting", "running"])
        history.append(instant.observe(number, proposal, None, state, rung=None))
        open_trials = [o for o in history if o.state in ("waiting", "running")]
        if len(open_trials) < 4:
            continue
        ended = rng.choice(open_trials)
        outcome = rng.choice(
            [
                {"state": "failed"},
                {"state": "pruned", "score": rng.random(), "rung": 0},
                {"state": "complete", "score": rng.random(), "rung": 1},
                {"state": "running", "score": rng.random(), "rung": 0},
            ]
        )
        history[ended.number] = replace(ended, **outcome)
    yield list(history)


def test_the_start_comes_first_in_order_and_once(name, hybrid, start, instant):
    strategy = make_strategy(name, hybrid, start=[*start, start[0]])
    history = instant.run(strategy, size_score, 12, seed=0)
    rates = [rate for rate in START_LEARNING_RATES for _ in start]
    assert [o.text for o in history[:6]] == [d.text for d in start] * 2
    assert [o.learning_rate for o in history[:6]] == rates
    assert [o.origin for o in history].count("start") == 6


def test_a_start_that_was_measured_by_hand_is_not_repeated(name, hybrid, start, instant):
    strategy = make_strategy(name, hybrid, start=start)
    first = strategy.propose([], random_stream(0, 0))
    by_hand = instant.observe(0, replace(first, derivation=start[1]), 0.5)
    proposed = []
    history = [by_hand]
    for number in range(1, 3):
        proposal = strategy.propose(history, random_stream(0, number))
        proposed.append(proposal.derivation.text)
        history.append(instant.observe(number, proposal, 0.1))
    assert proposed == [start[0].text, start[2].text]


def test_a_proposal_is_a_function_of_history_and_stream(name, hybrid, start, instant):
    warm = make_strategy(name, hybrid, start=start)
    histories = list(untidy(instant, warm, trials=40))
    states = {o.state for history in histories for o in history}
    assert states == {"waiting", "running", "complete", "pruned", "failed"}
    proposed = [warm.propose(h, random_stream(1, len(h))) for h in histories]
    # Cold caches; warm ones in another order; and what a longer history has left behind.
    for number in random.Random(0).sample(range(len(histories)), 12):
        history, expected = histories[number], proposed[number]
        cold = make_strategy(name, hybrid, start=start)
        assert same(cold.propose(history, random_stream(1, number)), expected)
        assert same(warm.propose(history, random_stream(1, number)), expected)
        later = list(history)
        if later:
            later[0] = replace(later[0], state="complete", score=2.0, rung=1)
            warm.propose(later, random_stream(1, number))
            assert same(warm.propose(history, random_stream(1, number)), expected)


def test_nothing_is_measured_twice(name, hybrid, start, instant):
    strategy = make_strategy(name, hybrid, start=start)
    history = instant.run(strategy, size_score, 120, seed=3)
    assert len({(o.hash, o.learning_rate) for o in history}) == len(history)
    assert {o.learning_rate for o in history} <= set(LEARNING_RATES)
    for observation in history:
        assert canonical_hash(hybrid.parse(observation.text)) == observation.hash


def test_an_exhausted_space_still_gets_proposals(name, tmp_path, instant):
    path = tmp_path / "tiny.lark"
    path.write_text(
        'start: "net" "(" size ")" -> net\n!size: "1" | "2" | "3"\n%import common.WS\n%ignore WS\n'
    )
    strategy = make_strategy(name, Space.load(str(path)))
    history = instant.run(strategy, lambda p: p.learning_rate, 30, seed=0)
    # 15 there are: the tree knows which are left, the others happen upon most of them.
    found = len({(o.text, o.learning_rate) for o in history[:15]})
    assert found == 15 if name == "mcts" else found >= 8


def test_texts_that_the_space_does_not_hold_are_passed_over(name, hybrid, instant):
    strategy = make_strategy(name, hybrid)
    history = instant.run(strategy, size_score, 15, seed=0)
    foreign = replace(history[3], text="net(unknown)", hash="0", score=9.0)
    history[3] = foreign
    proposal = strategy.propose(history, random_stream(0, 15))
    assert foreign.number not in proposal.parents
    hybrid.check(proposal.derivation)


def test_failures_alone_do_not_stop_the_search(name, hybrid, start, instant):
    strategy = make_strategy(name, hybrid, start=start)
    history = []
    for number in range(24):
        proposal = strategy.propose(history, random_stream(0, number))
        history.append(instant.observe(number, proposal, None, "failed", rung=None))
    assert len({(o.hash, o.learning_rate) for o in history}) == 24
    assert len({o.hash for o in history}) > 12


def test_streams_differ_by_seed_and_trial():
    drawn = {random_stream(seed, number).random() for seed in range(20) for number in range(20)}
    assert len(drawn) == 400
    assert random_stream(3, 7).random() == random_stream(3, 7).random()
    # The same in every process and version: studies are resumed by it.
    assert random_stream(0, 0).getrandbits(32) == 1471817666


def test_an_unknown_strategy_is_refused_by_name(hybrid):
    with pytest.raises(UsageError, match="no strategy 'bayes': choose one of random, evolution"):
        make_strategy("bayes", hybrid)

"""Replaying a table: every member once, the nearest to what was proposed."""

import random

import pytest

from nas.bench.pool import Member
from nas.bench.replay import Replay, replay
from nas.bench.table import SearchTable, Training
from nas.grammar.canonical import canonical_hash
from nas.grammar.space import Space
from nas.resources import find_space
from nas.search.random_search import RandomSearch

CONTEXT = {"L": (24,), "D": 32, "causal": True}


@pytest.fixture(scope="module")
def space():
    return Space.load(str(find_space("hybrid.lark")), context=CONTEXT)


@pytest.fixture(scope="module")
def table(space):
    rng = random.Random(0)
    members, trainings = [], {}
    for number in range(12):
        derivation = space.sample(rng)
        member = Member(derivation.text, canonical_hash(derivation), "sample")
        members.append(member)
        for seed in (0, 1):
            failed = number == 3
            training = Training(
                member.hash, "t", seed, (1, 3, 9), () if failed else (0.0, 0.1, number / 20),
                None if failed else number / 10 + seed, (), 2.0, 10, "nan" if failed else "",
            )  # fmt: skip
            trainings[training.key] = training
    return SearchTable({}, tuple(members), trainings)


def test_a_search_measures_every_member_once_and_ends_with_the_best(table, space):
    of = Replay(table, space, "t")
    run = of.run(RandomSearch(of.space), "random", trials=50, seed=0)
    assert len(run.best) == 12
    assert run.best[-1] == pytest.approx(1.1 + 1)  # member 11, test of the other seed
    assert run.trained[-1] == pytest.approx(12 * 2.0)
    assert list(run.best) == sorted(run.best)  # here validation orders as test does


def test_a_member_is_nearest_to_itself(table, space):
    of = Replay(table, space, "t")
    for index, member in enumerate(table.members):
        assert of.nearest(space.parse(member.text), set()) == index
        assert of.nearest(space.parse(member.text), {index}) != index


def test_a_failed_training_is_as_bad_as_the_worst(table, space):
    assert Replay(table, space, "t").fresh[3] == pytest.approx(0.0)


def test_every_strategy_is_replayed(table, space):
    runs = list(replay(table, space, ["random", "evolution"], seeds=(0, 1), trials=12))
    assert [(r.strategy, r.seed) for r in runs] == [
        ("random", 0), ("random", 1), ("evolution", 0), ("evolution", 1)
    ]  # fmt: skip


def test_a_table_that_is_not_finished_says_so(table, space):
    part = {key: t for key, t in table.trainings.items() if key[0] != table.members[5].hash}
    with pytest.raises(ValueError, match="not finished"):
        Replay(SearchTable({}, table.members, part), space, "t")

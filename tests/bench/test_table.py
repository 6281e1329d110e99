import json

import pytest

from nas.bench import table
from nas.bench.pool import capped, draw_pool
from nas.bench.table import SearchTable, Sized, build
from nas.errors import NasError, UsageError
from nas.grammar.canonical import canonical_hash
from nas.grammar.space import Space
from nas.resources import find_space

CONTEXT = {"L": (24,), "D": 32, "causal": True}


@pytest.fixture(scope="module")
def space():
    return capped(Space.load(str(find_space("hybrid.lark")), context=CONTEXT))


def test_a_pool_is_different_architectures_within_the_caps(space):
    pool = draw_pool(space, 80, seed=0)
    assert len({member.hash for member in pool}) == len(pool) == 80
    for member in pool:
        derivation = space.parse(member.text)
        assert canonical_hash(derivation) == member.hash
        assert all(space.cost(derivation)[name] <= cap for name, cap in space.caps.items())
    kinds = {member.origin.split()[0] for member in pool}
    assert kinds == {"zoo", "sample", "mutation", "crossover"}
    assert draw_pool(space, 62, seed=0) == pool[:62]
    assert draw_pool(space, 62, seed=1) != pool[:62]


def test_it_is_gone_on_with_and_every_training_is_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(table, "TASKS", (Sized("mqar[length=8,pairs=1]", 8, 18),))

    def run(seeds, seed=0):
        return list(
            build(tmp_path, count=2, seeds=seeds, seed=seed, workers=1, data=None, about={})
        )

    first = run(1)
    assert [left for _, left in first] == [1, 0]
    path = tmp_path / "trainings.jsonl"
    whole = path.read_text()
    path.write_text(whole[: whole.rindex('"seconds"')])  # as a killed process may leave it
    again = run(1)
    assert len(again) == 1
    drop = {"seconds"}
    of = {t.key: t for t, _ in first}
    for training, _ in again:
        assert {k: v for k, v in vars(training).items() if k not in drop} == {
            k: v for k, v in vars(of[training.key]).items() if k not in drop
        }
    assert [left for _, left in run(2)] == [1, 0]
    read = SearchTable.read(tmp_path)
    assert len(read.trainings) == 4
    for training in read.trainings.values():
        assert training.steps == (2, 6, 18)
        assert len(training.scores) == 3
        assert 0 <= training.test <= 1
    with pytest.raises(UsageError, match="seed 0"):
        run(1, seed=1)


def test_a_damaged_table_is_one_line(tmp_path):
    with pytest.raises(NasError, match="no table"):
        SearchTable.read(tmp_path)
    (tmp_path / "pool.json").write_text(json.dumps({"members": [{"text": "x"}]}))
    with pytest.raises(NasError, match="no table"):
        SearchTable.read(tmp_path)

from dataclasses import replace

import pytest

from nas.errors import UsageError
from nas.tasks import registry
from nas.zoo.conditions import Verdict
from nas.zoo.probes import Probe, run, task_of
from nas.zoo.published import Published
from tests.cli import tiny

TEXT = "net(res(mlp(2, gelu)))"


@pytest.fixture(autouse=True)
def _tasks(monkeypatch):
    def without_rules(profile, data):
        return replace(tiny.regression(profile, data), rules={})

    for name, make in (("regression", tiny.regression), ("unruled", without_rules)):
        monkeypatch.setitem(registry.TASKS, name, registry.Entry("for tests", make))


def probed(*steps):
    return run(Probe("mine", TEXT, "hash", "regression", width=8, steps=steps, learning_rate=1e-2))


def test_an_error_is_told_in_its_own_unit_and_ends_the_probe_where_it_is_small():
    task = task_of("regression", "small")
    short = probed(1, 2)
    assert (short.metric, short.higher, short.steps) == ("mean squared error", False, 2)
    assert short.trivial == pytest.approx(task.baselines["zero"], rel=1e-4)
    assert not short.solved
    long = probed(150, 300)
    assert long.steps == 150
    assert 0 <= long.value <= 0.05 * long.trivial < short.value
    assert long.solved
    of = Published("mine", TEXT)
    assert Verdict(of, None, (), trained=(long,)).learned
    assert not Verdict(of, None, (), trained=(short,)).learned
    assert Verdict(of, None, (), trained=(long, short)).value == pytest.approx(
        (long.value + short.value) / 2
    )


def test_a_task_without_a_trivial_rule_is_refused():
    with pytest.raises(UsageError, match="unruled has no trivial rule to compare with"):
        task_of("unruled", "small")

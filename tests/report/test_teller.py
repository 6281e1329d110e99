import json
from dataclasses import replace

import pytest

from nas.report.teller import Teller
from nas.tasks.recipe import Recipe
from nas.tasks.registry import load_task
from nas.tasks.setting import Setting
from nas.tasks.suite import Suite
from nas.training.evaluate import Evaluation
from nas.training.plan import plan
from nas.training.sweep import Trained
from nas.training.train import TrainResult


def reached(task, *values):
    """Trainings with these values on validation, from as many seeds."""
    return [
        Trained(
            Recipe(), seed,
            TrainResult("complete", value, evaluations={
                "validation": (Evaluation(task.name, task.length, value, 1),)
            }),
        )
        for seed, value in enumerate(values)
    ]  # fmt: skip


@pytest.fixture
def suite():
    names = ("parity[length=18]", "parity[length=20]", "adding")
    return Suite("mine", tuple(load_task(name, "small").tasks[0] for name in names))


def test_the_mean_of_a_suite_is_over_its_tasks_seed_by_seed(suite, capsys):
    teller = Teller(suite, json=True, breakdown=False)
    for task, values in zip(suite.tasks, ((0.5, 0.7), (0.8, 0.6), (0.2, 0.4)), strict=True):
        teller.choice(plan(task, usual_width=8, seeds=range(2)), 8, reached(task, *values))
    teller.means()
    first, second = map(json.loads, capsys.readouterr().out.splitlines())
    assert first == {"name": "parity", "width": 8, "score": 0.65}
    # An error counts as its negative.
    assert second == {"name": "mine", "width": 8, "score": pytest.approx((1.3 - 0.3) / 3, rel=1e-4)}


def test_a_width_of_some_tasks_only_has_no_mean(suite, capsys):
    setting = Setting(source="Somebody", widths=(12,))
    tasks = (suite.tasks[0], replace(suite.tasks[1], setting=setting), suite.tasks[2])
    teller = Teller(replace(suite, tasks=tasks), json=False, breakdown=False)
    for task in tasks:
        of = plan(task, usual_width=8, seeds=range(1))
        teller.announce(of)
        for width in of.widths:
            teller.choice(of, width, reached(task, 0.5))
    teller.means()
    out, err = capsys.readouterr()
    assert out == ""
    assert "parity[length=20]: 1 training of" in err
    assert "after Somebody; width 12;" in err
    assert "parity[length=18]" not in err

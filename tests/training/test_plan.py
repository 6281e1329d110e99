from dataclasses import replace

import pytest

from nas.tasks.published import figures
from nas.tasks.registry import load_task
from nas.tasks.setting import Setting
from nas.training.plan import plan

CALL = {"usual_width": 32, "seeds": range(5, 7)}


@pytest.fixture(scope="module")
def parity():
    return load_task("parity[length=18]", "small").tasks[0]


@pytest.fixture(scope="module")
def published(parity):
    setting = Setting(source="Somebody", depth=2, widths=(8, 12), learning_rates=(1e-3, 1e-2))
    return replace(parity, setting=setting)


def test_a_task_without_a_setting_is_trained_once_a_seed(parity):
    found = plan(parity, **CALL)
    assert (found.widths, found.trainings, found.swept) == ((32,), 2, False)
    assert (found.splits, found.until, found.also) == (("validation",), parity.steps, ())
    assert plan(parity, **CALL, test=True).splits == ("test",)
    assert plan(parity, **CALL, steps=3).until == 3
    assert plan(parity, **CALL, steps=10**9).until == parity.steps


def test_a_setting_is_gone_through_unless_the_call_says_otherwise(published):
    found = plan(published, **CALL)
    assert (found.widths, found.trainings, found.swept) == ((8, 12), 8, True)
    assert found.splits == ("validation", "test")
    assert plan(published, **CALL, test=True).splits == ("validation", "test")
    narrow = plan(published, **CALL, width=12)
    assert (narrow.widths, narrow.trainings) == ((12,), 4)
    alone = plan(published, **CALL, learning_rate=0.5, weight_decay=0.25, depth=3)
    (recipe,) = alone.setting.recipes
    assert (recipe.learning_rate, recipe.weight_decay, alone.setting.depth) == (0.5, 0.25, 3)
    assert (alone.splits, alone.trainings) == (("validation",), 4)


def test_figures_stand_beside_the_very_setting_of_their_publication(parity):
    setting = Setting(source="Zoology", widths=(64, 512), learning_rates=(1e-3, 1e-2))
    task = replace(parity, name="mqar/512", profile="paper", setting=setting)
    there = figures(task, 512)
    assert there
    assert plan(task, **CALL).published(512) == there
    assert plan(task, **CALL, width=512).published(512) == there
    assert plan(task, **CALL).published(64) == ()
    assert plan(replace(task, setting=Setting()), **CALL).published(512) == ()  # on validation
    assert plan(replace(task, setting=Setting()), **CALL, test=True).published(512) == there
    for changed in ({"learning_rate": 0.1}, {"weight_decay": 0.0}, {"steps": 9}, {"depth": 2}):
        assert plan(task, **CALL, **changed, test=True).published(512) == ()

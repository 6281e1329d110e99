from dataclasses import replace

import numpy as np
import pytest

from nas.tasks.base import Split
from nas.tasks.published import LRA, figures, told
from nas.tasks.registry import load_task

TESTED = {"lra/image": 10_000, "lra/text": 25_000, "lra/retrieval": 17_437}


def values(system):
    """What `figures` says of a system on the tasks of the arena, in percent."""
    task = load_task("lra/listops", "paper").tasks[0]
    found = {}
    for name in LRA:
        test = Split(np.zeros((TESTED.get(name, 2000), 1)), np.zeros(1))
        for figure in figures(replace(task, name=name, source=lambda of=test: {"test": of})):
            if figure.system == system:
                found[name] = 100 * figure.value
    return found


@pytest.mark.parametrize(
    ("system", "mean", "tasks"),
    [("Transformer", 54.39, 5), ("S5", 87.46, 6), ("Mega", 88.21, 6)],
)
def test_the_arenas_figures_have_the_published_means(system, mean, tasks):
    found = values(system)
    assert len(found) == tasks
    assert sum(found.values()) / tasks == pytest.approx(mean, abs=0.006)


def test_a_figure_stands_beside_its_own_setting_alone():
    (paper,) = load_task("lra/listops", "paper").tasks
    assert figures(paper)
    assert figures(load_task("lra/listops", "small").tasks[0]) == ()
    wide = load_task("mqar", "paper").tasks[-1]
    assert wide.name == "mqar/512"
    assert {figure.system for figure in figures(wide, 512)} >= {"Attention", "Hyena"}
    assert figures(wide, 128) == ()
    (knobs,) = load_task("mqar[length=512,pairs=64]", "paper").tasks
    assert figures(knobs) == ()


def test_path_x_has_the_figures_of_those_that_are_above_chance():
    (paper,) = load_task("lra/pathx", "paper").tasks
    assert told(figures(paper)) == (
        "S4 0.96 (Gu et al. 2022, revised); S5 0.9858 (Smith et al. 2023); "
        "Mega 0.9798 (Ma et al. 2023); LRU 0.942 (Orvieto et al. 2023)"
    )
    for name, profile in (("lra/pathx", "small"), ("lra/pathx[dashes=6]", "paper")):
        (other,) = load_task(name, profile).tasks
        assert figures(other) == ()


def test_with_fewer_test_examples_it_is_another_test(real_data):
    """The 5,000 of the 10,000 images that stand here are not what was published."""
    (image,) = load_task("lra/image", "paper", real_data).tasks
    assert len(image.splits["test"]) == 5_000
    assert figures(image) == ()
    (text,) = load_task("lra/text", "paper", real_data).tasks
    assert {figure.system for figure in figures(text)} >= {"S4", "Transformer"}


def test_figures_are_told_by_their_source():
    (paper,) = load_task("lra/listops", "paper").tasks
    assert told(figures(paper)).startswith(
        "Transformer 0.3637, BigBird 0.3605, Linformer 0.357, Perf"
    )
    assert "; S5 0.6215 (Smith et al. 2023); " in told(figures(paper))

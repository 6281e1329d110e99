import hashlib
from dataclasses import replace

import numpy as np
import pytest

from nas.tasks.base import SPLITS
from nas.tasks.lra import pathfinder
from nas.tasks.lra.pathfinder import render
from nas.tasks.lra.pathx import PAPER, SMALL, draw, pathx
from nas.tasks.lra.scene import compose, has_room, with_room
from nas.tasks.random_streams import derive, stream


def test_every_definition_is_as_frequent_however_seldom_it_finds_room():
    often, seldom = replace(SMALL[0], dashes=1), replace(SMALL[0], dashes=3)
    keys = derive(stream("often"), np.arange(1000))
    assert has_room(keys, often).mean() > 2 * has_room(keys, seldom).mean()
    drawn = draw(keys, (often, seldom))
    assert drawn.kept.all()
    ink = (drawn.inputs > 0).sum(axis=1)
    longer = ink > (np.quantile(ink, 0.05) + np.quantile(ink, 0.95)) / 2
    assert longer.mean() == pytest.approx(0.5, abs=0.05)


def test_images_are_those_of_pathfinder():
    """An image of one definition is one that Pathfinder's generator draws, label included."""
    keys = derive(stream("same"), np.arange(20))
    drawn = draw(keys, SMALL[:1])
    attempts = with_room(derive(keys, 1), SMALL[0])
    same = pathfinder.draw(attempts, SMALL[0])
    assert same.kept.all()
    assert (same.inputs == drawn.inputs).all()
    assert (same.targets == drawn.targets).all()


def test_an_image_does_not_depend_on_its_neighbours():
    keys = derive(stream("alone"), np.arange(40))
    together = draw(keys, SMALL)
    for i in range(0, 40, 3):
        alone = draw(keys[i : i + 1], SMALL)
        assert (alone.inputs[0] == together.inputs[i]).all()
        assert alone.targets[0] == together.targets[i]


@pytest.mark.parametrize(
    ("part", "same", "distractors", "ink"),
    [(PAPER[0], 85.5, 7.9, 0.0318), (PAPER[1], 75.0, 7.6, 0.0306)],
    ids=["narrow", "wide"],
)
def test_it_is_like_the_public_generators_process(part, same, distractors, ink):
    """The figures are those of 29 and 22 images of a second implementation, of its steps."""
    count = 40
    scene = compose(with_room(derive(stream("likeness"), np.arange(count)), part), part)
    begins, ends = zip(*(contour.tips(part.drawing) for contour in scene.long), strict=True)
    apart = np.linalg.norm(np.concatenate(begins) - np.concatenate(ends), axis=1) / 4
    assert np.median(apart) == pytest.approx(same, rel=0.15)
    short = sum(len(contour.rows) for contour in scene.short) / count
    assert short == pytest.approx(distractors, rel=0.1)
    assert render(scene, part).mean() / 255 == pytest.approx(ink, rel=0.1)


def test_the_published_images_are_frozen():
    drawn = draw(derive(stream("frozen"), np.arange(6)), PAPER)
    assert drawn.inputs.shape == (6, 16_384)
    assert drawn.inputs.max() == 255
    digest = hashlib.sha256(repr(PAPER).encode() + drawn.inputs.tobytes() + drawn.targets.tobytes())
    assert digest.hexdigest() == FROZEN_PAPER


def test_small_is_frozen_and_its_splits_are_disjoint():
    task = pathx("small")
    assert task.data_hash == FROZEN
    seen: set[bytes] = set()
    count = 0
    for name in SPLITS:
        split = task.splits[name]
        assert split.inputs.max() < task.inputs.vocabulary
        count += len(split)
        seen.update(row.tobytes() for row in split.inputs)
    assert len(seen) == count
    assert task.baselines["ink"] < 0.55
    assert task.baselines["distance of the dots"] < 0.55


FROZEN = "6f051c0f6253df6d8011789383d782de35851445f6e20f88b047060516bff456"
FROZEN_PAPER = "ea81570d510c57fc4eb6a373c7f9114dc26e930c3f232335b5ab7acaff23fc03"

from dataclasses import replace

import numpy as np
import pytest

from nas.errors import NasError
from nas.tasks.lra.pathfinder import PAPER, SMALL
from nas.tasks.lra.scene import Pathfinder, compose, has_room, with_room
from nas.tasks.random_streams import derive, stream


def test_the_first_that_finds_room_is_taken():
    keys = derive(stream("room"), np.arange(30))
    found = with_room(keys, SMALL)
    for key, first in zip(keys, found, strict=True):
        below = derive(key, np.arange(400))
        kept = compose(below, SMALL).kept
        assert (has_room(below, SMALL) == kept).all()
        assert kept.any()
        assert below[kept.argmax()] == first


def test_which_is_found_does_not_depend_on_the_other_keys():
    keys = derive(stream("others"), np.arange(300))
    together = with_room(keys, SMALL)
    assert (with_room(keys[::7], SMALL) == together[::7]).all()
    assert len(with_room(keys[:0], SMALL)) == 0


def test_images_without_room_are_refused(monkeypatch):
    """Contours that do not fit their window."""
    monkeypatch.setattr("nas.tasks.lra.scene._PATIENCE", 2000)
    with pytest.raises(NasError, match="found room: allow fewer dashes"):
        with_room(derive(stream("none"), np.arange(2)), replace(SMALL, dashes=12))


def test_distractors_that_find_no_room_are_tried_again():
    keys = with_room(derive(stream("tries"), np.arange(200)), PAPER)
    once, often = (compose(keys, replace(PAPER, tries=tries)) for tries in (1, 5))
    counts = [
        np.sum([np.bincount(contour.rows, minlength=200) for contour in scene.short], axis=0)
        for scene in (once, often)
    ]
    assert counts[1].max() <= PAPER.distractors
    assert counts[1].mean() > counts[0].mean() + 0.5
    # The first attempt at the first distractor is the same.
    assert (often.short[0].rows == once.short[0].rows).all()
    assert (often.short[0].starts == once.short[0].starts).all()


def test_a_definition_tells_what_came_later_where_it_is_used():
    assert "tries" not in repr(PAPER)
    assert repr(replace(PAPER, tries=5)).endswith(", tries=5)")
    names = {"Pathfinder": Pathfinder, "Drawing": type(PAPER.drawing)}
    for of in (PAPER, SMALL, replace(PAPER, tries=5)):
        assert eval(repr(of), names) == of

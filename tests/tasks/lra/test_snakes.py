import numpy as np
import pytest

from nas.tasks.lra.snakes import DIRECTIONS, SETTLED, SUBPIXELS, Canvas, Contours, Drawing, offsets
from nas.tasks.random_streams import derive, stream


def to_segment(point, start, end):
    """Distance of a point from a segment, by the book."""
    along = end - start
    t = np.clip(np.dot(point - start, along) / max(np.dot(along, along), 1e-9), 0, 1)
    return np.linalg.norm(point - start - t * along)


def test_offsets_are_vectors_of_their_direction_and_length():
    for length in (0.5, 2.0, 7.0):
        vectors = offsets(length) / SUBPIXELS
        turn = 2 * np.pi * np.arange(DIRECTIONS) / DIRECTIONS
        exact = length * np.stack([np.sin(turn), np.cos(turn)], axis=1)
        assert np.abs(vectors - exact).max() <= 0.5 / SUBPIXELS + 1e-9


def test_a_taken_zone_is_what_lies_within_the_clearance():
    drawing = Drawing(16, 12, padding=0.5, dash=2.0, clearance=1.5)
    canvas = Canvas(DIRECTIONS, drawing)
    rows = np.arange(DIRECTIONS)
    start = np.array([8, 6]) * SUBPIXELS
    canvas.put(rows, np.tile(start, (DIRECTIONS, 1)), rows, SETTLED)
    for direction in range(0, DIRECTIONS, 5):
        end = start + offsets(drawing.dash)[direction]
        for y in range(4, 60, 7):
            for x in range(4, 44, 7):
                probe = np.array([[[y, x]]])
                points = [np.array([y, x]) + offsets(drawing.dash * i / 4)[0] for i in range(5)]
                inside = all(2 <= p[0] < 62 and 2 <= p[1] < 46 for p in points)
                near = min(to_segment(p, start, end) for p in points)
                expected = inside and near >= drawing.clearance * SUBPIXELS
                free = canvas.free(np.array([direction]), probe, np.array([[0]]))
                assert free[0, 0] == expected, (direction, y, x)


@pytest.mark.parametrize(("clearance", "cell"), [(0.5, 1), (1.5, 1), (4.0, 4), (6.0, 6), (3.3, 3)])
def test_cells_are_as_wide_as_they_may_be(clearance, cell):
    """What is taken is what lies within the clearance, give or take a cell's half diagonal."""
    drawing = Drawing(40, 32, padding=3.0, dash=5.0, clearance=clearance)
    assert drawing.cell == cell
    rough = cell / SUBPIXELS * 0.71 + 0.01
    rng = np.random.default_rng(0)
    canvas = Canvas(1, drawing)
    row, start, direction = np.array([0]), np.array([[79, 62]]), 17
    canvas.put(row, start, np.array([direction]), SETTLED)
    end = start[0] + offsets(drawing.dash)[direction]
    starts = rng.integers(-20, 180, (4000, 2))
    directions = rng.integers(DIRECTIONS, size=4000)
    free = canvas.free(row, starts[None], directions[None])[0]
    steps = [offsets(drawing.dash * i / 10)[directions] for i in range(11)]
    points = (starts + np.stack(steps)) / SUBPIXELS
    near = np.array(
        [min(to_segment(p, start[0] / SUBPIXELS, end / SUBPIXELS) for p in way)
         for way in points.swapaxes(0, 1)]
    )  # fmt: skip
    sides = np.array([40, 32])
    room = np.minimum(points, sides - points).min(axis=(0, 2)) - drawing.padding
    assert not free[(near < clearance - rough) | (room < -0.01)].any()
    assert free[(near > clearance + rough) & (room > cell / SUBPIXELS + 0.01)].all()
    assert 100 < free.sum() < 3000


def test_dashes_of_one_mark_may_be_left_out():
    canvas = Canvas(1, Drawing(16, 16))
    row, start = np.array([0]), np.array([[32, 32]])
    canvas.put(row, start, np.array([0]), mark=4)
    again = (row, start[:, None], np.array([[0]]))
    assert not canvas.free(*again)[0, 0]
    assert canvas.free(*again, but=4)[0, 0]
    assert not canvas.free(*again, but=2)[0, 0]


def test_a_contour_without_room_is_no_longer_alive():
    drawing = Drawing(12, 12)
    canvas = Canvas(2, drawing)
    contours = Contours.seeded(np.arange(2), 8, mark=2)
    centre = np.full((2, 1, 2), 6 * SUBPIXELS)
    contours.begin(canvas, centre, np.zeros((2, 1), dtype=np.int64))
    assert contours.alive.all()
    for dash in range(1, 8):
        contours.put(canvas, dash - 1, SETTLED)
        contours.extend(canvas, derive(stream("room"), np.arange(2) + 2 * dash), dash)
    # Eight dashes of 4 pixels each, turning by less than 90 degrees, have no room in 12 x 12.
    assert not contours.alive.any()
    assert len(contours.only(contours.alive).rows) == 0

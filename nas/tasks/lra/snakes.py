"""Dashed contours on a lattice, grown for many images at once.

A contour is a chain of dashes. The next dash starts after a gap and turns by an angle drawn with
the weight cos(continuity * angle)^2; it must keep clear of the margin of the window and of every
dash but the one before it. Positions are whole numbers of a quarter pixel and directions one of 48,
so that shapes are tables, and the images the same on every processor.

Source: the process and its parameters are those of Linsley et al. (2018), "Learning long-range
spatial dependencies with horizontal gated recurrent units", whose images the Long Range Arena uses.
"""

import math
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

from nas.tasks.random_streams import Keys, integers

SUBPIXELS = 4
"""Lattice positions per pixel."""
DIRECTIONS = 48
SETTLED = 1
"""The mark of what every dash keeps clear of: all dashes but the last of each growing contour."""


@dataclass(frozen=True)
class Drawing:
    """How contours are drawn; lengths are in pixels.

    Args:
        height: Of the image.
        width: Of the image.
        padding: Margin of the image that dashes keep out of.
        dash: Length of a dash.
        gap: Space between a dash and the joint between two dashes; two dashes are 2 gaps apart.
        thickness: Of a dash.
        clearance: Least distance between dashes that are not neighbours in a contour.
        continuity: How strongly a contour goes on straight: turns stay below 90 degrees / this.
    """

    height: int = 32
    width: int = 32
    padding: float = 1.0
    dash: float = 2.0
    gap: float = 1.0
    thickness: float = 0.5
    clearance: float = 1.0
    continuity: float = 1.0

    @property
    def cell(self) -> int:
        """Lattice positions a side of the cells in which it is kept what is taken."""
        # A quarter of the clearance is fine enough.
        return max(1, math.floor(self.clearance * SUBPIXELS / 4))


@cache
def offsets(length: float) -> NDArray[np.int64]:
    """The lattice vector `[DIRECTIONS, 2]` (y, x) of a length in pixels, for every direction."""
    turn = [2 * math.pi * i / DIRECTIONS for i in range(DIRECTIONS)]
    scale = length * SUBPIXELS
    return np.array([[round(scale * math.sin(a)), round(scale * math.cos(a))] for a in turn])


@cache
def _turns(continuity: float) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The turns that have a weight, in steps of a direction, and their weights."""
    turns, weights = [], []
    for turn in range(-DIRECTIONS // 4, DIRECTIONS // 4 + 1):
        angle = min(2 * math.pi * abs(turn) / DIRECTIONS * continuity, math.pi / 2)
        weight = round(1000 * math.cos(angle) ** 2)
        if weight:
            turns.append(turn)
            weights.append(weight)
    return np.array(turns), np.array(weights)


@cache
def _zone(drawing: Drawing, width: int) -> NDArray[np.int64]:
    """Cells within the clearance of a dash, for every place of its start in a cell and direction.

    Args:
        drawing: How contours are drawn.
        width: Of a row of cells.

    Returns:
        `[cell, cell, DIRECTIONS, K]`: how many cells behind that of its start, in rows of that
        width; where there are fewer, some more than once.
    """
    cell = drawing.cell
    reach = math.ceil((drawing.dash + drawing.clearance) * SUBPIXELS / cell)
    side = np.arange(-reach, reach + 1)
    cells = np.stack(np.meshgrid(side, side, indexing="ij"), axis=-1).reshape(-1, 2)
    centres = cells * cell + (cell - 1) / 2
    limit = (drawing.clearance * SUBPIXELS) ** 2
    zones = [
        cells[distance_squared(centres - place, end) < limit] @ [width, 1]
        for place in np.ndindex(cell, cell)
        for end in offsets(drawing.dash)
    ]
    return _table(zones, cell)


@cache
def _course(drawing: Drawing, width: int) -> NDArray[np.int64]:
    """Cells that a dash goes through, as `_zone` has those around it."""
    cell = drawing.cell
    checks = math.ceil(drawing.dash * 2)
    ways = np.stack([offsets(drawing.dash * i / checks) for i in range(checks + 1)], axis=1)
    courses = [
        np.unique((way + place) // cell @ [width, 1])
        for place in np.ndindex(cell, cell)
        for way in ways
    ]
    return _table(courses, cell)


def _table(cells: list[NDArray], cell: int) -> NDArray[np.int64]:
    """Lists of cells as an array `[cell, cell, DIRECTIONS, K]`, their first filling up the rest."""
    longest = max(map(len, cells))
    filled = [np.concatenate([some, np.repeat(some[:1], longest - len(some))]) for some in cells]
    return np.array(filled).reshape(cell, cell, DIRECTIONS, longest)


def distance_squared(points: NDArray, end: NDArray[np.int64]) -> NDArray[np.float64]:
    """Squared distance of points `[..., 2]` from the segment (0, 0) to `end`."""
    along = np.clip((points @ end) / max(1, int(end @ end)), 0.0, 1.0)
    return ((points - along[..., None] * end) ** 2).sum(axis=-1)


class Canvas:
    """Which cells of the lattice are taken, in each of N images.

    Args:
        count: N, the number of images.
        drawing: How contours are drawn.
    """

    def __init__(self, count: int, drawing: Drawing) -> None:
        self.drawing = drawing
        cell = drawing.cell
        # A border as wide as a zone, so that zones at the edge need no clipping.
        border = math.ceil((math.ceil((drawing.dash + drawing.clearance) * SUBPIXELS) + 1) / cell)
        self._border = border * cell
        self._height, self._width = (
            math.ceil(side * SUBPIXELS / cell) + 2 * border
            for side in (drawing.height, drawing.width)
        )
        self._taken = np.full((count, self._height, self._width), SETTLED, dtype=np.uint8)
        padding = round(drawing.padding * SUBPIXELS)
        inner = [
            slice(border + math.ceil(padding / cell), border + (side * SUBPIXELS - padding) // cell)
            for side in (drawing.height, drawing.width)
        ]
        self._taken[:, inner[0], inner[1]] = 0

    def free(
        self,
        rows: NDArray[np.int64],
        starts: NDArray[np.int64],
        directions: NDArray[np.int64],
        but: int = 0,
    ) -> NDArray[np.bool_]:
        """Whether candidate dashes would keep clear of those that were put before.

        Args:
            rows: `[M]` images.
            starts: `[M, K, 2]` lattice points of K candidates each.
            directions: `[M, K]`.
            but: The mark of dashes that may be near.
        """
        drawing = self.drawing
        # What starts outside the window is not free; nothing reaches further than the border.
        window = np.array([drawing.height, drawing.width]) * SUBPIXELS
        inside = np.clip(starts, 0, window)
        free = (inside == starts).all(axis=-1)
        cells, y, x = self._cells(rows[:, None], inside)
        course = cells[..., None] + _course(drawing, self._width)[y, x, directions]
        free &= ((self._taken.reshape(-1)[course] & np.uint8(255 - but)) == 0).all(axis=-1)
        return free

    def put(
        self,
        rows: NDArray[np.int64],
        starts: NDArray[np.int64],
        directions: NDArray[np.int64],
        mark: int,
    ) -> None:
        """Take the zone of one dash in each of the given images.

        Args:
            rows: `[M]` images, all different.
            starts: `[M, 2]` lattice points.
            directions: `[M]`.
            mark: A power of two, 1 to 128, set in the zone beside the marks there.
        """
        cells, y, x = self._cells(rows, starts)
        zone = cells[:, None] + _zone(self.drawing, self._width)[y, x, directions]
        self._taken.reshape(-1)[zone] |= np.uint8(mark)

    def _cells(
        self, rows: NDArray[np.int64], points: NDArray[np.int64]
    ) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
        """The numbers of the cells that lattice points `[..., 2]` lie in, and where within them."""
        place, within = np.divmod(points + self._border, self.drawing.cell)
        numbers = (rows * self._height + place[..., 0]) * self._width + place[..., 1]
        return numbers, within[..., 0], within[..., 1]


@dataclass
class Contours:
    """One contour in each of some images, as far as it has grown.

    Args:
        rows: `[M]` which images.
        starts: `[M, n, 2]` lattice points (y, x) where its dashes start.
        directions: `[M, n]` their directions.
        alive: `[M]` whether it grew to its full length so far.
        mark: What its dashes are marked with on the canvas, besides `SETTLED`.
    """

    rows: NDArray[np.int64]
    starts: NDArray[np.int64]
    directions: NDArray[np.int64]
    alive: NDArray[np.bool_]
    mark: int

    @classmethod
    def seeded(cls, rows: NDArray[np.int64], dashes: int, mark: int) -> "Contours":
        """Contours without a dash yet."""
        return cls(
            rows,
            np.zeros((len(rows), dashes, 2), dtype=np.int64),
            np.zeros((len(rows), dashes), dtype=np.int64),
            np.ones(len(rows), dtype=np.bool_),
            mark,
        )

    def begin(
        self, canvas: Canvas, starts: NDArray[np.int64], directions: NDArray[np.int64]
    ) -> None:
        """Set the first dash to the first free one of the candidates `[M, K, 2]`, `[M, K]`."""
        free = canvas.free(self.rows, starts, directions)
        self._set(0, starts, directions, free.argmax(axis=1), np.asarray(free.any(axis=1)))

    def extend(self, canvas: Canvas, keys: Keys, number: int) -> None:
        """Add dash `number` (from 1), drawn from the free ones by the weights of their turns."""
        drawing = canvas.drawing
        turns, weights = _turns(drawing.continuity)
        start, direction = self.starts[:, number - 1], self.directions[:, number - 1]
        joint = start + offsets(drawing.dash + drawing.gap)[direction]
        directions = (direction[:, None] + turns) % DIRECTIONS
        starts = joint[:, None] + offsets(drawing.gap)[directions]
        # The dash before is not settled: neighbours may be nearer than the clearance.
        free = canvas.free(self.rows, starts, directions, but=self.mark)
        sums = np.cumsum(free * weights, axis=1)
        choice = (sums > integers(keys, sums[:, -1])[:, None]).argmax(axis=1)
        self._set(number, starts, directions, choice, np.asarray(free.any(axis=1)))

    def put(self, canvas: Canvas, number: int, mark: int) -> None:
        """Take dash `number` on the canvas, where the contour is alive."""
        use = self.alive
        canvas.put(self.rows[use], self.starts[use, number], self.directions[use, number], mark)

    def tips(self, drawing: Drawing) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The two ends `[M, 2]` of every contour."""
        last = offsets(drawing.dash)[self.directions[:, -1]]
        return self.starts[:, 0], self.starts[:, -1] + last

    def only(self, use: NDArray[np.bool_]) -> "Contours":
        """Some of the contours."""
        return Contours(
            self.rows[use], self.starts[use], self.directions[use], self.alive[use], self.mark
        )

    def _set(
        self,
        number: int,
        starts: NDArray[np.int64],
        directions: NDArray[np.int64],
        choice: NDArray[np.int64],
        alive: NDArray[np.bool_],
    ) -> None:
        every = np.arange(len(choice))
        self.starts[:, number] = starts[every, choice]
        self.directions[:, number] = directions[every, choice]
        self.alive &= alive

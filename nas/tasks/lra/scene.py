"""What a Pathfinder image is made of: two long contours, distractors, and where the dots stand."""

from dataclasses import dataclass, field, fields

import numpy as np
from numpy.typing import NDArray

from nas.errors import NasError
from nas.tasks.lra.snakes import DIRECTIONS, SETTLED, SUBPIXELS, Canvas, Contours, Drawing, offsets
from nas.tasks.random_streams import Keys, derive, integers

VERSION = 1
_ATTEMPTS = 1024  # that are made at once
_PATIENCE = 1_000_000  # attempts at an image, where a few hundred are usual


@dataclass(frozen=True)
class Pathfinder:
    """The definition of a Pathfinder data set; lengths are in pixels.

    Args:
        drawing: How contours are drawn.
        dashes: Dashes of each of the two long contours.
        seed_distance: Distance between the first ends of the two long contours.
        seed_margin: Least distance of the first end of the first contour from the image's edges.
        distractors: Number of short contours, less those that find no room.
        distractor_dashes: Dashes of each of them.
        distance_step: Keep an image only where the distance between the dots, in whole steps of
            this, would be the same were they joined or not; None: keep all, as the original does.
        dot: Radius of the dots.
        long_contrast: Brightness of the long contours, as a multiple of the pixels' coverage.
        short_contrast: Brightness of the distractors.
        levels: Shades of grey told apart.
        version: Of the generator's code.
        tries: How often each distractor is tried at most, until it finds room.
    """

    drawing: Drawing = field(default_factory=Drawing)
    dashes: int = 14
    seed_distance: float = 7.0
    seed_margin: float = 14.0
    distractors: int = 5
    distractor_dashes: int = 4
    distance_step: float | None = None
    dot: float = 1.5
    long_contrast: float = 1.5
    short_contrast: float = 2.0
    levels: int = 256
    version: int = VERSION
    tries: int = 1

    def __repr__(self) -> str:
        # Data is known by this text: what came later is told only where it is made use of.
        values = {each.name: getattr(self, each.name) for each in fields(self)}
        if values["tries"] == 1:
            del values["tries"]
        return f"Pathfinder({', '.join(f'{name}={value!r}' for name, value in values.items())})"


@dataclass(frozen=True)
class Scene:
    """What one attempt at an image per key has laid out, before it is made into pixels.

    Args:
        kept: `[N]` whether both long contours found room; the rest is of those M images.
        long: The two long contours, in every image.
        short: The distractors that found room.
        dots: `[M, 2, 2]` lattice points (y, x) of the two dots.
        joined: `[M]` whether the dots are ends of the same contour.
    """

    kept: NDArray[np.bool_]
    long: tuple[Contours, Contours]
    short: tuple[Contours, ...]
    dots: NDArray[np.int64]
    joined: NDArray[np.bool_]


def compose(keys: Keys, of: Pathfinder) -> Scene:
    """Lay out one image per key: long contours, distractors, dots.

    Args:
        keys: `[N]` keys of the random streams.
        of: The definition.
    """
    canvas = Canvas(len(keys), of.drawing)
    long, dots, joined = _paths(canvas, keys, of)
    rows = long[0].rows
    kept = np.zeros(len(keys), dtype=np.bool_)
    kept[rows] = True
    short = []
    for i in range(of.distractors):
        without = rows
        for attempt in range(of.tries):
            number = 2 + i + attempt * of.distractors
            short.append(_short(canvas, without, derive(keys[without], number), of))
            without = np.setdiff1d(without, short[-1].rows)
    return Scene(kept, long, tuple(short), dots, joined)


def has_room(keys: Keys, of: Pathfinder) -> NDArray[np.bool_]:
    """Which of the keys `compose` keeps the images of, sooner told than composed."""
    long, _, _ = _paths(Canvas(len(keys), of.drawing), keys, of)
    kept = np.zeros(len(keys), dtype=np.bool_)
    kept[long[0].rows] = True
    return kept


def with_room(keys: Keys, of: Pathfinder) -> Keys:
    """Of the keys below each key the first whose image is kept.

    Args:
        keys: `[N]` keys.
        of: The definition.

    Raises:
        NasError: None of very many is.
    """
    found = np.zeros_like(keys)
    rows, tried = np.arange(len(keys)), 0
    while len(rows):
        if tried > _PATIENCE:
            raise NasError(f"none of {tried} attempts at an image found room: allow fewer dashes")
        # The fewer images are left, the more attempts at each are made at once.
        each = max(1, _ATTEMPTS // len(rows))
        attempts = derive(keys[rows, None], tried + np.arange(each))
        kept = has_room(attempts.reshape(-1), of).reshape(attempts.shape)
        some = kept.any(axis=1)
        found[rows[some]] = attempts[some, kept.argmax(axis=1)[some]]
        rows, tried = rows[~some], tried + each
    return found


def _paths(
    canvas: Canvas, keys: Keys, of: Pathfinder
) -> tuple[tuple[Contours, Contours], NDArray[np.int64], NDArray[np.bool_]]:
    """The long contours, dots and labels of the images that are kept."""
    long = _long(canvas, derive(keys, 0), of)
    dots, joined, alike = _dots(derive(keys, 1)[long[0].rows], long, of)
    return (long[0].only(alike), long[1].only(alike)), dots[alike], joined[alike]


def _long(canvas: Canvas, keys: Keys, of: Pathfinder) -> tuple[Contours, Contours]:
    """The two long contours, grown in turns so that neither has more room; None where one died."""
    drawing = of.drawing
    rows = np.arange(len(keys))
    low = round(of.seed_margin * SUBPIXELS)
    place = np.stack(
        [
            low + integers(derive(keys, i), side * SUBPIXELS - 2 * low + 1)
            for i, side in enumerate((drawing.height, drawing.width))
        ],
        axis=-1,
    )
    around = offsets(of.seed_distance)[integers(derive(keys, 2), DIRECTIONS)]
    pair = Contours.seeded(rows, of.dashes, mark=2), Contours.seeded(rows, of.dashes, mark=4)
    for contour, start, number in ((pair[0], place, 3), (pair[1], place + around, 4)):
        directions = integers(derive(derive(keys, number)[:, None], np.arange(8)), DIRECTIONS)
        contour.begin(canvas, np.repeat(start[:, None], 8, axis=1), directions)
        contour.put(canvas, 0, contour.mark)
    for dash in range(1, of.dashes):
        alive = pair[0].alive & pair[1].alive
        pair = pair[0].only(alive), pair[1].only(alive)
        for which, contour in enumerate(pair):
            contour.extend(canvas, derive(keys[contour.rows], 4 + 2 * dash + which), dash)
            contour.put(canvas, dash, contour.mark)
            contour.put(canvas, dash - 1, SETTLED)
    alive = pair[0].alive & pair[1].alive
    pair = pair[0].only(alive), pair[1].only(alive)
    for contour in pair:
        contour.put(canvas, of.dashes - 1, SETTLED)
    return pair


def _dots(
    keys: Keys, long: tuple[Contours, Contours], of: Pathfinder
) -> tuple[NDArray[np.int64], NDArray[np.bool_], NDArray[np.bool_]]:
    """Where the dots stand `[M, 2, 2]`, whether they are joined, and whether the image is kept.

    A dot stands where contour i begins; the other where i ends, or, not joined, one where contour
    j begins and one where the other contour ends. Whether joined or not is a coin thrown for an
    image that would be kept in both cases, so nothing else can depend on it.
    """
    begins, ends = (
        np.stack(tips) for tips in zip(*(c.tips(of.drawing) for c in long), strict=True)
    )
    pairs = [(0, 0), (0, 1), (1, 0), (1, 1)] if of.distance_step is not None else [(0, 0), (1, 1)]
    first = integers(derive(keys, 0), len(pairs))
    joined = integers(derive(keys, 1), 2) == 1
    dots = np.zeros((len(keys), 2, 2), dtype=np.int64)
    kept = np.zeros(len(keys), dtype=np.bool_)
    for number in range(len(pairs)):
        for choice, (i, j) in enumerate(pairs):
            same, different = (begins[i], ends[i]), (begins[j], ends[1 - j])
            fits = ~kept & ((first + number) % len(pairs) == choice)
            if of.distance_step is not None:
                fits &= _steps(same, of.distance_step) == _steps(different, of.distance_step)
            both = [np.stack(tips, axis=1) for tips in (different, same)]
            dots[fits] = np.where(joined[:, None, None], both[1], both[0])[fits]
            kept |= fits
    return dots, joined, kept


def _steps(dots: tuple[NDArray[np.int64], NDArray[np.int64]], step: float) -> NDArray[np.float64]:
    """The distance between dots in whole steps of so many pixels."""
    return np.sqrt(((dots[0] - dots[1]) ** 2).sum(axis=1)) // (step * SUBPIXELS)


def _short(canvas: Canvas, rows: NDArray[np.int64], keys: Keys, of: Pathfinder) -> Contours:
    """One distractor in each of some images, where it finds room."""
    trials = 24
    contour = Contours.seeded(rows, of.distractor_dashes, mark=8)
    draws = derive(derive(keys, 0)[:, None], np.arange(trials))
    sides = (of.drawing.height * SUBPIXELS, of.drawing.width * SUBPIXELS)
    place = np.stack([integers(derive(draws, i), side) for i, side in enumerate(sides)], axis=-1)
    contour.begin(canvas, place, integers(derive(draws, 2), DIRECTIONS))
    for dash in range(1, of.distractor_dashes):
        contour.extend(canvas, derive(keys, dash), dash)
    contour = contour.only(contour.alive)
    # Taken when it is complete: one that found no room leaves its place to the next.
    for dash in range(of.distractor_dashes):
        contour.put(canvas, dash, SETTLED)
    return contour

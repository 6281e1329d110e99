"""Pathfinder (Linsley et al. 2018) as in the Long Range Arena: are two dots joined by a path?

Every image has two long dashed contours and some short ones that distract. One dot marks an end of
one long contour; the other marks the other end of the same contour, or an end of the other one. In
both classes the dots' contours and their ink are drawn in the same way.
"""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from nas.compiler.interface import Label, Tokens
from nas.tasks.base import Profile, Split, Task, bins, lookup, majority
from nas.tasks.generate import Draw, generated
from nas.tasks.random_streams import Keys, derive, integers
from nas.tasks.snakes import (
    DIRECTIONS,
    SUBPIXELS,
    Canvas,
    Contours,
    Drawing,
    dash_stencils,
    dot_stencils,
    offsets,
    stamp,
)

VERSION = 1


@dataclass(frozen=True)
class Pathfinder:
    """The definition of a Pathfinder data set; lengths are in pixels.

    Args:
        drawing: How contours are drawn.
        dashes: Dashes of each of the two long contours.
        seed_distance: Distance between the first ends of the two long contours.
        seed_margin: Least distance of the first end of the first contour from the window's edges.
        distractors: Number of short contours that are tried.
        distractor_dashes: Dashes of each of them.
        distance_tolerance: Keep an image only where the dots' distance would differ by at most this
            were they joined or not; None: keep all, as the original does.
        dot: Radius of the dots.
        long_contrast: Brightness of the long contours, as a multiple of the pixels' coverage.
        short_contrast: Brightness of the distractors.
        version: Of the generator's code.
    """

    drawing: Drawing = field(default_factory=lambda: Drawing(32))
    dashes: int = 14
    seed_distance: float = 7.0
    seed_margin: float = 14.0
    distractors: int = 5
    distractor_dashes: int = 4
    distance_tolerance: float | None = None
    dot: float = 1.5
    long_contrast: float = 1.5
    short_contrast: float = 2.0
    version: int = VERSION


PAPER = Pathfinder()
SMALL = Pathfinder(
    drawing=Drawing(16, gap=0.5, clearance=1.5), dashes=4, seed_distance=5.0, seed_margin=3.0,
    distractors=1, distractor_dashes=2, distance_tolerance=2.0, dot=1.0,
)  # fmt: skip


def pathfinder(profile: Profile) -> Task:
    """The task of a profile."""
    small = profile == "small"
    of = SMALL if small else PAPER
    train, held_out = (20_000, 2_000) if small else (160_000, 20_000)
    sizes = (train, held_out, held_out)
    side = of.drawing.window
    return Task(
        name="lra/pathfinder",
        profile=profile,
        summary="are the two dots the ends of one dashed path? pixels as tokens",
        definition=(
            f"{side} x {side} pixels, paths of {of.dashes} dashes, {of.distractors} distractors of "
            f"{of.distractor_dashes}; {train}/{held_out}/{held_out} images"
        ),
        length=side * side,
        causal=False,
        inputs=Tokens(256),
        outputs=Label(2),
        batch_size=32,
        steps=400 if small else 500_000,
        source=lambda: generated(
            f"lra/pathfinder-{profile}", of, sizes, lambda keys: draw(keys, of)
        ),
        decode=lambda inputs, target: (
            f"{picture(inputs.reshape(side, side))}\n{'not joined' if target == 0 else 'joined'}"
        ),
        rules={"majority": majority, "ink": lookup(_ink)},
    )


def _ink(split: Split) -> NDArray[np.int64]:
    return bins(split.inputs.mean(axis=1), 0, 64)


def picture(image: NDArray) -> str:
    """An image as text, two rows of pixels a line."""
    shades = " .:-=+*#%@"
    return "\n".join(
        "".join(shades[int(level) * len(shades) // 256] for level in row) for row in image[::2]
    )


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


def draw(keys: Keys, of: Pathfinder) -> Draw:
    """One attempt at an image per key, as pixels `[N, H * W]` of 0..255 and labels `[N]`."""
    scene = compose(keys, of)
    labels = np.zeros(len(keys), dtype=np.uint8)
    labels[scene.kept] = scene.joined
    return Draw(render(scene, of).reshape(len(keys), -1), labels, scene.kept)


def compose(keys: Keys, of: Pathfinder) -> Scene:
    """Lay out one image per key: long contours, distractors, dots.

    Args:
        keys: `[N]` keys of the random streams.
        of: The definition.
    """
    canvas = Canvas(len(keys), of.drawing)
    long = _long(canvas, derive(keys, 0), of)
    coins = derive(keys, 1)[long[0].rows]
    joined = (coins & np.uint64(1)) == 1
    first = ((coins >> np.uint64(1)) & np.uint64(1)).astype(np.int64)
    tips = np.array([contour.tips(of.drawing) for contour in long])  # [contour, end, M, 2]
    every = np.arange(len(first))
    here, there, other = tips[first, 0, every], tips[first, 1, every], tips[1 - first, 1, every]
    dots = np.stack([here, np.where(joined[:, None], there, other)], axis=1)
    if of.distance_tolerance is not None:
        same, different = (np.hypot(*(here - end).T) for end in (there, other))
        alike = np.abs(same - different) <= of.distance_tolerance * SUBPIXELS
        long = long[0].only(alike), long[1].only(alike)
        dots, joined = dots[alike], joined[alike]
    rows = long[0].rows
    short = tuple(
        _short(canvas, rows, derive(keys[rows], 2 + i), of) for i in range(of.distractors)
    )
    kept = np.zeros(len(keys), dtype=np.bool_)
    kept[rows] = True
    return Scene(kept, long, short, dots, joined)


def render(scene: Scene, of: Pathfinder) -> NDArray[np.uint8]:
    """The pixels `[N, H, W]` of a scene; black where it was not kept."""
    window = of.drawing.window
    images = np.zeros((len(scene.kept), window, window), dtype=np.uint8)
    reach, shapes = dash_stencils(of.drawing)
    for contours, brightness in ((scene.long, of.long_contrast), (scene.short, of.short_contrast)):
        table = np.minimum(shapes * brightness + 0.5, 255).astype(np.uint8)
        for contour in contours:
            for start, direction in zip(
                contour.starts.swapaxes(0, 1), contour.directions.T, strict=True
            ):
                y, x = (start % SUBPIXELS).T
                stamp(images, contour.rows, start, reach, table[y, x, direction])
    reach, shapes = dot_stencils(of.dot)
    for point in scene.dots.swapaxes(0, 1):
        y, x = (point % SUBPIXELS).T
        stamp(images, scene.long[0].rows, point, reach, shapes[y, x])
    return images


def _long(canvas: Canvas, keys: Keys, of: Pathfinder) -> tuple[Contours, Contours]:
    """The two long contours, grown in turns so that neither has more room; None where one died."""
    drawing = of.drawing
    rows = np.arange(len(keys))
    low = round(of.seed_margin * SUBPIXELS)
    span = drawing.window * SUBPIXELS - 2 * low + 1
    place = np.stack([low + integers(derive(keys, i), span) for i in range(2)], axis=-1)
    around = offsets(of.seed_distance)[integers(derive(keys, 2), DIRECTIONS)]
    pair = Contours.seeded(rows, of.dashes), Contours.seeded(rows, of.dashes)
    for contour, start, number in ((pair[0], place, 3), (pair[1], place + around, 4)):
        directions = integers(derive(derive(keys, number)[:, None], np.arange(8)), DIRECTIONS)
        contour.begin(canvas, np.repeat(start[:, None], 8, axis=1), directions)
    for dash in range(1, of.dashes):
        alive = pair[0].alive & pair[1].alive
        pair = pair[0].only(alive), pair[1].only(alive)
        for which, contour in enumerate(pair):
            contour.extend(canvas, derive(keys[contour.rows], 4 + 2 * dash + which), dash)
            # Taken only now: neighbours in a contour may be closer than the clearance.
            contour.put(canvas, dash - 1)
    alive = pair[0].alive & pair[1].alive
    pair = pair[0].only(alive), pair[1].only(alive)
    for contour in pair:
        contour.put(canvas, of.dashes - 1)
    return pair


def _short(canvas: Canvas, rows: NDArray[np.int64], keys: Keys, of: Pathfinder) -> Contours:
    """One distractor in each of some images, where it finds room."""
    trials = 24
    contour = Contours.seeded(rows, of.distractor_dashes)
    draws = derive(derive(keys, 0)[:, None], np.arange(trials))
    side = of.drawing.window * SUBPIXELS
    place = np.stack([integers(derive(draws, i), side) for i in range(2)], axis=-1)
    contour.begin(canvas, place, integers(derive(draws, 2), DIRECTIONS))
    for dash in range(1, of.distractor_dashes):
        contour.extend(canvas, derive(keys, dash), dash)
    contour = contour.only(contour.alive)
    # Taken when it is complete: one that found no room leaves its place to the next.
    for dash in range(of.distractor_dashes):
        contour.put(canvas, dash)
    return contour

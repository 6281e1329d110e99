"""Pathfinder (Linsley et al. 2018) as in the Long Range Arena: are two dots joined by a path?

Every image has two long dashed contours and some short ones that distract. One dot marks an end of
one long contour; the other marks the other end of the same contour, or an end of the other one. In
both classes the dots' contours and their ink are drawn in the same way.

Knobs: the Arena has easier data, too, of contours of 6 and of 9 dashes instead of 14. Distractors
are a third as long, and as many as makes 20 dashes. With 6, the distance of the dots alone says
which in 63 of 100 images.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import reduce

import numpy as np
from numpy.typing import NDArray

from nas.compiler.interface import Label, Tokens
from nas.tasks.base import Profile, Split, Splits, Task, bins, lookup, majority
from nas.tasks.generate import Draw, generated
from nas.tasks.lra.scene import Pathfinder, Scene, compose
from nas.tasks.lra.setting import s4_setting
from nas.tasks.lra.snakes import SUBPIXELS, Drawing
from nas.tasks.lra.strokes import dash_stencils, dot_stencils, stamp
from nas.tasks.named import task
from nas.tasks.random_streams import Keys
from nas.tasks.setting import Setting

PAPER = Pathfinder()
SMALL = Pathfinder(
    drawing=Drawing(12, 6, padding=0.25, dash=2.0, gap=0.25, thickness=1.0, clearance=1.5),
    dashes=2,
    seed_distance=3.5,
    seed_margin=1.0,
    distractors=0,
    distance_step=0.25,
    dot=1.0,
    long_contrast=0.74,
    levels=4,
)
DASHES: dict[Profile, tuple[int, int]] = {"paper": (3, 14), "small": (2, 3)}
"""The fewest and the most of a long contour."""
_WIDEST = 64  # characters of a picture
_PIXELS = 2**20  # that are looked at together


@task("lra/pathfinder", "are two dots joined by a dashed path?")
def pathfinder(profile: Profile, *, dashes: int | None = None) -> Task:
    """The task of a profile.

    Args:
        profile: `paper` or `small`.
        dashes: Of each of the two long contours.

    Raises:
        ValueError: Next to no images have so many.
    """
    small = profile == "small"
    of = with_dashes(SMALL if small else PAPER, dashes, profile, 20)
    train, held_out = (12_000, 2_000) if small else (160_000, 20_000)
    sizes = (train, held_out, held_out)
    return of_images(
        "lra/pathfinder",
        profile,
        (of,),
        sizes,
        batch_size=32 if small else 64,
        steps=600 if small else 500_000,
        source=lambda: generated(
            f"lra/pathfinder-{profile}", of, sizes, lambda keys: draw(keys, of)
        ),
        setting=Setting() if small else s4_setting(rate=4e-3),
    )


def with_dashes(
    of: Pathfinder, dashes: int | None, profile: Profile, distracting: int
) -> Pathfinder:
    """A definition with other long contours and, where it has any, distractors a third as long.

    Args:
        of: The definition.
        dashes: Of each long contour; None: as the definition has.
        profile: The definition's.
        distracting: Dashes of all distractors together, at most.

    Raises:
        ValueError: Next to no images have so many.
    """
    if dashes is None:
        return of
    fewest, most = DASHES[profile]
    if not fewest <= dashes <= most:
        raise ValueError(f"dashes is {fewest} to {most}, not {dashes}")
    of = replace(of, dashes=dashes)
    if of.distractors:
        short = dashes // 3
        of = replace(of, distractor_dashes=short, distractors=distracting // short)
    return of


def of_images(
    name: str,
    profile: Profile,
    parts: tuple[Pathfinder, ...],
    sizes: tuple[int, int, int],
    *,
    batch_size: int,
    steps: int,
    source: Callable[[], Splits],
    setting: Setting,
) -> Task:
    """The task of a definition, or of several that differ in their gaps.

    Args:
        name: The task's.
        profile: `paper` or `small`.
        parts: The definitions: every image is of one of them.
        sizes: Number of training, validation and test images.
        batch_size: Images per step.
        steps: The full training budget.
        source: Makes the images.
        setting: How its publication trains on it.
    """
    of = parts[0]
    height, width = of.drawing.height, of.drawing.width
    gaps = " or ".join(f"{2 * part.drawing.gap:g}" for part in parts)
    paths = f"paths of {of.dashes} dashes{f' {gaps} apart' if len(parts) > 1 else ''}"
    distractors = "no distractors"
    if of.distractors:
        distractors = f"{of.distractors} distractors of {of.distractor_dashes}"
    return Task(
        name=name,
        profile=profile,
        summary="are the two dots the ends of one dashed path? pixels as tokens",
        definition=(
            f"{height} x {width} pixels of {of.levels} shades, {paths}, {distractors}; "
            f"{'/'.join(map(str, sizes))} images"
        ),
        length=height * width,
        causal=False,
        inputs=Tokens(of.levels),
        outputs=Label(2),
        batch_size=batch_size,
        steps=steps,
        source=source,
        decode=lambda inputs, target: (
            f"{picture(inputs.reshape(height, width) * (255 / (of.levels - 1)))}\n"
            f"= {('not joined', 'joined')[int(target)]}"
        ),
        rules={
            "majority": majority,
            "ink": lookup(lambda split: _ink(split, of.levels)),
            "distance of the dots": lookup(lambda split: _distance(split, of)),
        },
        setting=setting,
    )


def _ink(split: Split, levels: int) -> NDArray[np.int64]:
    # Most of an image is black: a quarter of the levels is more than any mean.
    return bins(split.inputs.mean(axis=1), 0, levels / 4, 256)


def _distance(split: Split, of: Pathfinder) -> NDArray[np.int64]:
    height, width = of.drawing.height, of.drawing.width
    images = split.inputs.reshape(-1, height, width)
    size = max(1, _PIXELS // (height * width))
    dots = np.concatenate(
        [find_dots(images[i : i + size], of.dot) for i in range(0, len(images), size)]
    )
    diagonal = np.hypot(height, width)
    return bins(np.hypot(*(dots[:, 0] - dots[:, 1]).T), 0, diagonal, round(diagonal))


def find_dots(images: NDArray, radius: float) -> NDArray[np.int64]:
    """The pixels `[N, 2, 2]` (y, x) that dots most likely have their centres in.

    Args:
        images: `[N, H, W]` shades.
        radius: Of the dots, in pixels; the two found are at least two radii apart.
    """
    count, height, width = images.shape
    around = max(1, int(radius))
    side = 2 * around + 1
    # Dots are brighter than dashes: the power makes more of that.
    brightness = (np.arange(int(images.max()) + 1) / max(1, images.max())) ** 3
    levels = np.zeros((count, height + 2 * around, width + 2 * around))
    levels[:, around:-around, around:-around] = brightness[images]
    rows = reduce(np.add, (levels[:, i : i + height] for i in range(side)))
    sums = reduce(np.add, (rows[:, :, i : i + width] for i in range(side)))
    first = np.stack(np.divmod(sums.reshape(count, -1).argmax(axis=1), width), axis=1)
    grid = np.stack(np.meshgrid(np.arange(height), np.arange(width), indexing="ij"))
    near = (np.abs(grid - first[:, :, None, None]) < 2 * radius).all(axis=1)
    rest = np.where(near, -1, sums).reshape(count, -1)
    return np.stack([first, np.stack(np.divmod(rest.argmax(axis=1), width), axis=1)], axis=1)


def picture(image: NDArray) -> str:
    """An image as text: the brightest of two rows of pixels a line, of a wide one of more."""
    shades = " .:-=+*#%@"
    pool = -(-image.shape[1] // _WIDEST)
    lines = np.maximum.reduceat(image, np.arange(0, image.shape[0], 2 * pool), axis=0)
    cells = np.maximum.reduceat(lines, np.arange(0, image.shape[1], pool), axis=1)
    return "\n".join(
        "".join(shades[int(level) * len(shades) // 256] for level in row) for row in cells
    )


def draw(keys: Keys, of: Pathfinder) -> Draw:
    """One attempt at an image per key, as shades `[N, H * W]` and labels `[N]`."""
    scene = compose(keys, of)
    labels = np.zeros(len(keys), dtype=np.uint8)
    labels[scene.kept] = scene.joined
    images = render(scene, of).reshape(len(keys), of.drawing.height * of.drawing.width)
    # One table look-up a pixel: as arithmetic in 16 bits it would take several times the memory.
    shades = (np.arange(256) * of.levels // 256).astype(np.uint8)
    return Draw(shades[images], labels, scene.kept)


def render(scene: Scene, of: Pathfinder) -> NDArray[np.uint8]:
    """The pixels `[N, H, W]` of a scene; black where it was not kept."""
    shape = (len(scene.kept), of.drawing.height, of.drawing.width)
    images = np.zeros(shape, dtype=np.uint8)
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

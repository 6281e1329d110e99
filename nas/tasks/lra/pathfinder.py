"""Pathfinder (Linsley et al. 2018) as in the Long Range Arena: are two dots joined by a path?

Every image has two long dashed contours and some short ones that distract. One dot marks an end of
one long contour; the other marks the other end of the same contour, or an end of the other one. In
both classes the dots' contours and their ink are drawn in the same way.
"""

import numpy as np
from numpy.typing import NDArray

from nas.compiler.interface import Label, Tokens
from nas.tasks.base import Profile, Split, Task, bins, lookup, majority
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


@task("lra/pathfinder", "are two dots joined by a dashed path?")
def pathfinder(profile: Profile) -> Task:
    """The task of a profile."""
    small = profile == "small"
    of = SMALL if small else PAPER
    train, held_out = (12_000, 2_000) if small else (160_000, 20_000)
    sizes = (train, held_out, held_out)
    height, width = of.drawing.height, of.drawing.width
    distractors = "no distractors"
    if of.distractors:
        distractors = f"{of.distractors} distractors of {of.distractor_dashes}"
    return Task(
        name="lra/pathfinder",
        profile=profile,
        summary="are the two dots the ends of one dashed path? pixels as tokens",
        definition=(
            f"{height} x {width} pixels of {of.levels} shades, paths of {of.dashes} dashes, "
            f"{distractors}; {train}/{held_out}/{held_out} images"
        ),
        length=height * width,
        causal=False,
        inputs=Tokens(of.levels),
        outputs=Label(2),
        batch_size=32 if small else 64,
        steps=600 if small else 500_000,
        source=lambda: generated(
            f"lra/pathfinder-{profile}", of, sizes, lambda keys: draw(keys, of)
        ),
        decode=lambda inputs, target: (
            f"{picture(inputs.reshape(height, width) * (255 / (of.levels - 1)))}\n"
            f"= {('not joined', 'joined')[int(target)]}"
        ),
        rules={
            "majority": majority,
            "ink": lookup(lambda split: _ink(split, of.levels)),
            "distance of the dots": lookup(lambda split: _distance(split, of)),
        },
        setting=Setting() if small else s4_setting(rate=4e-3),
    )


def _ink(split: Split, levels: int) -> NDArray[np.int64]:
    # Most of an image is black: a quarter of the levels is more than any mean.
    return bins(split.inputs.mean(axis=1), 0, levels / 4, 64)


def _distance(split: Split, of: Pathfinder) -> NDArray[np.int64]:
    drawing = of.drawing
    images = split.inputs.reshape(-1, drawing.height, drawing.width)
    dots = find_dots(images, of.dot)
    diagonal = np.hypot(drawing.height, drawing.width)
    return bins(np.hypot(*(dots[:, 0] - dots[:, 1]).T), 0, diagonal, round(diagonal))


def find_dots(images: NDArray, radius: float) -> NDArray[np.int64]:
    """The pixels `[N, 2, 2]` (y, x) that dots most likely have their centres in.

    Args:
        images: `[N, H, W]` shades.
        radius: Of the dots, in pixels; the two found are at least two radii apart.
    """
    count, height, width = images.shape
    # Dots are brighter than dashes: the power makes more of that.
    levels = np.zeros((count, height + 2, width + 2))
    levels[:, 1:-1, 1:-1] = (images / max(1, images.max())) ** 3
    rows = levels[:, :-2] + levels[:, 1:-1] + levels[:, 2:]
    sums = rows[:, :, :-2] + rows[:, :, 1:-1] + rows[:, :, 2:]
    first = np.stack(np.divmod(sums.reshape(count, -1).argmax(axis=1), width), axis=1)
    grid = np.stack(np.meshgrid(np.arange(height), np.arange(width), indexing="ij"))
    near = (np.abs(grid - first[:, :, None, None]) < 2 * radius).all(axis=1)
    rest = np.where(near, -1, sums).reshape(count, -1)
    return np.stack([first, np.stack(np.divmod(rest.argmax(axis=1), width), axis=1)], axis=1)


def picture(image: NDArray) -> str:
    """An image as text, two rows of pixels a line."""
    shades = " .:-=+*#%@"
    return "\n".join(
        "".join(shades[int(level) * len(shades) // 256] for level in row) for row in image[::2]
    )


def draw(keys: Keys, of: Pathfinder) -> Draw:
    """One attempt at an image per key, as shades `[N, H * W]` and labels `[N]`."""
    scene = compose(keys, of)
    labels = np.zeros(len(keys), dtype=np.uint8)
    labels[scene.kept] = scene.joined
    shades = render(scene, of).reshape(len(keys), -1).astype(np.uint16) * of.levels // 256
    return Draw(shades.astype(np.uint8), labels, scene.kept)


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

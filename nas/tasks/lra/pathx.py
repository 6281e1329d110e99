"""Path-X of the Long Range Arena: Pathfinder (Linsley et al. 2018) at 128 x 128, 16,384 tokens.

The gaps of an image have one of two lengths. Which one is drawn first, and kept until the contours
find room, as in the public code: they seldom do, and with wide gaps less often.

Source: the parameters are those that the Arena lists for its images of 128 x 128, the others the
public generator's own. There masks of whole pixels keep dashes apart; what they come to was
measured on images made by its steps: one gap from the padding, and two gaps from each other.

Knobs: as Pathfinder's, with distractors of 35 dashes together.
"""

import numpy as np

from nas.tasks.base import Profile, Task
from nas.tasks.generate import Draw, generated
from nas.tasks.lra import pathfinder
from nas.tasks.lra.scene import Pathfinder, with_room
from nas.tasks.lra.setting import s4_setting
from nas.tasks.lra.snakes import Drawing
from nas.tasks.named import task
from nas.tasks.random_streams import Keys, derive, integers
from nas.tasks.setting import Setting


def _published(gap: float) -> Pathfinder:
    drawing = Drawing(
        128, 128, padding=1 + gap, dash=5.0, gap=gap, thickness=1.5, clearance=2 * gap,
        continuity=1.8,
    )  # fmt: skip
    return Pathfinder(
        drawing=drawing,
        seed_distance=20.0,
        seed_margin=40 + gap,
        distractors=8,
        dot=3.0,
        long_contrast=0.9,
        short_contrast=0.9,
        tries=5,
    )


def _shorter(gap: float) -> Pathfinder:
    drawing = Drawing(
        16, 16, padding=0.25, dash=3.5, gap=gap, thickness=1.0, clearance=2.75, continuity=1.8
    )
    return Pathfinder(
        drawing=drawing,
        dashes=2,
        seed_distance=5.0,
        seed_margin=1.0,
        distractors=0,
        distance_step=0.25,
        dot=1.75,
        long_contrast=0.74,
        levels=4,
    )


PAPER = (_published(2.0), _published(3.0))
SMALL = (_shorter(0.25), _shorter(0.5))
_PIXELS = 2**22  # of the images that are made at once


@task("lra/pathx", "Pathfinder at 128 x 128: are two dots joined by a dashed path?")
def pathx(profile: Profile, *, dashes: int | None = None) -> Task:
    """The task of a profile.

    Args:
        profile: `paper` or `small`.
        dashes: Of each of the two long contours.

    Raises:
        ValueError: Next to no images have so many.
    """
    small = profile == "small"
    parts = tuple(
        pathfinder.with_dashes(part, dashes, profile, 35) for part in (SMALL if small else PAPER)
    )
    train, held_out = (12_000, 2_000) if small else (160_000, 20_000)
    sizes = (train, held_out, held_out)
    of = parts[0].drawing
    return pathfinder.of_images(
        "lra/pathx",
        profile,
        parts,
        sizes,
        batch_size=32 if small else 16,
        steps=600 if small else 500_000,
        source=lambda: generated(
            f"lra/pathx-{profile}",
            parts,
            sizes,
            lambda keys: draw(keys, parts),
            chunk=_PIXELS // (of.height * of.width),
        ),
        setting=Setting() if small else s4_setting(rate=1e-3),
    )


def draw(keys: Keys, parts: tuple[Pathfinder, ...]) -> Draw:
    """One image per key, of any of the definitions alike; none is rejected.

    Args:
        keys: `[N]` keys of the random streams.
        parts: Definitions of images of one size.
    """
    drawing = parts[0].drawing
    inputs = np.zeros((len(keys), drawing.height * drawing.width), dtype=np.uint8)
    labels = np.zeros(len(keys), dtype=np.uint8)
    which = integers(derive(keys, 0), len(parts))
    for number, part in enumerate(parts):
        rows = np.flatnonzero(which == number)
        drawn = pathfinder.draw(with_room(derive(keys[rows], 1), part), part)
        inputs[rows], labels[rows] = drawn.inputs, drawn.targets
    return Draw(inputs, labels, np.ones(len(keys), dtype=np.bool_))

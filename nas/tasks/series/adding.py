"""The adding problem (Hochreiter and Schmidhuber 1997), as Bai et al. 2018 pose it.

Every position holds a number of [0, 1) and a mark; two positions of the sequence are marked, and
the sum of their numbers is asked. Of all constants, 1 has the least squared error: 1/6, the sum's
variance (papers quote 0.1767 and 0.167). A validation split is ours: the original has none.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nas.compiler.interface import Features, Values
from nas.tasks.base import Profile, Split, Splits, Task, average
from nas.tasks.generate import Draw, generated
from nas.tasks.metrics import SQUARED_ERROR
from nas.tasks.named import task
from nas.tasks.random_streams import Keys, derive, distinct, integers

VERSION = 1
LENGTHS = (200, 400, 600)
"""T of the three published settings."""
_LEVELS = 2**24


@dataclass(frozen=True)
class Adding:
    """The definition of an adding data set.

    Args:
        length: T.
        version: Of the generator's code.
    """

    length: int
    version: int = VERSION

    def __post_init__(self) -> None:
        if self.length < 2:
            raise ValueError(f"two marks do not fit {self.length} positions: length is 2 or more")


SMALL = Adding(32)


@task("adding", "the sum of the two marked numbers")
def adding(profile: Profile, *, length: int | None = None) -> Task | tuple[Task, ...]:
    """The tasks of a profile: `paper` has one for each of the published lengths.

    Args:
        profile: `paper` or `small`.
        length: T: one task of this length.

    Raises:
        ValueError: Two marks do not fit the length.
    """
    if profile == "small" or length is not None:
        return _task(profile, Adding(SMALL.length if length is None else length))
    return tuple(_task(profile, Adding(length)) for length in LENGTHS)


def _task(profile: Profile, of: Adding) -> Task:
    small = profile == "small"
    sizes = (20_000, 1_000, 1_000) if small else (50_000, 1_000, 1_000)
    batch = 64 if small else 32
    return Task(
        name=f"adding/{of.length}",
        profile=profile,
        summary="the sum of the two marked numbers",
        definition=(
            f"{of.length} numbers uniform over [0, 1), two of them marked; "
            f"{'/'.join(map(str, sizes))} examples"
        ),
        length=of.length,
        causal=True,
        hidden_answers=True,
        inputs=Features(2),
        outputs=Values(1),
        batch_size=batch,
        steps=600 if small else 10 * sizes[0] // batch,
        source=lambda: generated(f"adding-{of.length}", of, sizes, lambda keys: draw(keys, of)),
        decode=decode,
        rules={"mean": average, "always 1": _one},
        metric=SQUARED_ERROR,
        difficulty=_distance,
    )


def draw(keys: Keys, of: Adding) -> Draw:
    """One sequence per key; none is rejected.

    Args:
        keys: `[N]` keys of the random streams.
        of: The definition.

    Returns:
        Numbers and marks `[N, T, 2]`, sums `[N, 1]`.
    """
    marked = distinct(derive(keys, 0), of.length, 2)
    levels = integers(derive(derive(keys, 1)[:, None], np.arange(of.length)), _LEVELS)
    inputs = np.zeros((len(keys), of.length, 2), dtype=np.float32)
    inputs[..., 0] = levels / _LEVELS
    np.put_along_axis(inputs[..., 1], marked, 1.0, axis=1)
    sums = np.take_along_axis(levels, marked, axis=1).sum(axis=1, keepdims=True) / _LEVELS
    return Draw(inputs, sums.astype(np.float32), np.ones(len(keys), dtype=np.bool_))


def decode(inputs: NDArray, targets: NDArray) -> str:
    """The marked numbers with their positions, and the sum."""
    marked = np.flatnonzero(inputs[:, 1])
    terms = " + ".join(f"{inputs[i, 0]:.4f}@{i}" for i in marked)
    return f"{len(inputs)} numbers; {terms} = {targets[0]:.4f}"


def _one(splits: Splits) -> float:
    return float(((splits["validation"].targets.astype(np.float64) - 1.0) ** 2).mean())


def _distance(split: Split) -> NDArray[np.int64]:
    """The distance of the two marks in tenths of the length, 0 .. 9."""
    order = np.argsort(-split.inputs[..., 1], axis=1, kind="stable")[:, :2]
    return np.abs(order[:, 1] - order[:, 0]) * 10 // split.inputs.shape[1]

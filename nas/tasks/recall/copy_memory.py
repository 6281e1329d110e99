"""Copy memory (Hochreiter and Schmidhuber 1997; Bai et al. 2018): digits, blanks, then the digits.

The distance to what must be repeated is fixed: a system whose transitions do not depend on the
token can solve it.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nas.compiler.interface import TokenLabels, Tokens
from nas.tasks.base import IGNORED, Profile, Task, majority
from nas.tasks.generate import Draw, generated
from nas.tasks.named import task
from nas.tasks.random_streams import Keys, derive, integers

VERSION = 1
BLANK, ASK = 0, 9
"""Digits are 1 .. 8."""


@dataclass(frozen=True)
class CopyMemory:
    """The definition of a copy memory data set.

    Args:
        blanks: T, positions between the digits and the first that asks for them.
        digits: Digits of a sequence.
        version: Of the generator's code.
    """

    blanks: int
    digits: int = 10
    version: int = VERSION

    def __post_init__(self) -> None:
        if self.digits < 1:
            raise ValueError(f"there is at least one digit, not {self.digits}")
        if self.blanks < 1:
            least = 2 * self.digits + 1
            raise ValueError(f"{self.digits} digits, a blank and answers take {least} positions")


SMALL = CopyMemory(8, digits=6)
PAPER = CopyMemory(1000)


@task("copy_memory", "repeat digits after many blanks")
def copy_memory(profile: Profile, *, length: int | None = None, digits: int | None = None) -> Task:
    """The task of a profile.

    Args:
        profile: `paper` (10 digits and 1000 blanks, of which none is scored) or `small` (6 and 8).
        length: Positions, instead: digits, blanks, and as many answers as digits.
        digits: Digits of a sequence.

    Raises:
        ValueError: There is no room for a blank.
    """
    small = profile == "small"
    of = SMALL if small else PAPER
    digits = of.digits if digits is None else digits
    of = CopyMemory(of.blanks if length is None else length - 2 * digits, digits)
    sizes = (20_000, 1_000, 1_000) if small else (10_000, 1_000, 1_000)
    return Task(
        name="copy_memory",
        profile=profile,
        summary="repeat digits after many blanks",
        definition=(
            f"{of.digits} of 8 digits, {of.blanks} blanks; {'/'.join(map(str, sizes))} examples"
        ),
        length=of.blanks + 2 * of.digits,
        causal=True,
        hidden_answers=True,
        inputs=Tokens(10),
        outputs=TokenLabels(10),
        batch_size=64,
        steps=600 if small else 50_000,
        source=lambda: generated(f"copy_memory-{profile}", of, sizes, lambda keys: draw(keys, of)),
        decode=decode,
        rules={"majority": majority},
    )


def draw(keys: Keys, of: CopyMemory) -> Draw:
    """One sequence per key; none is rejected.

    Args:
        keys: `[N]` keys of the random streams.
        of: The definition.

    Returns:
        Tokens and targets `[N, digits + blanks + digits]`; only the last `digits` are asked.
    """
    data = 1 + integers(derive(keys[:, None], np.arange(of.digits)), 8)
    inputs = np.full((len(keys), of.blanks + 2 * of.digits), BLANK, dtype=np.int16)
    inputs[:, : of.digits] = data
    inputs[:, -of.digits :] = ASK
    targets = np.full(inputs.shape, IGNORED, dtype=np.int16)
    targets[:, -of.digits :] = data
    return Draw(inputs, targets, np.ones(len(keys), dtype=np.bool_))


def decode(inputs: NDArray, targets: NDArray) -> str:
    """The digits, `.` for blanks, `?` for what is asked."""
    return "".join({BLANK: ".", ASK: "?"}.get(token, str(token)) for token in inputs.tolist())

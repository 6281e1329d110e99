"""Selective copying (Gu and Dao 2023, "Mamba", section 4.1): what to remember stands anywhere.

Some data tokens stand at random positions among blanks; at the end they are asked for in their
order. A system whose transitions do not depend on the token cannot tell data from blanks.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nas.compiler.interface import TokenLabels, Tokens
from nas.tasks.base import IGNORED, Profile, Splits, Task, majority
from nas.tasks.generate import Draw, generated
from nas.tasks.named import task
from nas.tasks.random_streams import Keys, derive, distinct, integers

VERSION = 1
BLANK, ASK = 0, 1
FIRST = 2
"""Tokens from here on are data."""


@dataclass(frozen=True)
class SelectiveCopying:
    """The definition of a selective copying data set.

    Args:
        length: Positions among which the data stand; `data` positions that ask for them follow.
        vocabulary: Different data tokens.
        data: Data tokens of a sequence.
        version: Of the generator's code.
    """

    length: int
    vocabulary: int
    data: int
    version: int = VERSION

    def __post_init__(self) -> None:
        if not 0 < self.data <= self.length:
            raise ValueError(
                f"{self.data} data tokens do not fit {self.length} positions (the length less the "
                "positions of the answers)"
            )
        if not 1 < self.vocabulary < 2**15 - FIRST:
            raise ValueError(f"there are at least 2 different data tokens, not {self.vocabulary}")


SMALL = SelectiveCopying(24, vocabulary=8, data=4)
PAPER = SelectiveCopying(4096, vocabulary=14, data=16)


@task("selective_copying", "repeat the data that stand among blanks")
def selective_copying(
    profile: Profile,
    *,
    length: int | None = None,
    data: int | None = None,
    vocabulary: int | None = None,
) -> Task:
    """The task of a profile.

    Args:
        profile: `paper` (16 of 14 symbols among 4096 positions) or `small` (4 of 8 among 24).
        length: Positions, instead, those of the answers included.
        data: Data tokens of a sequence.
        vocabulary: Different data tokens.

    Raises:
        ValueError: The data does not fit.
    """
    small = profile == "small"
    of = SMALL if small else PAPER
    data = of.data if data is None else data
    of = SelectiveCopying(
        of.length if length is None else length - data,
        of.vocabulary if vocabulary is None else vocabulary,
        data,
    )
    sizes = (20_000, 1_000, 1_000) if small else (100_000, 3_000, 3_000)
    tokens = FIRST + of.vocabulary
    return Task(
        name="selective_copying",
        profile=profile,
        summary="repeat the data that stand among blanks",
        definition=(
            f"{of.data} of {of.vocabulary} symbols at random places of {of.length}; "
            f"{'/'.join(map(str, sizes))} examples"
        ),
        length=of.length + of.data,
        causal=True,
        hidden_answers=True,
        inputs=Tokens(tokens),
        outputs=TokenLabels(tokens),
        batch_size=64,
        steps=600 if small else 400_000,
        source=lambda: generated(
            f"selective_copying-{profile}", of, sizes, lambda keys: draw(keys, of)
        ),
        decode=decode,
        rules={"majority": majority, "the last of the data": _last},
    )


def draw(keys: Keys, of: SelectiveCopying) -> Draw:
    """One sequence per key; none is rejected.

    Args:
        keys: `[N]` keys of the random streams.
        of: The definition.

    Returns:
        Tokens and targets `[N, length + data]`; only the last `data` positions are asked.
    """
    places = np.sort(distinct(derive(keys, 0), of.length, of.data), axis=1)
    data = FIRST + integers(derive(derive(keys, 1)[:, None], np.arange(of.data)), of.vocabulary)
    inputs = np.full((len(keys), of.length + of.data), BLANK, dtype=np.int16)
    np.put_along_axis(inputs, places, data.astype(np.int16), axis=1)
    inputs[:, of.length :] = ASK
    targets = np.full(inputs.shape, IGNORED, dtype=np.int16)
    targets[:, of.length :] = data
    return Draw(inputs, targets, np.ones(len(keys), dtype=np.bool_))


def decode(inputs: NDArray, targets: NDArray) -> str:
    """The data as numbers among `.`, then `?` for each that is asked, and the answers."""
    signs = {BLANK: ".", ASK: "?"}
    shown = " ".join(signs.get(token, str(token)) for token in inputs.tolist())
    return f"{shown} -> {' '.join(str(t) for t in targets.tolist() if t != IGNORED)}"


def _last(splits: Splits) -> float:
    """Say the last datum every time."""
    split = splits["validation"]
    asked = split.targets[:, split.targets[0] != IGNORED]
    return float((asked == asked[:, -1:]).mean())

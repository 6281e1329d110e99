"""Copying a string (Jelassi et al. 2024, "Repeat After Me"): `$x|x.`, the second x is asked.

What a model of fixed state can copy is bounded by the size of the state; a Transformer's is not.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nas.compiler.interface import TokenLabels, Tokens
from nas.tasks.base import IGNORED, Profile, Splits, Task, majority
from nas.tasks.generate import Draw, generated
from nas.tasks.named import task
from nas.tasks.random_streams import Keys, derive, integers

VERSION = 1
BEGIN, SEPARATOR, END, PAD = 0, 1, 2, 3
LETTERS = 4
"""Tokens from here on are letters."""


@dataclass(frozen=True)
class Copying:
    """The definition of a copying data set.

    Args:
        length: L; every row holds as many strings as fit.
        letters: Size of the alphabet.
        shortest: Letters of the shortest string.
        longest: Letters of the longest string; lengths are uniform between the two.
        version: Of the generator's code.
    """

    length: int
    letters: int = 26
    shortest: int = 5
    longest: int = 20
    version: int = VERSION

    def __post_init__(self) -> None:
        if not 0 < self.shortest <= self.longest:
            raise ValueError(f"no string has {self.shortest} to {self.longest} letters")
        if 2 * self.longest + 3 > self.length:
            raise ValueError(
                f"a string of {self.longest} letters and its copy take {2 * self.longest + 3} "
                f"positions, more than {self.length}"
            )


SMALL = Copying(44, letters=26)
PAPER = Copying(220)


@task("copying", "repeat a string after its end")
def copying(
    profile: Profile,
    *,
    length: int | None = None,
    shortest: int | None = None,
    longest: int | None = None,
) -> Task:
    """The task of a profile: one string a row in `small`, a context of 220 in `paper`.

    Args:
        profile: `paper` or `small`.
        length: L, instead.
        shortest: Letters of the shortest string: by default 5; where `length` is longer than the
            profile's, its longest.
        longest: Letters of the longest string: by default 20; where `length` is longer than the
            profile's, the most that fits, so that longer strings are asked than were trained.

    Raises:
        ValueError: The longest string does not fit.
    """
    small = profile == "small"
    of = SMALL if small else PAPER
    longer = length is not None and length > of.length
    length = of.length if length is None else length
    of = Copying(
        length,
        of.letters,
        shortest or (of.longest if longer else of.shortest),
        longest or ((length - 3) // 2 if longer else of.longest),
    )
    sizes = (20_000, 1_000, 1_000) if small else (200_000, 3_000, 3_000)
    vocabulary = LETTERS + of.letters
    return Task(
        name="copying",
        profile=profile,
        summary="repeat a string after its end",
        definition=(
            f"strings of {of.shortest} to {of.longest} of {of.letters} letters in "
            f"{of.length} tokens; {'/'.join(map(str, sizes))} examples"
        ),
        length=of.length,
        causal=True,
        inputs=Tokens(vocabulary),
        outputs=TokenLabels(vocabulary),
        batch_size=64,
        steps=600 if small else 10 * sizes[0] // 64,
        source=lambda: generated(f"copying-{profile}", of, sizes, lambda keys: draw(keys, of)),
        decode=decode,
        rules={"majority": majority, "the letter before": _same},
    )


def draw(keys: Keys, of: Copying) -> Draw:
    """One row per key; none is rejected.

    Args:
        keys: `[N]` keys of the random streams.
        of: The definition.

    Returns:
        Tokens and targets `[N, L]`; a target is the next token, from the separator to the last
        letter, and -100 elsewhere.
    """
    count, length = len(keys), of.length
    inputs = np.full((count, length + 1), PAD, dtype=np.int16)
    asked = np.zeros((count, length + 1), dtype=np.bool_)
    start = np.zeros(count, dtype=np.int64)
    rows = np.arange(count)
    most = length // (2 * of.shortest + 3) + 1
    for number in range(most):
        stream = derive(keys, number)
        letters = of.shortest + integers(derive(stream, 0), of.longest - of.shortest + 1)
        text = LETTERS + integers(
            derive(derive(stream, 1)[:, None], np.arange(of.longest)), of.letters
        )
        fits = start + 2 * letters + 3 <= length
        for i in range(of.longest):
            here = rows[fits & (i < letters)]
            inputs[here, start[here] + 1 + i] = text[here, i]
            inputs[here, start[here] + letters[here] + 2 + i] = text[here, i]
            asked[here, start[here] + letters[here] + 1 + i] = True
        here = rows[fits]
        inputs[here, start[here]] = BEGIN
        inputs[here, start[here] + letters[here] + 1] = SEPARATOR
        inputs[here, start[here] + 2 * letters[here] + 2] = END
        asked[here, start[here] + 2 * letters[here] + 1] = True
        start = np.where(fits, start + 2 * letters + 3, length)
    targets = np.where(asked[:, :-1], inputs[:, 1:], IGNORED).astype(np.int16)
    return Draw(inputs[:, :-1], targets, np.ones(count, dtype=np.bool_))


def decode(inputs: NDArray, targets: NDArray) -> str:
    """The row as text: `$` begins a string, `|` asks for it, `.` ends it, `_` fills up."""
    signs = "$|._" + "".join(chr(ord("a") + i) for i in range(26))
    return "".join(signs[token] if token < len(signs) else "?" for token in inputs.tolist())


def _same(splits: Splits) -> float:
    """Say the token that stands at the position."""
    split = splits["validation"]
    asked = split.targets != IGNORED
    return float((split.inputs == split.targets)[asked].mean())

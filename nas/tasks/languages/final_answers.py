"""Words of varying lengths whose answer is asked at their end: modular arithmetic and parity.

The tasks are those of Deletang et al. 2023, "Neural Networks and the Chomsky Hierarchy", in the
form of the xLSTM's public code (Beck et al. 2024), which Grazzi et al. 2024 use, too: words of 3 to
40 symbols in training, of 40 to 256 in a test of longer ones. A word's length counts the place
where its answer stands. Modular arithmetic: numbers with + - * between them, products before sums,
then =, at which the answer is asked; its lengths are odd, so that 40 is 39. Parity: bits, of which
the last is where the parity of them all is asked; nothing else tells that the word ends there.

Unlike the original, training and held-out words are disjoint, so that held-out ones are rarely
very short; lengths that were not trained are asked apart (`length=256`), instead of being what
training is steered by; and answers are classes of their own rather than tokens. In the small
profile numbers are counted modulo 3, as a minute is too short to learn them modulo 5.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nas.compiler.interface import TokenLabels, Tokens
from nas.tasks.base import IGNORED, Profile, Split, Splits, Task, lookup, majority
from nas.tasks.generate import Draw, generated
from nas.tasks.named import task
from nas.tasks.random_streams import Keys, derive, integers
from nas.tasks.setting import Setting

VERSION = 1
PUBLISHED = Setting(source="xLSTM (Beck et al. 2024)", depth=2, widths=(128,))
SHORTEST = 3
TRAINED = {"paper": 40, "small": 20}
"""The longest words of each profile; where longer ones are asked, they are the shortest, too."""
EASIER = 12
"""The longest words of modular arithmetic in the small profile, which counts modulo 3."""
SIGNS = "_+-*="
"""The first tokens of modular arithmetic, of which 0 fills up; then come the numbers."""
PLUS, MINUS, TIMES, EQUALS = range(1, 5)


@dataclass(frozen=True)
class Words:
    """The definition of a data set.

    Args:
        length: L: the longest word, with the place of its answer, which stays empty.
        shortest: The shortest word.
        modulus: Numbers are 0 .. modulus - 1; 2 for parity.
        signs: Whether there are + - * between numbers and = at the end: modular arithmetic.
        version: Of the generator's code.
    """

    length: int
    shortest: int
    modulus: int
    signs: bool
    version: int = VERSION

    def __post_init__(self) -> None:
        if not SHORTEST <= self.shortest <= self.length:
            raise ValueError(
                f"words have {SHORTEST} symbols or more and at most length={self.length}, "
                f"not {self.shortest}"
            )
        if not 2 <= self.modulus <= 100:
            raise ValueError(f"the modulus is 2 to 100, not {self.modulus}")

    @property
    def first(self) -> int:
        """The token of the number 0."""
        return len(SIGNS) if self.signs else 1


@task("modular_arithmetic", "the value of sums of products modulo 5, asked at their end")
def modular_arithmetic(
    profile: Profile,
    *,
    length: int | None = None,
    shortest: int | None = None,
    modulus: int | None = None,
) -> Task:
    """Expressions such as 1+2*3-4= of varying lengths.

    Args:
        profile: `paper` (3 to 40 symbols, modulo 5) or `small` (3 to 12, modulo 3).
        length: The longest word, instead.
        shortest: The shortest: by default 3, or where `length` is longer than the profile's
            words, those: `length=256` asks words of 40 to 256.
        modulus: Numbers are 0 .. modulus - 1.

    Raises:
        ValueError: No word is as short or as long, or the modulus is impossible.
    """
    small = profile == "small"
    if modulus is None:
        modulus = 3 if small else 5
    trained = EASIER if small else TRAINED[profile]
    of = _words(trained, length, shortest, modulus, signs=True)
    return _task("modular_arithmetic", profile, of, f"the value of an expression modulo {modulus}")


@task("parity/last", "the parity of a word of bits, asked at its end alone")
def last_parity(
    profile: Profile, *, length: int | None = None, shortest: int | None = None
) -> Task:
    """Words of bits of varying lengths; the parity is asked once, at the last bit.

    Args:
        profile: `paper` (3 to 40 symbols) or `small` (3 to 20).
        length: The longest word, instead.
        shortest: The shortest: by default 3, or where `length` is longer than the profile's
            words, those: `length=256` asks words of 40 to 256.

    Raises:
        ValueError: No word is as short or as long.
    """
    of = _words(TRAINED[profile], length, shortest, 2, signs=False)
    return _task("parity/last", profile, of, "the parity of all bits, asked at the last one")


def _words(
    trained: int, length: int | None, shortest: int | None, modulus: int, signs: bool
) -> Words:
    length = trained if length is None else length
    if shortest is None:
        shortest = trained if length > trained else SHORTEST
    return Words(length, shortest, modulus, signs)


def _task(name: str, profile: Profile, of: Words, summary: str) -> Task:
    small = profile == "small"
    sizes = (40_000, 1_000, 1_000) if small else (5_120_000, 8_192, 8_192)
    rules = {
        "majority": majority,
        "the word's length": _knowing(_lengths),
        "the first number": _knowing(lambda split: split.inputs[:, 0].astype(np.int64)),
        "the last number": _knowing(lambda split: _last(split, of)),
    }
    return Task(
        name=name,
        profile=profile,
        summary=summary,
        definition=(
            f"words of {of.shortest} to {of.length} symbols with the answer, all lengths alike; "
            f"{'/'.join(map(str, sizes))} examples"
        ),
        length=of.length,
        causal=True,
        hidden_answers=True,
        inputs=Tokens(of.first + of.modulus),
        outputs=TokenLabels(of.modulus),
        batch_size=64 if small else 256,
        steps=1_500 if small else 20_000,
        source=lambda: generated(
            f"{name}-{profile}", of, sizes, lambda keys: draw(keys, of), repeats=True
        ),
        decode=lambda inputs, targets: decode(inputs, targets, of),
        rules=rules,
        setting=Setting() if small else PUBLISHED,
        difficulty=_lengths,
    )


def draw(keys: Keys, of: Words) -> Draw:
    """One word per key; none is rejected.

    Args:
        keys: `[N]` keys of the random streams.
        of: The definition.

    Returns:
        Tokens `[N, L]`, the answer at each word's last position, -100 elsewhere, and `[N]` words'
        lengths without the place of the answer.
    """
    draws = derive(keys[:, None], np.arange(of.length + 1))
    if of.signs:
        half = integers(draws[:, 0], (of.length + 1) // 2 - (of.shortest + 1) // 2 + 1)
        lengths = 2 * (half + (of.shortest + 1) // 2) - 2
    else:
        lengths = integers(draws[:, 0], of.length - of.shortest + 1) + of.shortest - 1
    words = integers(draws[:, 1:], of.modulus)
    inputs = words + of.first
    if of.signs:
        inputs[:, 1::2] = PLUS + integers(draws[:, 2::2], 3)
        np.put_along_axis(inputs, lengths[:, None] - 1, EQUALS, axis=1)
    values = _values(words, inputs, of)
    end = np.arange(of.length) == lengths[:, None] - 1
    targets = np.where(end, values, IGNORED).astype(np.int8)
    inputs[np.arange(of.length) >= lengths[:, None]] = 0
    return Draw(
        inputs.astype(np.int8),
        targets,
        np.ones(len(keys), dtype=np.bool_),
        lengths.astype(np.int16),
    )


def _values(words: NDArray[np.int64], inputs: NDArray[np.int64], of: Words) -> NDArray[np.int64]:
    """The value of the word that ends at each position, `[N, L]`."""
    if not of.signs:
        return np.cumsum(words, axis=1) % of.modulus
    values = np.zeros_like(words)
    total, product = np.zeros_like(words[:, 0]), words[:, 0]
    for t in range(1, of.length, 2):
        values[:, t] = (total + product) % of.modulus
        if t + 1 < of.length:
            sign, number = inputs[:, t], words[:, t + 1]
            times = sign == TIMES
            total = np.where(times, total, (total + product) % of.modulus)
            signed = np.where(sign == MINUS, -number, number)
            product = np.where(times, product * number % of.modulus, signed)
    return values


def decode(inputs: NDArray, targets: NDArray, of: Words) -> str:
    """The word and its answer."""
    end = int(np.flatnonzero(targets != IGNORED)[0])
    word = inputs[: end + 1].tolist()
    if not of.signs:
        return f"{' '.join(str(token - of.first) for token in word)} -> {targets[end]}"
    return " ".join(SIGNS[t] if t < of.first else str(t - of.first) for t in word) + (
        f" {targets[end]} (modulo {of.modulus})"
    )


def _lengths(split: Split) -> NDArray[np.int64]:
    """`[N]` symbols of each word with its answer."""
    assert split.lengths is not None
    return split.lengths.astype(np.int64) + 1


def _last(split: Split, of: Words) -> NDArray[np.int64]:
    at = _lengths(split) - (3 if of.signs else 2)
    return np.take_along_axis(split.inputs, at[:, None], axis=1)[:, 0].astype(np.int64)


def _knowing(feature: Callable[[Split], NDArray[np.int64]]) -> Callable[[Splits], float]:
    """What knowing one integer of a word is worth."""
    rule = lookup(feature)

    def accuracy(splits: Splits) -> float:
        return rule({name: _asked_once(split) for name, split in splits.items()})

    return accuracy


def _asked_once(split: Split) -> Split:
    answers = split.targets.max(axis=1).astype(np.int64)  # all others are -100
    return Split(split.inputs, answers, split.lengths)

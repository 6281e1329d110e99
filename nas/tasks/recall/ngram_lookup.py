"""Look-up of an n-gram in a string (Jelassi et al. 2024, "Repeat After Me"): what comes behind it?

The two variants of their public code. With the prefix key the n-gram stands before the string,
`$key|string|answer.`, so that a model knows what to keep; with the suffix key it stands behind,
`$string|key answer.`, and the whole string must be kept. The answer is what follows the n-gram in
the string: all of it, or its first letters. Strings have 5 to 20 letters, as for `copying`, and a
row of the `paper` profile holds as many as fit; nothing forbids that a key occurs in another string
of its row. Beyond the profile's `length` strings grow with the row, and all are longer than half of
the longest, so that at twice the trained length all are longer than those trained on.

Quirks of the original that are not copied: there the key may occur twice in its string (the first
is meant), the last n-grams of a string are never asked, and a string that does not fit is cut off.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nas.compiler.interface import TokenLabels, Tokens
from nas.tasks.base import IGNORED, Profile, Splits, Task, majority
from nas.tasks.generate import Draw, generated
from nas.tasks.named import task
from nas.tasks.random_streams import Keys, derive, integers
from nas.tasks.recall.copying import BEGIN, END, LETTERS, PAD, SEPARATOR, decode

VERSION = 1
LARGEST_N = 12
LENGTHS = (16, 8192)


@dataclass(frozen=True)
class Lookup:
    """The definition of a look-up data set.

    Args:
        length: L; every row holds as many strings as fit.
        suffix: Whether the key stands behind the string.
        n: Letters of the key.
        answer: Letters that are asked; 0: all behind the key.
        letters: Size of the alphabet.
        shortest: Letters of the shortest string.
        longest: Letters of the longest string; lengths are uniform between the two.
        version: Of the generator's code.
    """

    length: int
    suffix: bool
    n: int = 3
    answer: int = 0
    letters: int = 26
    shortest: int = 5
    longest: int = 20
    version: int = VERSION

    def __post_init__(self) -> None:
        if not 1 <= self.n <= LARGEST_N:
            raise ValueError(f"n is 1 to {LARGEST_N} letters, not {self.n}")
        if self.answer < 0:
            raise ValueError(f"answer is a number of letters, or 0 for all, not {self.answer}")
        need = self.n + max(1, self.answer)
        if need > self.shortest:
            raise ValueError(
                f"strings of {self.shortest} letters have no key of {self.n} with "
                f"{max(1, self.answer)} behind it: choose a smaller n or answer, or a larger length"
            )
        if self.longest * (1 - self.letters**-self.n) ** (self.longest - 1) < 0.5:
            raise ValueError(
                f"few strings of {self.longest} letters have a key of {self.n} that occurs once: "
                "choose a larger n or a smaller length"
            )

    @property
    def widest(self) -> int:
        """Tokens of the longest string with its key and its answer."""
        return 4 + self.n + self.longest + (self.answer or self.longest - self.n)


SMALL, PAPER = 44, 220


@task("ngram_lookup/prefix", "what comes behind an n-gram that was named before the string")
def prefix(profile: Profile, *, length: int | None = None, n: int = 3, answer: int = 0) -> Task:
    """The key stands before the string.

    Args:
        profile: `paper` (rows of 220) or `small` (44, one string).
        length: L, instead; strings grow with it.
        n: Letters of the key.
        answer: Letters that are asked; 0: all behind the key.

    Raises:
        ValueError: The shortest string is too short for the key and the answer.
    """
    return _task("prefix", profile, length, n, answer)


@task("ngram_lookup/suffix", "what comes behind an n-gram that is named after the string")
def suffix(profile: Profile, *, length: int | None = None, n: int = 3, answer: int = 0) -> Task:
    """The key stands behind the string; see `prefix`."""
    return _task("suffix", profile, length, n, answer)


def definition(profile: Profile, variant: str, length: int | None, n: int, answer: int) -> Lookup:
    """What the data depends on."""
    base = SMALL if profile == "small" else PAPER
    shortest, longest = 5, 20
    if length not in (None, base):
        if not LENGTHS[0] <= length <= LENGTHS[1]:
            raise ValueError(f"length is {LENGTHS[0]} to {LENGTHS[1]} tokens, not {length}")
        longest = min(longest * max(length, base) // base, (length - 4) // 2)
        shortest = longest // 2 + 1 if length > base else min(shortest, longest)
    return Lookup(
        base if length is None else length, variant == "suffix", n, answer, 26, shortest, longest
    )


def _task(variant: str, profile: Profile, length: int | None, n: int, answer: int) -> Task:
    small = profile == "small"
    of = definition(profile, variant, length, n, answer)
    sizes = (20_000, 1_000, 1_000) if small else (200_000, 3_000, 3_000)
    vocabulary = LETTERS + of.letters
    name = f"ngram_lookup/{variant}"
    asked = f"the {answer} letters" if answer else "all letters"
    return Task(
        name=name,
        profile=profile,
        summary=f"say what comes behind an n-gram named {'after' if of.suffix else 'before'} it",
        definition=(
            f"{asked} behind {n}-grams of strings of {of.shortest} to {of.longest} of {of.letters} "
            f"letters, in {of.length} tokens; {'/'.join(map(str, sizes))} examples"
        ),
        length=of.length,
        causal=True,
        inputs=Tokens(vocabulary),
        outputs=TokenLabels(vocabulary),
        batch_size=64,
        steps=600 if small else 10 * sizes[0] // 64,
        source=lambda: generated(f"{name}-{profile}", of, sizes, lambda keys: draw(keys, of)),
        decode=decode,
        rules={
            "majority": majority,
            "the letter before": _same,
            "what followed the letter before": _followed,
        },
    )


def draw(keys: Keys, of: Lookup) -> Draw:
    """One row per key, kept unless a string of it has no n-gram that occurs once.

    Args:
        keys: `[N]` keys of the random streams.
        of: The definition.

    Returns:
        Tokens and targets `[N, L]`; a target is the next token, from the end of the question to the
        last letter of the answer, and -100 elsewhere.
    """
    count, length = len(keys), of.length
    inputs = np.full((count, length + 1), PAD, dtype=np.int16)
    asked = np.zeros((count, length + 1), dtype=np.bool_)
    start, kept = np.zeros(count, dtype=np.int64), np.ones(count, dtype=np.bool_)
    least = 3 + of.n + of.shortest + max(1, of.answer)
    for number in range(length // least):
        tokens, first, whole, found = _string(derive(keys, number), of)
        fits = start + whole <= length
        kept &= found | ~fits
        place = np.arange(tokens.shape[1])
        rows, columns = np.nonzero(fits[:, None] & (place < whole[:, None]))
        inputs[rows, start[rows] + columns] = tokens[rows, columns]
        # The token before an answer's, where it is asked.
        asked[rows, start[rows] + columns - 1] |= columns >= first[rows]
        start = np.where(fits, start + whole, length)
    targets = np.where(asked[:, :-1], inputs[:, 1:], IGNORED).astype(np.int16)
    return Draw(inputs[:, :-1], targets, kept)


def _string(
    keys: Keys, of: Lookup
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64], NDArray[np.bool_]]:
    """One string per key, with its question and its answer.

    Returns:
        Tokens `[N, widest]`, the place of the answer, how many tokens there are, and whether there
        is an n-gram to ask for.
    """
    letters = of.shortest + integers(derive(keys, 0), of.longest - of.shortest + 1)
    text = integers(derive(derive(keys, 1)[:, None], np.arange(of.longest)), of.letters)
    key, found = _unique(derive(keys, 2), text, letters, of)
    answer = np.full_like(key, of.answer) if of.answer else letters - key - of.n
    sign = np.ones_like(key)
    parts = [  # length, first letter or none, sign
        (sign, None, BEGIN),
        *(() if of.suffix else ((sign * of.n, key, 0), (sign, None, SEPARATOR))),
        (letters, 0 * key, 0),
        (sign, None, SEPARATOR),
        *(((sign * of.n, key, 0),) if of.suffix else ()),
        (answer, key + of.n, 0),
        (sign, None, END),
    ]
    place = np.arange(of.widest)
    tokens = np.full((len(keys), of.widest), PAD, dtype=np.int64)
    end = np.zeros_like(key)
    for length, begin, mark in parts:
        here = (place >= end[:, None]) & (place < (end + length)[:, None])
        if begin is None:
            tokens[here] = mark
        else:
            source = np.clip(place - end[:, None] + begin[:, None], 0, of.longest - 1)
            tokens[here] = LETTERS + np.take_along_axis(text, source, axis=1)[here]
        end = end + length
    return tokens, end - answer - 1, end, found


def _unique(
    keys: Keys, text: NDArray[np.int64], letters: NDArray[np.int64], of: Lookup
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Where a uniform one of the n-grams that occur once starts, and whether there is any."""
    starts = np.arange(of.longest - of.n + 1)
    grams = sum(text[:, i : i + len(starts)] * of.letters**i for i in range(of.n))
    inside = starts <= (letters - of.n)[:, None]
    grams = np.where(inside, grams, -1 - starts)  # what is behind the end equals nothing
    order = np.argsort(grams, axis=1, kind="stable")
    same = np.diff(np.take_along_axis(grams, order, axis=1), axis=1) == 0
    edge = np.zeros((len(text), 1), dtype=np.bool_)
    again = np.empty_like(inside)
    np.put_along_axis(again, order, np.hstack([same, edge]) | np.hstack([edge, same]), axis=1)
    allowed = ~again & (starts <= (letters - of.n - max(1, of.answer))[:, None])
    total = allowed.sum(axis=1)
    which = integers(keys, total)
    return (np.cumsum(allowed, axis=1) > which[:, None]).argmax(axis=1), total > 0


def _same(splits: Splits) -> float:
    """Say the token that stands at the position."""
    split = splits["validation"]
    asked = split.targets != IGNORED
    return float((split.inputs == split.targets)[asked].mean())


def _followed(splits: Splits) -> float:
    """Say what followed the token at the position when it stood there last: a key of one letter."""
    split = splits["validation"]
    rows, places = np.nonzero(split.targets != IGNORED)
    earlier = np.arange(split.inputs.shape[1]) < places[:, None]
    same = earlier & (split.inputs[rows] == split.inputs[rows, places][:, None])
    last = same.shape[1] - 1 - same[:, ::-1].argmax(axis=1)
    said = np.where(same.any(axis=1), split.inputs[rows, np.minimum(last, places - 1) + 1], PAD)
    return float((said == split.targets[rows, places]).mean())

"""Word problems of finite groups: state tracking (Liu et al. 2023; Merrill et al. 2024).

The input is a word of group elements, the label at each position the product of the elements so
far. Parity is the word problem of the group with two elements. A scan whose transitions are
diagonal and positive cannot solve it at every length (Grazzi et al. 2024, "Unlocking
State-Tracking in Linear RNNs Through Negative Eigenvalues"). S3 is the smallest group whose
elements do not commute; Z60 has as many elements as A5, but they commute. Elements have the numbers
of Merrill et al.'s files, and products their direction.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from itertools import permutations

import numpy as np
from numpy.typing import NDArray

from nas.compiler.interface import TokenLabels, Tokens
from nas.tasks.base import Profile, Splits, Task, majority
from nas.tasks.generate import Draw, generated
from nas.tasks.named import task
from nas.tasks.random_streams import Keys, derive, integers
from nas.tasks.recipe import Recipe
from nas.tasks.setting import Setting

VERSION = 1
PUBLISHED = Setting(
    source="DeltaProduct (Siems et al. 2025), which measures at 512, too: --eval-length 4x",
    depth=1,
    widths=(128,),
    recipe=Recipe(learning_rate=1e-3),
)


@dataclass(frozen=True)
class Words:
    """The definition of a word problem's data set.

    Args:
        group: One of `GROUPS`; `z2` is parity.
        length: L, elements of a word.
        version: Of the generator's code.
    """

    group: str
    length: int
    version: int = VERSION

    def __post_init__(self) -> None:
        if self.length < 1:
            raise ValueError(f"a word has an element or more, not {self.length}")


GROUPS: Mapping[str, Callable[[], NDArray[np.int64]]] = {
    "z2": lambda: np.array([[0, 1], [1, 0]]),
    "z60": lambda: np.add.outer(np.arange(60), np.arange(60)) % 60,
    "s3": lambda: _table(list(permutations(range(3)))),
    "a5": lambda: _table([p for p in permutations(range(5)) if _is_even(p)]),
    "s5": lambda: _table(list(permutations(range(5)))),
}
"""The multiplication table of each group, `[G, G]`: `table[g, h]` is h done to what g made."""


@cache
def multiplication(group: str) -> NDArray[np.int64]:
    """The multiplication table `[G, G]` of a group; element 0 is the identity."""
    return GROUPS[group]()


@task("parity", "the parity of the bits so far")
def parity(profile: Profile, *, length: int | None = None) -> Task:
    """The parity of the bits so far.

    Args:
        profile: `paper` (128 elements) or `small` (40).
        length: Elements of a word, instead.
    """
    return _task("parity", profile, "z2", length, "the parity of the bits so far")


@task("s3", "state tracking: products of permutations of 3")
def s3(profile: Profile, *, length: int | None = None) -> Task:
    """The word problem of the 6 permutations of three things.

    Args:
        profile: `paper` (128 elements) or `small` (40).
        length: Elements of a word, instead.
    """
    return _task("s3", profile, "s3", length, "which permutation of 3 the word makes so far")


@task("z60", "state tracking: sums modulo 60")
def z60(profile: Profile, *, length: int | None = None) -> Task:
    """The word problem of the numbers modulo 60 under addition.

    Args:
        profile: `paper` (128 elements) or `small` (40).
        length: Elements of a word, instead.
    """
    return _task("z60", profile, "z60", length, "the sum of the numbers so far, modulo 60")


@task("a5", "state tracking: products of even permutations of 5")
def a5(profile: Profile, *, length: int | None = None) -> Task:
    """The word problem of the 60 even permutations of five things.

    Args:
        profile: `paper` (128 elements) or `small` (40).
        length: Elements of a word, instead.
    """
    return _task("a5", profile, "a5", length, "which even permutation of 5 the word makes so far")


@task("s5", "state tracking: products of permutations of 5")
def s5(profile: Profile, *, length: int | None = None) -> Task:
    """The word problem of all 120 permutations of five things.

    Args:
        profile: `paper` (128 elements) or `small` (40).
        length: Elements of a word, instead.
    """
    return _task("s5", profile, "s5", length, "which permutation of 5 the word makes so far")


def _task(name: str, profile: Profile, group: str, length: int | None, summary: str) -> Task:
    small = profile == "small"
    of = Words(group, (40 if small else 128) if length is None else length)
    size = len(multiplication(group))
    sizes = (20_000, 1_000, 1_000) if small else (100_000, 3_000, 3_000)
    batch = 64 if small else 2048
    return Task(
        name=name,
        profile=profile,
        summary=summary,
        definition=f"{size} elements, words of {of.length}; {'/'.join(map(str, sizes))} examples",
        length=of.length,
        causal=True,
        hidden_answers=True,
        inputs=Tokens(size),
        outputs=TokenLabels(size),
        batch_size=batch,
        steps=600 if small else 100 * sizes[0] // batch,
        source=lambda: generated(f"{name}-{profile}", of, sizes, lambda keys: draw(keys, of)),
        decode=decode,
        rules={"majority": majority, "the last element": _last},
        setting=Setting() if small else PUBLISHED,
    )


def draw(keys: Keys, of: Words) -> Draw:
    """One word of uniform elements per key; none is rejected.

    Args:
        keys: `[N]` keys of the random streams.
        of: The definition.

    Returns:
        Elements and their products so far, `[N, L]`.
    """
    table = multiplication(of.group)
    inputs = integers(derive(keys[:, None], np.arange(of.length)), len(table))
    targets = np.empty(inputs.shape, dtype=np.int16)
    product = np.zeros(len(inputs), dtype=np.int64)
    for t in range(of.length):
        product = table[product, inputs[:, t]]
        targets[:, t] = product
    return Draw(inputs.astype(np.int16), targets, np.ones(len(keys), dtype=np.bool_))


def decode(inputs: NDArray, targets: NDArray) -> str:
    """The elements and the products so far."""
    elements = " ".join(map(str, inputs.tolist()))
    return f"elements {elements}\nproducts {' '.join(map(str, targets.tolist()))}"


def _table(elements: list[tuple[int, ...]]) -> NDArray[np.int64]:
    numbers = {element: i for i, element in enumerate(elements)}
    return np.array([[numbers[tuple(g[i] for i in h)] for h in elements] for g in elements])


def _is_even(permutation: tuple[int, ...]) -> bool:
    pairs = ((a, b) for i, a in enumerate(permutation) for b in permutation[i + 1 :])
    return sum(a > b for a, b in pairs) % 2 == 0


def _last(splits: Splits) -> float:
    """Say that the product is its last element (always right at the first position)."""
    split = splits["validation"]
    return float((split.inputs == split.targets).mean())

"""Exact objectives that cost nothing, with a known optimum: what strategies are compared on.

Each is made of a planted architecture, a sample of the grammar: the same seed, the same plant.
"""

import math
import statistics
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from random import Random

from nas.grammar.derivation import Derivation, Term
from nas.grammar.space import Space
from nas.search.base import LEARNING_RATES

OPTIMUM = 1.0
"""The score of the planted architecture at its learning rate; nothing has more."""

SMALLEST, LARGEST = 30, 70
"""Nodes of a planted derivation: samples outside are drawn again."""

PAIRS = 8
FAR = 4
"""Terms between the two parts of a pair, at least."""

LEARNING_RATE_SHARE = 0.05
"""What a learning rate ten times too high or too low costs."""

Part = tuple[object, ...]
Score = Callable[[Derivation], float]


@dataclass(frozen=True)
class Objective:
    """What a trial is scored by.

    Args:
        name: `planted` or `distant`.
        plant: The architecture that has the optimum.
        learning_rate: With this learning rate.
        structure: Score of an architecture, at most 1.
        deviation: Standard deviation of the structure's score over samples of the grammar.
    """

    name: str
    plant: Derivation
    learning_rate: float
    structure: Score
    deviation: float

    def __call__(self, derivation: Derivation, learning_rate: float) -> float:
        """The exact score."""
        distance = abs(math.log10(learning_rate / self.learning_rate))
        return self.structure(derivation) - LEARNING_RATE_SHARE * distance

    def noise(self, seed: int, number: int, level: float) -> float:
        """What is added to the score of a trial.

        Args:
            seed: Of the run.
            number: The trial's.
            level: Its standard deviation, as a multiple of `deviation`.
        """
        if level == 0:
            return 0.0
        return Random(f"noise/{seed}/{number}").gauss(0.0, level * self.deviation)


def planted(space: Space, seed: int) -> Objective:
    """How much of the structure is that of a plant, wherever it stands.

    The score is the Jaccard index of the two multisets of parts (see `parts`).
    """
    plant, learning_rate = _plant(space, seed)
    wanted = Counter(part for part, _ in parts(plant.term))

    def structure(derivation: Derivation) -> float:
        found = Counter(part for part, _ in parts(derivation.term))
        return (found & wanted).total() / (found | wanted).total()

    return _objective("planted", space, seed, plant, learning_rate, structure)


def distant(space: Space, seed: int) -> Objective:
    """How many pairs of parts, which stand far apart in a plant, are there both.

    A pair scores 1 when both are there, but 1/5 when one of them is: what a part is worth in one
    place depends on what stands in another.
    """
    plant, learning_rate = _plant(space, seed)
    pairs = _pairs(plant.term, Random(f"pairs/{seed}"))

    def structure(derivation: Derivation) -> float:
        found = {part for part, _ in parts(derivation.term)}
        here = [(a in found) + (b in found) for a, b in pairs]
        return sum((0.0, 0.2, 1.0)[count] for count in here) / len(pairs)

    return _objective("distant", space, seed, plant, learning_rate, structure)


OBJECTIVES: dict[str, Callable[[Space, int], Objective]] = {
    "planted": planted,
    "distant": distant,
}
"""By name; each of a space and the seed of its plant."""


def parts(term: Term) -> Iterator[tuple[Part, tuple[int, ...]]]:
    """What an architecture is made of: which term stands in which, and with which parameters.

    Yields:
        A part, and the path of the term that it is about.
    """
    stack: list[tuple[Term, tuple[int, ...]]] = [(term, ())]
    while stack:
        top, path = stack.pop()
        for index, argument in enumerate(top.arguments):
            if isinstance(argument, str):
                yield (top.name, argument), path
                continue
            below = (*path, index)
            words = tuple(word for word in argument.arguments if isinstance(word, str))
            if words and len(words) == len(argument.arguments):
                yield (top.name, argument.name, *words), below
            else:
                yield (top.name, argument.name), below
                stack.append((argument, below))


def _plant(space: Space, seed: int) -> tuple[Derivation, float]:
    rng = Random(f"plant/{seed}")
    while True:
        derivation = space.sample(rng)
        if SMALLEST <= derivation.size <= LARGEST and _has_pairs(derivation.term):
            return derivation, rng.choice(LEARNING_RATES)


def _has_pairs(term: Term) -> bool:
    return len(_pairs(term, Random(0))) == PAIRS


def _pairs(term: Term, rng: Random) -> list[tuple[Part, Part]]:
    """Pairs of different parts that stand far apart; none is in two pairs, while there are more."""
    places: dict[Part, tuple[int, ...]] = {}
    for part, path in parts(term):
        places.setdefault(part, path)
    candidates = [
        (a, b)
        for i, a in enumerate(places)
        for b in list(places)[i + 1 :]
        if _apart(places[a], places[b]) >= FAR
    ]
    rng.shuffle(candidates)
    used: Counter[Part] = Counter()
    chosen: list[tuple[Part, Part]] = []
    for most in (0, 1):
        for a, b in candidates:
            if len(chosen) < PAIRS and (a, b) not in chosen and used[a] + used[b] <= most:
                chosen.append((a, b))
                used.update((a, b))
    return chosen


def _apart(a: tuple[int, ...], b: tuple[int, ...]) -> int:
    """Steps from one place to the other, up to where they meet and down."""
    common = 0
    while common < min(len(a), len(b)) and a[common] == b[common]:
        common += 1
    return len(a) + len(b) - 2 * common


def _objective(
    name: str,
    space: Space,
    seed: int,
    plant: Derivation,
    learning_rate: float,
    structure: Score,
) -> Objective:
    rng = Random(f"deviation/{seed}")
    deviation = statistics.pstdev(structure(space.sample(rng)) for _ in range(200))
    return Objective(name, plant, learning_rate, structure, deviation)

"""How children are made, and which ways of making them have paid off."""

import random
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import islice

from nas.grammar.mutation import KINDS
from nas.search.base import LEARNING_RATES, Observation, nearest_learning_rate

CROSSOVER = "crossover"
RATE = "learning rate"
TWICE = "twice"
"""Two mutations, one after the other."""

OPERATORS = (*sorted(KINDS), TWICE, CROSSOVER, RATE)

PRIOR = {"insert": 1.0, "hoist": 0.6, "parameter": 1.2, "regrow": 1.2, TWICE: 0.6,
         CROSSOVER: 1.2, RATE: 0.6}  # fmt: skip
"""How often each is used before anything is known, relative to each other."""

MEMORY = 120
"""Children that count: what pays off changes as a search goes on."""

TRUST = 12.0
"""Children of an operator after which its own successes count as much as what is assumed."""


def probabilities(history: Sequence[Observation]) -> Mapping[str, float]:
    """How often to use each operator: the more of its children were better than their parent.

    Probability matching (Fialho, "Adaptive operator selection for optimization", 2010); none falls
    below a third of what it is used without knowledge. The operator is a trial's origin.

    Args:
        history: Of which the last `MEMORY` children that finished count.
    """
    used: Counter[str] = Counter()
    better: Counter[str] = Counter()
    children = (o for o in reversed(history) if o.finished and o.parents and o.origin in PRIOR)
    for child in islice(children, MEMORY):
        used[child.origin] += 1
        parent = history[child.parents[0]]
        better[child.origin] += parent.finished and child.fitness > parent.fitness
    overall = (sum(better.values()) + 1) / (sum(used.values()) + 5)
    weights = {}
    for name, prior in PRIOR.items():
        rate = (better[name] + TRUST * overall) / (used[name] + TRUST)
        weights[name] = prior * max(1 / 3, rate / overall)
    total = sum(weights.values())
    return {name: weight / total for name, weight in weights.items()}


def step_learning_rate(learning_rate: float, rng: random.Random) -> float:
    """A neighbour on the grid."""
    here = nearest_learning_rate(learning_rate)
    neighbours = [i for i in (here - 1, here + 1) if 0 <= i < len(LEARNING_RATES)]
    return LEARNING_RATES[rng.choice(neighbours)]

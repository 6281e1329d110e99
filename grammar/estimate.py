"""Factors of weights: estimated so that what was chosen in some decisions becomes more likely."""

import math
from collections import defaultdict
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

ROUNDS = 200
TOLERANCE = 1e-6  # of a factor, relative: when it is settled


@dataclass(eq=False, slots=True)
class Tally:
    """Decisions that offered the same alternatives with the same probabilities.

    Args:
        probabilities: Of each alternative, by its index in the rule.
        chosen: How often each was chosen, where decisions may count more or less than once.
    """

    probabilities: Mapping[int, float]
    chosen: dict[int, float] = field(default_factory=dict)

    @property
    def count(self) -> float:
        """How many decisions these are."""
        return math.fsum(self.chosen.values())

    def scale(self, factors: Mapping[int, float]) -> float:
        """What the probabilities add up to once they are multiplied by factors (1 unless given)."""
        return math.fsum(p * factors.get(i, 1.0) for i, p in self.probabilities.items())

    def multiplied(self, factors: Mapping[int, float]) -> "Tally":
        """The same decisions, seen with other probabilities."""
        scale = self.scale(factors)
        found = {i: p * factors.get(i, 1.0) / scale for i, p in self.probabilities.items()}
        return Tally(found, self.chosen)

    def log_likelihood(self, factors: Mapping[int, float]) -> float:
        """Natural logarithm of the probability of all that was chosen, under factors."""
        found = self.multiplied(factors).probabilities
        return math.fsum(n * math.log(found[i]) for i, n in self.chosen.items() if n)


def fit(tallies: Collection[Tally], strength: float) -> dict[int, float]:
    """The factors that make what was chosen most likely, next to what the grammar says already.

    Beside the decisions stand `strength` imagined ones, spread over the tallies, that were taken by
    the present probabilities: the fewer decisions there are, the less changes. Where every tally
    offers the same, the new probabilities are (n_i + strength p_i) / (n + strength). Elsewhere the
    likelihood has one maximum too, and each round comes closer to it: Hunter, "MM algorithms for
    generalized Bradley-Terry models", 2004 (section 5).

    Args:
        tallies: Of one rule.
        strength: Above 0.

    Returns:
        By index, for every alternative that was offered; the mean scale of the decisions is 1.
    """
    total = math.fsum(tally.count for tally in tallies)
    if total == 0:
        return {}
    share = strength / total
    wanted: defaultdict[int, float] = defaultdict(float)
    for tally in tallies:
        count = tally.count
        for i, p in tally.probabilities.items():
            wanted[i] += tally.chosen.get(i, 0.0) + share * count * p
    factors = dict.fromkeys(wanted, 1.0)
    for _ in range(ROUNDS):
        expected: defaultdict[int, float] = defaultdict(float)
        for tally in tallies:
            weight = tally.count * (1 + share) / tally.scale(factors)
            for i, p in tally.probabilities.items():
                expected[i] += weight * p
        after = {i: wanted[i] / expected[i] for i in factors}
        settled = all(abs(after[i] / factors[i] - 1) < TOLERANCE for i in factors)
        factors = after
        if settled:
            break
    mean = math.fsum(tally.count * tally.scale(factors) for tally in tallies) / total
    return {i: factor / mean for i, factor in factors.items()}


def floored(
    factors: Mapping[int, float], tallies: Collection[Tally], floor: float
) -> dict[int, float]:
    """Factors by which no probability of the tallies falls below `floor` times what it is.

    Args:
        factors: By index.
        tallies: Where they are used.
        floor: Below 1.
    """
    found = dict(factors)
    while found:
        least = floor * max(tally.scale(found) for tally in tallies)
        low = [i for i, factor in found.items() if factor < least * (1 - TOLERANCE)]
        if not low:
            break
        found.update(dict.fromkeys(low, least))
    return found

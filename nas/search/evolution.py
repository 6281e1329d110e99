"""Regularised evolution: the oldest die, the best of a few parents has a child."""

import random
from collections.abc import Sequence
from itertools import islice

from nas.grammar.crossover import crossover
from nas.grammar.derivation import Derivation
from nas.grammar.mutation import mutate
from nas.grammar.space import Space
from nas.search.base import (
    LEARNING_RATES,
    Archive,
    Observation,
    Proposal,
    Start,
    nearest_learning_rate,
    propose_new,
)


class RegularizedEvolution:
    """Aging evolution over derivations.

    The population is the last `population` trials that finished with a score; a parent is the
    fittest of `tournament` of them drawn at random. The learning rate is part of the genome: it is
    inherited, and moved by one step of the grid as one of the mutations.

    Real et al., "Regularized Evolution for Image Classifier Architecture Search", 2019.

    Args:
        space: Where architectures come from.
        start: Measured first, in order: the founders.
        founders: Random samples fill up the founders to this number of trials.
        population: Number of trials alive.
        tournament: Number of them drawn to choose a parent from.
        crossover_rate: Probability that a child has two parents.
        learning_rate_rate: Probability that a child is its parent at another learning rate.
        attempts: Children drawn until one is new.
    """

    def __init__(
        self,
        space: Space,
        start: Sequence[Derivation] = (),
        founders: int = 10,
        population: int = 30,
        tournament: int = 8,
        crossover_rate: float = 0.2,
        learning_rate_rate: float = 0.1,
        attempts: int = 20,
    ) -> None:
        self._space = space
        self._start = Start(start)
        self._archive = Archive(space)
        self._founders = founders
        self._population = population
        self._tournament = tournament
        self._crossover_rate = crossover_rate
        self._learning_rate_rate = learning_rate_rate
        self._attempts = attempts

    def propose(self, history: Sequence[Observation], rng: random.Random) -> Proposal:
        """A founder that is missing in the history, or a child that is new to it."""
        first = self._start.propose(history)
        if first is not None:
            return first
        finished = (o for o in reversed(history) if o.finished and self._archive.derivation(o.text))
        alive = list(islice(finished, self._population))
        founding = len(history) < self._founders or not alive
        proposal = propose_new(
            history,
            lambda _: self._sample(rng) if founding else self._child(alive, rng),
            self._attempts,
        )
        return self._archive.keep(proposal)

    def _sample(self, rng: random.Random) -> Proposal:
        return Proposal(self._space.sample(rng), rng.choice(LEARNING_RATES), "random")

    def _child(self, alive: Sequence[Observation], rng: random.Random) -> Proposal:
        parent = self._parent(alive, rng)
        derivation = self._derivation(parent)
        kind = rng.random()
        if kind < self._learning_rate_rate:
            moved = step_learning_rate(parent.learning_rate, rng)
            return Proposal(derivation, moved, "learning rate", (parent.number,))
        if kind < self._learning_rate_rate + self._crossover_rate:
            other = self._parent(alive, rng)
            if other.hash != parent.hash:
                child = crossover(self._space, derivation, self._derivation(other), rng)
                parents = (parent.number, other.number)
                return Proposal(child, parent.learning_rate, "crossover", parents)
        child = mutate(self._space, derivation, rng)
        return Proposal(child, parent.learning_rate, "mutation", (parent.number,))

    def _parent(self, alive: Sequence[Observation], rng: random.Random) -> Observation:
        drawn = rng.sample(alive, min(self._tournament, len(alive)))
        return max(drawn, key=lambda o: o.fitness)  # of equal ones the first drawn

    def _derivation(self, observation: Observation) -> Derivation:
        derivation = self._archive.derivation(observation.text)
        assert derivation is not None
        return derivation


def step_learning_rate(learning_rate: float, rng: random.Random) -> float:
    """A neighbour on the grid."""
    here = nearest_learning_rate(learning_rate)
    neighbours = [i for i in (here - 1, here + 1) if 0 <= i < len(LEARNING_RATES)]
    return LEARNING_RATES[rng.choice(neighbours)]

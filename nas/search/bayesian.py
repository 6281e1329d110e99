"""Model-based search: a surrogate chooses among changed architectures and new ones."""

import random
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nas.compiler.costs import shape_of
from nas.grammar.canonical import canonical_hash
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
from nas.search.features import HASHED, Features
from nas.search.operators import step_learning_rate
from nas.search.surrogate import MOST, Surrogate, expected_improvement

COST_SCALE = 0.25
"""Weight of the columns of costs beside the labels, whose vector has length 1."""

RATE_SCALE = 0.2
"""Weight of a step of the learning rate."""


class BayesianOptimization:
    """Sequential model-based optimisation over derivations.

    A surrogate is made of the trials so far; of many candidates (mutations and crossovers of the
    best trials, and samples of the grammar) those with the largest expected improvement are
    proposed, those unlike each other first. It is made anew whenever the history has grown by
    1 / `renewals`.

    Args:
        space: Where architectures come from.
        start: Measured first, in order.
        founders: Random samples fill up the first trials to this number.
        candidates: Made for each surrogate.
        parents: Best architectures that candidates are made of.
        renewals: See above.
        attempts: Samples drawn until one is new, where there are no candidates.
    """

    def __init__(
        self,
        space: Space,
        start: Sequence[Derivation] = (),
        founders: int = 10,
        candidates: int = 64,
        parents: int = 10,
        renewals: int = 12,
        attempts: int = 20,
    ) -> None:
        self._space = space
        self._start = Start(start)
        self._archive = Archive(space)
        self._founders = founders
        self._candidates = candidates
        self._parents = parents
        self._renewals = renewals
        self._attempts = attempts
        context = dict(space.context.items())
        self._features = Features(
            shape_of(context) if {"L", "D", "causal"} <= set(context) else None
        )
        self._planned: tuple[object, list[Proposal]] = (None, [])

    def propose(self, history: Sequence[Observation], rng: random.Random) -> Proposal:
        """A founder that is missing in the history, or the most promising candidate."""
        first = self._start.propose(history)
        if first is not None:
            return first
        number = self._renewed(len(history))
        known = history[:number]
        finished = [o for o in known if o.finished and self._archive.derivation(o.text)]
        if len(history) < self._founders or len(finished) < 3:
            return self._archive.keep(propose_new(history, lambda _: self._sample(rng), 20))
        plan = self._plan(number, finished)
        seen = {(o.hash, o.learning_rate) for o in history}
        for proposal in plan:
            if (canonical_hash(proposal.derivation), proposal.learning_rate) not in seen:
                return self._archive.keep(proposal)
        return self._archive.keep(propose_new(history, lambda _: self._sample(rng), self._attempts))

    def _renewed(self, count: int) -> int:
        """The length of the history when the present surrogate was made."""
        size = self._founders
        while (after := size + max(1, size // self._renewals)) <= count:
            size = after
        return min(size, count)

    def _plan(self, number: int, finished: Sequence[Observation]) -> list[Proposal]:
        """Candidates in the order in which they are proposed; remembered, as it is a function."""
        key = (number, tuple((o.number, o.fitness) for o in finished))
        if self._planned[0] != key:
            self._planned = key, self._make(number, finished)
        return self._planned[1]

    def _make(self, number: int, finished: Sequence[Observation]) -> list[Proposal]:
        rng = random.Random(f"candidates/{number}/{finished[-1].hash}")
        ranked = sorted(finished, key=lambda o: o.fitness, reverse=True)
        ordered = _used(ranked, finished)
        vectors = np.stack([self._vector(self._known(o), o.learning_rate) for o in ordered])
        low, spread = vectors.mean(axis=0), vectors.std(axis=0)
        columns = slice(HASHED, None)

        def scaled(found: NDArray[np.float64]) -> NDArray[np.float64]:
            found = found.copy()
            found[:, columns] = (found[:, columns] - low[columns]) / (spread[columns] + 0.1)
            found[:, columns] *= COST_SCALE
            return found

        surrogate = Surrogate(scaled(vectors), _ranks(ordered))
        proposals = list(self._draw(ranked, rng))
        found = scaled(np.stack([self._vector(p.derivation, p.learning_rate) for p in proposals]))
        worth = expected_improvement(*surrogate.predict(found), surrogate.best)
        return [proposals[i] for i in _spread_out(found, worth, self._longest(number))]

    def _longest(self, number: int) -> int:
        return min(self._candidates, 4 + 2 * (number // self._renewals))

    def _draw(self, ranked: Sequence[Observation], rng: random.Random) -> Any:
        """Candidates: changes of the best, and samples."""
        best: dict[str, Observation] = {}
        for observation in ranked:
            best.setdefault(observation.hash, observation)
        parents = list(best.values())[: self._parents]
        for _ in range(self._candidates):
            kind = rng.random()
            # The better, the more often: the first of two drawn.
            parent = parents[min(rng.randrange(len(parents)), rng.randrange(len(parents)))]
            derivation = self._known(parent)
            rate = parent.learning_rate
            if rng.random() < 0.25:
                rate = step_learning_rate(rate, rng)
            if kind < 0.2:
                yield self._sample(rng)
            elif kind < 0.35 and len(parents) > 1:
                other = rng.choice([p for p in parents if p is not parent])
                child = crossover(self._space, derivation, self._known(other), rng)
                yield Proposal(child, rate, "crossover", (parent.number, other.number))
            elif kind < 0.4:
                moved = step_learning_rate(parent.learning_rate, rng)
                yield Proposal(derivation, moved, "learning rate", (parent.number,))
            else:
                child = mutate(self._space, derivation, rng)
                if rng.random() < 0.3:
                    child = mutate(self._space, child, rng)
                yield Proposal(child, rate, "mutation", (parent.number,))

    def _sample(self, rng: random.Random) -> Proposal:
        return Proposal(self._space.sample(rng), rng.choice(LEARNING_RATES), "random")

    def _vector(self, derivation: Derivation, rate: float) -> NDArray[np.float64]:
        step = RATE_SCALE / COST_SCALE * nearest_learning_rate(rate)
        return np.append(self._features(derivation), step).astype(np.float64)

    def _known(self, observation: Observation) -> Derivation:
        derivation = self._archive.derivation(observation.text)
        assert derivation is not None
        return derivation


def _used(ranked: Sequence[Observation], finished: Sequence[Observation]) -> list[Observation]:
    """What a surrogate is made of: all, or the best half and the latest half of what it takes."""
    if len(finished) <= MOST:
        return list(finished)
    chosen = {o.number: o for o in (*ranked[: MOST // 2], *finished[-MOST // 2 :])}
    return [chosen[number] for number in sorted(chosen)]


def _ranks(observations: Sequence[Observation]) -> list[float]:
    """Fitness as numbers that are equal and greater where it is."""
    order = {fitness: i for i, fitness in enumerate(sorted({o.fitness for o in observations}))}
    return [float(order[o.fitness]) for o in observations]


def _spread_out(vectors: NDArray[np.float64], worth: NDArray[np.float64], count: int) -> list[int]:
    """The most promising candidates, each new one worth less the more it is like a chosen one."""
    chosen: list[int] = []
    worth = worth.copy()
    for _ in range(min(count, len(worth))):
        best = int(worth.argmax())
        chosen.append(best)
        distance = ((vectors - vectors[best]) ** 2).sum(axis=1)
        worth *= 1 - np.exp(-8 * distance)
        worth[chosen] = -1.0
    return chosen

"""Regularised evolution: the oldest die, the best of a few parents has a child."""

import random
from collections.abc import Mapping, Sequence

from nas.grammar.crossover import crossover
from nas.grammar.derivation import Derivation
from nas.grammar.mutation import mutate
from nas.grammar.space import Space
from nas.search.base import LEARNING_RATES, Archive, Observation, Proposal, Start, propose_new
from nas.search.operators import CROSSOVER, RATE, TWICE, probabilities, step_learning_rate


class RegularizedEvolution:
    """Aging evolution over derivations.

    The population is the last `population` trials that finished with a score, and the `elite` best
    of all; a parent is the fittest of `tournament` of them drawn at random. How a child is made
    adapts to what has paid off (see `nas.search.operators`). The learning rate is part of the
    genome. When `patience` trials have brought nothing better, evolution begins anew from fresh
    founders: what was found before stays in the study, but has no more children.

    Real et al., "Regularized Evolution for Image Classifier Architecture Search", 2019.

    Args:
        space: Where architectures come from.
        start: Measured first, in order: the founders.
        founders: Random samples fill up the founders to this number of trials.
        population: Number of trials alive.
        tournament: Number of them drawn to choose a parent from.
        elite: Trials that stay alive though they are old.
        patience: See above; 0: evolution never begins anew.
        adaptive: Whether operators adapt.
        attempts: Children drawn until one is new.
    """

    def __init__(
        self,
        space: Space,
        start: Sequence[Derivation] = (),
        founders: int = 10,
        population: int = 30,
        tournament: int = 8,
        elite: int = 3,
        patience: int = 100,
        adaptive: bool = True,
        attempts: int = 20,
    ) -> None:
        self._space = space
        self._start = Start(start)
        self._archive = Archive(space)
        self._founders = founders
        self._population = population
        self._tournament = tournament
        self._elite = elite
        self._patience = patience
        self._adaptive = adaptive
        self._attempts = attempts

    def propose(self, history: Sequence[Observation], rng: random.Random) -> Proposal:
        """A founder that is missing in the history, or a child that is new to it."""
        first = self._start.propose(history)
        if first is not None:
            return first
        began = began_anew(history, self._patience)
        alive = self._alive(history, began)
        founding = len(history) < began + self._founders or not alive
        rates = probabilities(history if self._adaptive else ())
        proposal = propose_new(
            history,
            lambda _: self._sample(rng) if founding else self._child(alive, rates, rng),
            self._attempts,
        )
        return self._archive.keep(proposal)

    def _alive(self, history: Sequence[Observation], began: int) -> list[Observation]:
        """Those that can have children."""
        finished = [
            o
            for o in history[began:]
            if o.finished and self._archive.derivation(o.text) is not None
        ]
        elite = sorted(finished, key=lambda o: (o.fitness, o.number), reverse=True)[: self._elite]
        chosen = {o.number: o for o in (*elite, *finished[-self._population :])}
        return [chosen[number] for number in sorted(chosen)]

    def _sample(self, rng: random.Random) -> Proposal:
        return Proposal(self._space.sample(rng), rng.choice(LEARNING_RATES), "random")

    def _child(
        self, alive: Sequence[Observation], rates: Mapping[str, float], rng: random.Random
    ) -> Proposal:
        parent = self._parent(alive, rng)
        derivation = self._derivation(parent)
        (kind,) = rng.choices(list(rates), list(rates.values()))
        rate = parent.learning_rate
        if kind == RATE:
            moved = step_learning_rate(rate, rng)
            return Proposal(derivation, moved, RATE, (parent.number,))
        if kind == CROSSOVER:
            other = self._parent(alive, rng)
            if other.hash != parent.hash:
                child = crossover(self._space, derivation, self._derivation(other), rng)
                return Proposal(child, rate, CROSSOVER, (parent.number, other.number))
            kind = TWICE
        if kind == TWICE:
            child = mutate(self._space, mutate(self._space, derivation, rng), rng)
        else:
            child = mutate(self._space, derivation, rng, kind)
        return Proposal(child, rate, kind, (parent.number,))

    def _parent(self, alive: Sequence[Observation], rng: random.Random) -> Observation:
        drawn = rng.sample(alive, min(self._tournament, len(alive)))
        return max(drawn, key=lambda o: o.fitness)  # of equal ones the first drawn

    def _derivation(self, observation: Observation) -> Derivation:
        derivation = self._archive.derivation(observation.text)
        assert derivation is not None
        return derivation


def began_anew(history: Sequence[Observation], patience: int) -> int:
    """The trial with which the present evolution began.

    Args:
        history: Trials so far.
        patience: After as many trials without a better one it begins anew; 0: never.
    """
    began = last = 0
    best = None
    for observation in history if patience else ():
        if observation.number >= last + patience:
            began = last = observation.number
            best = None
        if observation.finished and (best is None or observation.fitness > best):
            best, last = observation.fitness, observation.number
    return began

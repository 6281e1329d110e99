"""Monte Carlo tree search over the decisions of a derivation."""

import math
import random
from collections.abc import Sequence

from nas.grammar.derivation import Derivation
from nas.grammar.edit import decided, draw
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

Path = tuple[int, ...]
"""A trial as what was chosen at each of its decisions, in order; the learning rate comes last."""

Visit = tuple[Path, float]
"""A trial that went down the tree, and its reward."""


class TreeSearch:
    """UCT over derivations, with the grammar's probabilities as priors (PUCT).

    A node of the tree is a sequence of decisions; its statistics are those of the trials that begin
    with it. So the tree is never stored: going down, the trials are split by their next decision.
    At each decision the alternative with the largest

        Q(a) + exploration * P(a) * sqrt(N) / (1 + N(a))

    is taken: N(a) trials of the N took it, with a mean reward of Q(a) (the mean of all N where
    there is none), and the grammar gives it the probability P(a). Where no trial has gone, the rest
    is a roll-out: a sample of the grammar. The learning rate is the last decision.

    Rewards are ranks, so the scale of the scores does not matter. Trials that have not finished
    count as visits without a reward (virtual loss), which sends parallel workers apart; so do
    failed ones.

    Kocsis & Szepesvari, "Bandit based Monte-Carlo Planning", 2006; Silver et al., "Mastering the
    game of Go without human knowledge", 2017 (the prior in the bound).

    Args:
        space: Where architectures come from.
        start: Measured first, in order.
        exploration: Weight of the prior and of rare alternatives against the mean reward.
        attempts: Descents until one ends in something new; each that does not counts as a visit.
    """

    def __init__(
        self,
        space: Space,
        start: Sequence[Derivation] = (),
        exploration: float = 0.1,
        attempts: int = 10,
    ) -> None:
        self._space = space
        self._start = Start(start)
        self._exploration = exploration
        self._attempts = attempts
        self._archive = Archive(space)
        self._paths: dict[tuple[str, float], tuple[Path, Path] | None] = {}

    def propose(self, history: Sequence[Observation], rng: random.Random) -> Proposal:
        """A start that is missing in the history, or where the tree leads."""
        first = self._start.propose(history)
        if first is not None:
            return first
        visits = self._visits(history)
        closed = self._closed(history)

        def draw_again(_: int) -> Proposal:
            path, proposal = self._descend(visits, closed, rng)
            visits.append((path, 0.0))
            return proposal

        return self._archive.keep(propose_new(history, draw_again, self._attempts))

    def _visits(self, history: Sequence[Observation]) -> list[Visit]:
        """Every trial's path with its reward: its rank in [0, 1], 0 without a score."""
        finished = sorted((o for o in history if o.finished), key=lambda o: o.fitness)
        last = max(1, len(finished) - 1)
        rewards: dict[tuple[int, float], float] = {}
        for rank, observation in enumerate(finished):
            rewards.setdefault(observation.fitness, rank / last)
        visits = []
        for observation in history:
            known = self._known(observation)
            if known is not None:
                reward = rewards[observation.fitness] if observation.finished else 0.0
                visits.append((known[0], reward))
        return visits

    def _closed(self, history: Sequence[Observation]) -> set[Path]:
        """Every node of the tree below which all has been tried."""
        tried: dict[Path, set[int]] = {}  # by node, which of its alternatives
        closed: set[Path] = set()
        for observation in history:
            known = self._known(observation)
            if known is None:
                continue
            node, widths = known
            while node:
                closed.add(node)
                node, index = node[:-1], node[-1]
                below = tried.setdefault(node, set())
                below.add(index)
                if len(below) < widths[len(node)]:
                    break
        return closed

    def _known(self, observation: Observation) -> tuple[Path, Path] | None:
        """A trial's decisions, and how many alternatives each of them had."""
        key = (observation.text, observation.learning_rate)
        if key not in self._paths:
            derivation = self._archive.derivation(observation.text)
            if derivation is None:
                self._paths[key] = None
            else:
                decisions = decided(self._space, derivation)
                path = [place.index for place in decisions]
                widths = [len(place.choice.alternatives) for place in decisions]
                path.append(nearest_learning_rate(observation.learning_rate))
                widths.append(len(LEARNING_RATES))
                self._paths[key] = tuple(path), tuple(widths)
        return self._paths[key]

    def _descend(
        self, visits: list[Visit], closed: set[Path], rng: random.Random
    ) -> tuple[Path, Proposal]:
        decisions = self._space.decide()
        path: Path = ()
        while (choice := decisions.current) is not None:
            index, visits = self._choose(choice.probabilities, visits, closed, path, rng)
            path = (*path, index)
            decisions.choose(index)
        even = (1 / len(LEARNING_RATES),) * len(LEARNING_RATES)
        index, _ = self._choose(even, visits, closed, path, rng)
        return (*path, index), Proposal(decisions.derivation, LEARNING_RATES[index], "tree")

    def _choose(
        self,
        priors: Sequence[float],
        visits: list[Visit],
        closed: set[Path],
        path: Path,
        rng: random.Random,
    ) -> tuple[int, list[Visit]]:
        """The next decision, and the visits of those that took it."""
        if not visits:
            return draw(priors, rng), visits
        depth = len(path)
        taken: dict[int, list[Visit]] = {}
        for visit in visits:
            taken.setdefault(visit[0][depth], []).append(visit)
        sums = {index: sum([reward for _, reward in here]) for index, here in taken.items()}
        mean = sum(sums.values()) / len(visits)
        scale = self._exploration * math.sqrt(len(visits))

        def bound(index: int) -> float:
            times = len(taken.get(index, ()))
            value = sums[index] / times if times else mean
            return value + scale * priors[index] / (1 + times)

        indices = range(len(priors))
        best = max([i for i in indices if (*path, i) not in closed] or indices, key=bound)
        return best, taken.get(best, [])

"""Monte Carlo tree search over the decisions of a derivation."""

import math
import random
from collections.abc import Hashable, Sequence

import numpy as np

from nas.grammar.decisions import Choice
from nas.grammar.derivation import Derivation
from nas.grammar.edit import draw, places
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
from nas.search.tree import Array, Moves, Node, Path, Tree

RATE = "learning rate"
"""The rule, so to speak, of the last decision."""


class TreeSearch:
    """PUCT over derivations, with statistics shared between equal decisions (GRAVE).

    A derivation is decided from coarse to fine. At each decision the alternative with the largest

        (1 - b) Q(a) + b A(a) + exploration * P(a) * sqrt(N) / (1 + N(a))

    is taken: N(a) of the N trials that came here took it, with a mean reward of Q(a) (the mean of
    all N where there is none); A(a) is the mean reward of all trials that decided so anywhere, by
    the nearest node above that `reference` trials have passed; b falls from 1 as N(a) grows; the
    grammar gives it the probability P(a). A wide choice is made in halves, so that few trials tell
    something about many alternatives. Where no trial has gone, the grammar is sampled, its
    probabilities multiplied by exp(greed * (A(a) - mean)). The learning rate is the last decision.

    Rewards are ranks, so the scale of the scores does not matter. Trials that have not finished
    count as visits without a reward (virtual loss), which sends parallel workers apart; so do
    failed ones.

    Kocsis & Szepesvari, "Bandit based Monte-Carlo Planning", 2006; Silver et al., "Mastering the
    game of Go without human knowledge", 2017 (the prior in the bound); Gelly & Silver 2011 (A);
    Cazenave, "Generalized Rapid Action Value Estimation", 2015 (the node that it is taken from).

    Args:
        space: Where architectures come from.
        start: Measured first, in order.
        exploration: Weight of the prior and of rare alternatives against the mean reward.
        equivalence: Trials after which Q counts as much as A; 0: A does not count.
        reference: See above.
        greed: See above.
        coarse: Whether to decide from coarse to fine, or in the order of the text.
        halves: Whether wide choices are made in halves.
        attempts: Descents until one ends in something new; each that does not counts as a visit.
    """

    def __init__(
        self,
        space: Space,
        start: Sequence[Derivation] = (),
        exploration: float = 0.1,
        equivalence: float = 10.0,
        reference: int = 50,
        greed: float = 6.0,
        coarse: bool = True,
        halves: bool = True,
        attempts: int = 10,
    ) -> None:
        self._space = space
        self._start = Start(start)
        self._exploration = exploration
        self._equivalence = equivalence
        self._reference = reference
        self._greed = greed
        self._coarse = coarse
        self._halves = halves
        self._attempts = attempts
        self._archive = Archive(space)
        self._forget()

    def propose(self, history: Sequence[Observation], rng: random.Random) -> Proposal:
        """A start that is missing in the history, or where the tree leads."""
        first = self._start.propose(history)
        if first is not None:
            return first
        self._learn(history)
        descent = _Descent(self, _rewards(history), rng)
        return self._archive.keep(propose_new(history, lambda _: descent.propose(), self._attempts))

    def _forget(self) -> None:
        self._tree, self._moves = Tree(), Moves()
        self._met: list[tuple[str, float]] = []

    def _learn(self, history: Sequence[Observation]) -> None:
        """Take over the trials that are new; all, if these are not those that it knows."""
        trials = [(o.text, o.learning_rate) for o in history]
        if trials[: len(self._met)] != self._met:
            self._forget()
        for number in range(len(self._met), len(trials)):
            derivation = self._archive.derivation(history[number].text)
            if derivation is None:
                continue
            decided = list(places(self._space, derivation, coarse=self._coarse))
            rate = nearest_learning_rate(history[number].learning_rate)
            path = (*(place.index for place in decided), rate)
            widths = (*(len(place.choice.alternatives) for place in decided), len(LEARNING_RATES))
            self._tree.add(number, path, widths)
            moves = [_move(place.choice, place.index) for place in decided]
            self._moves.add(number, [*moves, (RATE, rate)])
        self._met = trials


class _Descent:
    """Ways down the tree of one history.

    Args:
        search: The search.
        rewards: By trial.
        rng: Source of chance.
    """

    def __init__(self, search: TreeSearch, rewards: Array, rng: random.Random) -> None:
        self._search = search
        self._rewards = rewards
        self._rng = rng
        self._mean = float(rewards.mean()) if len(rewards) else 0.0
        self._repeated: dict[Path, int] = {}

    def propose(self) -> Proposal:
        """Go down once; where it led is less attractive from then on."""
        search = self._search
        decisions = search._space.decide(coarse=search._coarse)
        self._node: Node | None = search._tree.root
        self._path: Path = ()
        self._refer(self._node)
        while (choice := decisions.current) is not None:
            moves = [_move(choice, i) for i in range(len(choice.alternatives))]
            decisions.choose(self._choose(choice.probabilities, moves))
        even = (1 / len(LEARNING_RATES),) * len(LEARNING_RATES)
        rate = self._choose(even, [(RATE, i) for i in range(len(LEARNING_RATES))])
        for end in range(len(self._path) + 1):
            above = self._path[:end]
            self._repeated[above] = self._repeated.get(above, 0) + 1
        return Proposal(decisions.derivation, LEARNING_RATES[rate], "tree")

    def _refer(self, node: Node) -> None:
        """Take what moves are worth from the trials of a node."""
        among = None
        if node is not self._search._tree.root:
            among = np.zeros(len(self._rewards), dtype=np.bool_)
            among[node.trials] = True
        self._times, self._sums = self._search._moves.count(self._rewards, among)

    def _choose(self, priors: Sequence[float], moves: Sequence[Hashable]) -> int:
        """The next decision; goes on to where it leads."""
        keys = np.array([self._search._moves.key(move) for move in moves])
        known = keys >= 0
        times = np.zeros(len(moves))
        sums = np.zeros(len(moves))
        times[known] = self._times[keys[known]]
        sums[known] = self._sums[keys[known]]
        node = self._node
        if node is None or not node.trials:
            index = self._guess(priors, times, sums)
            self._node = None
        else:
            index = self._bound(node, priors, times, sums)
            self._node = None if node.children is None else node.children.get(index)
            if self._node is not None and len(self._node.trials) >= self._search._reference:
                self._refer(self._node)
        self._path = (*self._path, index)
        return index

    def _guess(self, priors: Sequence[float], times: Array, sums: Array) -> int:
        """A draw by the grammar's probabilities and by what moves have been worth."""
        if self._search._greed == 0:
            return draw(priors, self._rng)
        worth = (sums + 2 * self._mean) / (times + 2) - self._mean
        return draw(list(np.array(priors) * np.exp(self._search._greed * worth)), self._rng)

    def _bound(self, node: Node, priors: Sequence[float], times: Array, sums: Array) -> int:
        """The alternative with the largest bound."""
        search = self._search
        visits, rewards = np.zeros(len(priors)), np.zeros(len(priors))
        opened = np.ones(len(priors), dtype=np.bool_)
        first = None
        if node.children is None:  # one trial came here: its next decision is in its path
            first = search._tree.step(node, len(self._path))
            visits[first] = 1.0
            rewards[first] = self._rewards[node.trials[0]]
        for index, child in (node.children or {}).items():
            visits[index] = len(child.trials)
            rewards[index] = float(self._rewards[child.trials].sum())
            opened[index] = not child.closed
        for index in range(len(priors)):
            visits[index] += self._repeated.get((*self._path, index), 0)
        if not opened.any():
            opened[:] = True
        mean = float(self._rewards[node.trials].mean())
        group = np.flatnonzero(opened)
        prior = np.array(priors)
        while len(group) > 1:
            sides = (
                _halved(group, prior)
                if search._halves
                else [group[i : i + 1] for i in range(len(group))]
            )
            total = visits[group].sum()
            bounds = []
            for side in sides:
                count = visits[side].sum()
                value = rewards[side].sum() / count if count else mean
                moves = times[side].sum()
                if search._equivalence and moves:
                    b = math.sqrt(search._equivalence / (3 * count + search._equivalence))
                    shared = (sums[side].sum() + 2 * mean) / (moves + 2)
                    value = (1 - b) * value + b * shared
                scale = search._exploration * math.sqrt(max(1.0, total))
                bounds.append(value + scale * prior[side].sum() / prior[group].sum() / (1 + count))
            group = sides[int(np.argmax(bounds))]
        return int(group[0])


def _halved(group: np.ndarray, prior: Array) -> list[np.ndarray]:
    """Two parts of alternatives, neighbours in the grammar, of about the same probability."""
    share = np.cumsum(prior[group])
    cut = int(np.searchsorted(share, share[-1] / 2)) + 1
    cut = min(max(1, cut), len(group) - 1)
    return [group[:cut], group[cut:]]


def _move(choice: Choice, index: int) -> Hashable:
    """What a decision has in common with others: its rule and what it became."""
    return choice.rule, choice.alternatives[index]


def _rewards(history: Sequence[Observation]) -> Array:
    """By trial, its rank in [0, 1]; 0 without a score."""
    finished = sorted({o.fitness for o in history if o.finished})
    place = {fitness: i for i, fitness in enumerate(finished)}
    last = max(1, len(finished) - 1)
    return np.array([place[o.fitness] / last if o.finished else 0.0 for o in history])

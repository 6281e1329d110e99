"""Random search: every trial a fresh sample of the grammar."""

import random
from collections.abc import Sequence

from nas.grammar.derivation import Derivation
from nas.grammar.space import Space
from nas.search.base import LEARNING_RATES, Observation, Proposal, Start, propose_new


class RandomSearch:
    """Samples the grammar, with a learning rate drawn evenly from the grid.

    Args:
        space: Where architectures come from.
        start: Measured first, in order.
        attempts: Samples drawn until one is new.
    """

    def __init__(self, space: Space, start: Sequence[Derivation] = (), attempts: int = 20) -> None:
        self._space = space
        self._start = Start(start)
        self._attempts = attempts

    def propose(self, history: Sequence[Observation], rng: random.Random) -> Proposal:
        """A start that is missing in the history, or a sample that is new to it."""
        first = self._start.propose(history)
        if first is not None:
            return first
        return propose_new(
            history,
            lambda _: Proposal(self._space.sample(rng), rng.choice(LEARNING_RATES), "random"),
            self._attempts,
        )

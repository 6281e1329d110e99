"""Search strategies by name."""

from collections.abc import Callable, Sequence
from typing import Any

from nas.errors import UsageError
from nas.grammar.derivation import Derivation
from nas.grammar.space import Space
from nas.search.base import (
    DEFAULT_LEARNING_RATE,
    LEARNING_RATES,
    START_LEARNING_RATES,
    Observation,
    Proposal,
    Strategy,
    random_stream,
)
from nas.search.bayesian import BayesianOptimization
from nas.search.evolution import RegularizedEvolution
from nas.search.mcts import TreeSearch
from nas.search.random_search import RandomSearch

__all__ = [
    "DEFAULT_LEARNING_RATE",
    "LEARNING_RATES",
    "START_LEARNING_RATES",
    "STRATEGIES",
    "Observation",
    "Proposal",
    "Strategy",
    "make_strategy",
    "random_stream",
]

STRATEGIES: dict[str, Callable[..., Strategy]] = {
    "random": RandomSearch,
    "evolution": RegularizedEvolution,
    "mcts": TreeSearch,
    "bayesian": BayesianOptimization,
}
"""Every strategy by its name on the command line."""


def make_strategy(
    name: str, space: Space, *, start: Sequence[Derivation] = (), **settings: Any
) -> Strategy:
    """A strategy by name.

    Args:
        name: One of `STRATEGIES`.
        space: Where architectures come from.
        start: Architectures measured first, in order, usually the zoo's.
        settings: Further arguments of the strategy's class.

    Raises:
        UsageError: If there is no strategy of that name.
    """
    if name not in STRATEGIES:
        raise UsageError(f"no strategy {name!r}: choose one of {', '.join(STRATEGIES)}")
    return STRATEGIES[name](space, start=start, **settings)

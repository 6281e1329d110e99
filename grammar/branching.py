"""Drawing a derivation as a branching process: how many nodes to expect, and whether it ends.

The states are rules in contexts, one `Options` object each. With M[s, t] the expected number of
parts t of a state s and e the start, (e M^n)[t] nodes are expected in state t at level n; their sum
over all levels is e (I - M)^-1, and the process ends with probability 1 if the spectral radius of M
is below 1 (T. E. Harris, "The Theory of Branching Processes", 1963, chapter II; for grammars
T. L. Booth and R. A. Thompson, "Applying Probability Measures to Abstract Languages", 1973).

Where the states are few, the matrix is made. Where a `let` counts, or `max_depth` is large, there
can be millions of states, most of them met once in a million derivations: then the likely ones are
followed from level to level.
"""

import math
from collections import defaultdict, deque
from collections.abc import Iterator, Mapping
from dataclasses import replace

import networkx as nx
import numpy as np
from numpy.typing import NDArray

from nas.grammar.errors import SpaceError
from nas.grammar.options import Options
from nas.grammar.rules import Alternative
from nas.grammar.space import Space

FEW = 1_000  # states: up to here the matrix is made
FOLLOWED = 1e-7  # expected nodes in a state of one level that are followed further
LEVELS = 120  # on which the growth is measured
SHARE = 1e-5  # of a level's nodes in a state that is followed there


def without_max_depth(space: Space) -> Space:
    """The same rules and context, as if derivations could be as deep as they like."""
    given = {name: value for name, value in space.context.items() if name != "depth"}
    return Space(replace(space.grammar, max_depth=None), context=given)


def spectral_radius(space: Space) -> tuple[float, bool]:
    """The spectral radius of the expectation matrix without `max_depth`, and whether it is exact.

    It is the factor by which the expected number of nodes grows from level to level in the long
    run. Where the states are too many it is that growth, measured over the deeper half of 120
    levels.
    """
    free = without_max_depth(space)
    try:
        states = _few_states(free)
    except SpaceError:  # a context that only `max_depth` keeps from overflowing
        states = None
    if states is None:
        return _growth(free), False
    matrix = _matrix(free, states)
    graph = nx.from_numpy_array(matrix, create_using=nx.DiGraph)
    # The eigenvalues of a matrix are those of its strongly connected parts.
    parts = [list(part) for part in nx.strongly_connected_components(graph)]
    radius = max(max(abs(np.linalg.eigvals(matrix[np.ix_(part, part)]))) for part in parts)
    return float(radius), True


def expected_uses(space: Space) -> tuple[dict[Alternative, float], float]:
    """How often each alternative is expected in a derivation; it must end with probability 1.

    Returns:
        The expected uses, whose sum is the expected size, and the expected number of nodes in
        unlikely states, the parts below which are left out of it.
    """
    uses: dict[Alternative, float] = defaultdict(float)

    def count(state: Options, visits: float) -> None:
        for alternative, p in zip(state.alternatives, state.probabilities, strict=True):
            uses[alternative] += visits * p

    states = _few_states(space)
    if states is not None:
        matrix = _matrix(space, states)
        start = np.zeros(len(states))
        start[0] = 1.0
        solution = np.linalg.solve(np.eye(len(states)) - matrix.T, start)
        for state, visits in zip(states, solution.tolist(), strict=True):
            count(state, visits)
        return dict(uses), 0.0
    level = {_start(space): 1.0}
    neglected = 0.0
    while level:
        for state, visits in level.items():
            count(state, visits)
        below = _below(space, level)
        level = {}
        for state, visits in below.items():
            if visits >= FOLLOWED:
                level[state] = visits
            else:
                count(state, visits)
                neglected += visits
    return dict(uses), neglected


def _growth(space: Space) -> float:
    level = {_start(space): 1.0}
    logarithms = [0.0]  # of the expected number of nodes in each level
    for _ in range(LEVELS):
        try:
            below = _below(space, level)
        except SpaceError:
            break
        total = math.fsum(below.values())
        if total == 0:
            return 0.0
        logarithms.append(logarithms[-1] + math.log(total))
        # What is dropped is taken to grow like the rest.
        kept = {state: amount for state, amount in below.items() if amount >= SHARE * total}
        scale = 1 / math.fsum(kept.values())
        level = {state: amount * scale for state, amount in kept.items()}
    if len(logarithms) == 1:
        return 0.0
    last = len(logarithms) - 1
    return math.exp((logarithms[last] - logarithms[last // 2]) / (last - last // 2))


def _start(space: Space) -> Options:
    return space.options(space.grammar.start, space.context)


def _parts(space: Space, state: Options) -> Iterator[tuple[Options, float]]:
    for alternative, p, below in zip(
        state.alternatives, state.probabilities, state.contexts, strict=True
    ):
        for rule in alternative.references:
            yield space.options(rule, below), p


def _below(space: Space, level: Mapping[Options, float]) -> dict[Options, float]:
    """The expected number of nodes in each state of the next level."""
    below: dict[Options, float] = {}
    for state, nodes in level.items():
        for part, expected in _parts(space, state):
            below[part] = below.get(part, 0.0) + nodes * expected
    return below


def _few_states(space: Space) -> list[Options] | None:
    """Every state that can be met, the start first; None when they are too many."""
    states = {_start(space): None}
    todo = deque(states)
    while todo:
        for part, _ in _parts(space, todo.popleft()):
            if part not in states:
                states[part] = None
                todo.append(part)
        if len(states) > FEW:
            return None
    return list(states)


def _matrix(space: Space, states: list[Options]) -> NDArray[np.float64]:
    position = {state: i for i, state in enumerate(states)}
    matrix = np.zeros((len(states), len(states)))
    for state, row in zip(states, matrix, strict=True):
        for part, expected in _parts(space, state):
            row[position[part]] += expected
    return matrix

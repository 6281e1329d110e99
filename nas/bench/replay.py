"""Strategies on a table of trained architectures: a search as it would have been, in seconds."""

import statistics
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from random import Random

from nas.bench.objectives import parts
from nas.bench.search import Run
from nas.bench.table import SearchTable, Training
from nas.grammar.canonical import canonical_hash
from nas.grammar.derivation import Derivation
from nas.grammar.space import Space
from nas.search.base import DEFAULT_LEARNING_RATE, Observation, Strategy, random_stream
from nas.search.strategy import make_strategy


class PoolSpace(Space):
    """A space whose samples are members of a pool, all alike likely.

    Decisions, mutations and crossovers are those of the whole space.

    Args:
        space: The whole space.
        pool: The members.
    """

    def __init__(self, space: Space, pool: Sequence[Derivation]) -> None:
        super().__init__(
            space.grammar,
            context=space._given,
            costs=space.costs,
            caps=space.caps,
        )
        self.pool = tuple(pool)

    def sample(self, rng: Random) -> Derivation:
        """Draw a member."""
        return rng.choice(self.pool)


class Replay:
    """A task of a table as a search meets it.

    Whatever a strategy proposes, the nearest member that has not been measured is taken: the one
    with the largest Jaccard index of the parts (see `nas.bench.objectives.parts`), of equals the
    first.

    Args:
        table: The table.
        space: Its space.
        task: One of its tasks.
        observed: The seed whose training the search sees; the others say how good its choice is.

    Raises:
        ValueError: A member of the pool was not trained from every seed.
    """

    def __init__(self, table: SearchTable, space: Space, task: str, observed: int = 0) -> None:
        seeds = sorted({seed for _, name, seed in table.trainings if name == task})
        self.task = task
        self._members = table.members
        derivations = [space.parse(member.text) for member in table.members]
        self.space = PoolSpace(space, derivations)
        self._derivations = derivations
        self._parts = [_parts(derivation) for derivation in derivations]
        self._seen = [_training(table, m.hash, task, observed) for m in table.members]
        fresh = [seed for seed in seeds if seed != observed]
        self.fresh = [
            statistics.fmean(_test(table, m.hash, task, seed) for seed in fresh)
            for m in table.members
        ]
        """By member: mean test score over the other seeds."""

    def nearest(self, derivation: Derivation, measured: set[int]) -> int:
        """The member that is measured when a derivation is proposed."""
        wanted = _parts(derivation)

        def likeness(index: int) -> float:
            found = self._parts[index]
            return (wanted & found).total() / (wanted | found).total()

        left = [i for i in range(len(self._members)) if i not in measured]
        return max(left, key=likeness)

    def run(self, strategy: Strategy, name: str, *, trials: int, seed: int) -> Run:
        """Let a strategy search the pool, at one learning rate and without early stopping.

        Args:
            strategy: Made for `self.space`.
            name: Its name.
            trials: Members that are measured.
            seed: Of the strategy.

        Returns:
            The run; its `best` are test scores over fresh seeds.
        """
        history: list[Observation] = []
        measured: set[int] = set()
        best: list[float] = []
        trained: list[float] = []
        observed, incumbent, seconds = -float("inf"), 0, 0.0
        for number in range(min(trials, len(self._members))):
            start = time.process_time()
            proposal = strategy.propose(history, random_stream(seed, number))
            seconds += time.process_time() - start
            index = self.nearest(proposal.derivation, measured)
            measured.add(index)
            training = self._seen[index]
            failed = bool(training.error) or not training.scores
            score = None if failed else training.scores[-1]
            if score is not None and score > observed:
                observed, incumbent = score, index
            best.append(self.fresh[incumbent])
            trained.append((trained[-1] if trained else 0.0) + training.seconds)
            derivation = self._derivations[index]
            history.append(
                Observation(
                    number=number,
                    state="failed" if failed else "complete",
                    text=derivation.text,
                    hash=canonical_hash(derivation),
                    learning_rate=DEFAULT_LEARNING_RATE,
                    score=score,
                    rung=None if failed else 0,
                    origin=proposal.origin,
                    parents=proposal.parents,
                )
            )
        return Run(name, self.task, 0.0, seed, tuple(best), seconds, tuple(trained))


def _parts(derivation: Derivation) -> Counter[object]:
    return Counter(part for part, _ in parts(derivation.term))


def _training(table: SearchTable, hash_: str, task: str, seed: int) -> Training:
    training = table.trainings.get((hash_, task, seed))
    if training is None:
        raise ValueError(f"the table is not finished: {hash_[:10]} on {task}, seed {seed}")
    return training


def _test(table: SearchTable, hash_: str, task: str, seed: int) -> float:
    training = _training(table, hash_, task, seed)
    # A failed training is as bad as the worst.
    if training.test is None:
        return min(
            t.test for t in table.trainings.values() if t.task == task and t.test is not None
        )
    return training.test


def replay(
    table: SearchTable,
    space: Space,
    strategies: Sequence[str],
    *,
    seeds: Sequence[int],
    trials: int,
) -> Iterator[Run]:
    """Every strategy on every task of a table, from every seed.

    Args:
        table: The table, finished.
        space: Its space, see `nas.bench.table.space_of`.
        strategies: Names.
        seeds: Of the strategies.
        trials: Of each run.
    """
    tasks = sorted({task for _, task, _ in table.trainings})
    for task in tasks:
        of = Replay(table, space, task)
        for strategy in strategies:
            for seed in seeds:
                yield of.run(make_strategy(strategy, of.space), strategy, trials=trials, seed=seed)

"""Strategies side by side on objectives that cost nothing."""

import math
import statistics
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from functools import cache
from multiprocessing import get_context

from nas.bench.objectives import OBJECTIVES, Objective
from nas.grammar.canonical import canonical_hash
from nas.grammar.expression import Value
from nas.grammar.space import Space
from nas.report.intervals import interval
from nas.resources import find_space
from nas.search.base import Observation, Strategy, random_stream
from nas.search.strategy import make_strategy

CONTEXT: dict[str, Value] = {"L": (128,), "D": 64, "causal": False}
"""What a study of one task, 64 channels wide and free to look ahead, gives to its space."""

NOISE = (0.0, 0.5, 2.0)
"""Standard deviations of the noise, as multiples of that of the scores of samples."""

DEVELOPMENT = tuple(range(8))
"""Seeds that strategies were tuned on; seed and plant are one."""

HELD_OUT = tuple(range(100, 108))
"""Seeds that nothing was tuned on."""


@dataclass(frozen=True)
class Run:
    """One strategy on one objective.

    Args:
        strategy: Its name.
        objective: The objective's name.
        noise: See `Objective.noise`.
        seed: Of the plant, the noise and the strategy.
        best: After each trial, the exact score of the trial that was observed to be best so far.
        seconds: Of the processor, for all proposals.
        trained: After each trial, the seconds of training so far, where it was replayed; else ().
    """

    strategy: str
    objective: str
    noise: float
    seed: int
    best: tuple[float, ...]
    seconds: float
    trained: tuple[float, ...] = ()

    def trials_to(self, score: float) -> int | None:
        """Trials until the best is at least as good; None: never."""
        return next((n for n, best in enumerate(self.best, start=1) if best >= score), None)


@dataclass(frozen=True)
class Band:
    """What the runs of a strategy have in common.

    Args:
        mean: Of the best scores after the last trial.
        half: Half the width of Student's 95% interval of that mean; None for one run.
        gain: Mean of what is above random search from the same seed, on the same plant.
        gain_half: Half the width of its interval.
        until: Median of the trials to reach what random search has after all its trials, seed by
            seed; None where half of the runs or more never do.
        ms: Processor time of a proposal, mean.
    """

    mean: float
    half: float | None
    gain: float
    gain_half: float | None
    until: float | None
    ms: float


def run(
    strategy: Strategy, name: str, objective: Objective, *, trials: int, seed: int, noise: float
) -> Run:
    """Let a strategy search; every trial is measured before the next is proposed."""
    history: list[Observation] = []
    best: list[float] = []
    observed = -math.inf
    seconds = 0.0
    for number in range(trials):
        start = time.process_time()
        proposal = strategy.propose(history, random_stream(seed, number))
        seconds += time.process_time() - start
        exact = objective(proposal.derivation, proposal.learning_rate)
        score = exact + objective.noise(seed, number, noise)
        if score > observed:
            observed, incumbent = score, exact
        best.append(incumbent)
        history.append(
            Observation(
                number=number,
                state="complete",
                text=proposal.derivation.text,
                hash=canonical_hash(proposal.derivation),
                learning_rate=proposal.learning_rate,
                score=score,
                rung=0,
                origin=proposal.origin,
                parents=proposal.parents,
            )
        )
    return Run(name, objective.name, noise, seed, tuple(best), seconds)


def compare(
    strategies: Sequence[str],
    *,
    objectives: Sequence[str] = tuple(OBJECTIVES),
    noise: Sequence[float] = NOISE,
    seeds: Sequence[int] = DEVELOPMENT,
    trials: int = 200,
    workers: int = 1,
) -> Iterator[Run]:
    """Every strategy on every objective at every level of noise, from every seed.

    Args:
        strategies: Names.
        objectives: Names of `OBJECTIVES`.
        noise: Levels.
        seeds: Each a plant, and the seed of the search for it.
        trials: Of each run.
        workers: Runs at a time.

    Yields:
        Each run as it ends.
    """
    jobs = [
        (strategy, objective, level, seed, trials)
        for seed in seeds
        for objective in objectives
        for level in noise
        for strategy in strategies
    ]
    if workers == 1:
        for job in jobs:
            yield _run(*job)
        return
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        waiting = [pool.submit(_run, *job) for job in jobs]
        try:
            for done in as_completed(waiting):
                yield done.result()
        finally:
            pool.shutdown(cancel_futures=True)


def bands(runs: Sequence[Run]) -> dict[tuple[str, float, str], Band]:
    """Runs by objective, noise and strategy, each as one band; random search is the measure."""
    grouped: dict[tuple[str, float, str], list[Run]] = {}
    for each in runs:
        grouped.setdefault((each.objective, each.noise, each.strategy), []).append(each)
    found = {}
    for (objective, noise, strategy), of in sorted(grouped.items()):
        random = {r.seed: r.best[-1] for r in grouped.get((objective, noise, "random"), ())}
        last = [r.best[-1] for r in of]
        gains = [r.best[-1] - random[r.seed] for r in of if r.seed in random]
        reached = sorted(
            math.inf if (n := r.trials_to(random[r.seed])) is None else n
            for r in of
            if r.seed in random
        )
        until = statistics.median(reached) if reached else math.inf
        trials = sum(len(r.best) for r in of)
        found[objective, noise, strategy] = Band(
            mean=statistics.fmean(last),
            half=interval(last),
            gain=statistics.fmean(gains) if gains else math.nan,
            gain_half=interval(gains),
            until=None if until == math.inf else until,
            ms=1000 * sum(r.seconds for r in of) / trials,
        )
    return found


@cache
def _space() -> Space:
    return Space.load(str(find_space("hybrid.lark")), context=CONTEXT)


def _run(strategy: str, objective: str, noise: float, seed: int, trials: int) -> Run:
    space = _space()
    return run(
        make_strategy(strategy, space),
        strategy,
        OBJECTIVES[objective](space, seed),
        trials=trials,
        seed=seed,
        noise=noise,
    )

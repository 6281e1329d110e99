"""The best architectures of a history, and how much each of them counts."""

import math
from collections.abc import Iterable

from nas.search.base import Archive, Observation


def best_architectures(
    history: Iterable[Observation], archive: Archive, share: float
) -> list[Observation]:
    """The best trial of each of the best architectures, best first.

    Args:
        history: Trials; those without a score, or of texts that the space does not derive, are left
            out.
        archive: Knows the texts.
        share: Of the architectures, above 0 to 1; rounded up.
    """
    best: dict[str, Observation] = {}
    for trial in history:
        if not trial.finished or archive.derivation(trial.text) is None:
            continue
        if trial.hash not in best or trial.fitness > best[trial.hash].fitness:
            best[trial.hash] = trial
    ranked = sorted(best.values(), key=lambda trial: (trial.fitness, -trial.number), reverse=True)
    return ranked[: math.ceil(share * len(ranked))]


def rank_weights(count: int) -> list[float]:
    """How much architectures count, best first: evenly less, 1 on average."""
    return [2 * (count - rank) / (count + 1) for rank in range(count)]

"""Where a study stands: counts, the best so far, and the baselines it is measured against."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from nas.search.base import Observation


@dataclass(frozen=True)
class Standing:
    """A study at a moment.

    Args:
        counts: Number of trials by state.
        ranked: Finished trials, best first: those that came furthest, then by score.
        zoo: Names of the baselines by canonical hash.
    """

    counts: Mapping[str, int]
    ranked: tuple[Observation, ...]
    zoo: Mapping[str, str]

    @classmethod
    def of(cls, history: Sequence[Observation], zoo: Mapping[str, str]) -> "Standing":
        """The standing of a history; `zoo` gives the baselines' names by canonical hash."""
        finished = [trial for trial in history if trial.finished]
        ranked = sorted(finished, key=lambda trial: (trial.fitness, -trial.number), reverse=True)
        return cls(Counter(trial.state for trial in history), tuple(ranked), zoo)

    @property
    def finished(self) -> int:
        """Trials that need nothing more: complete, pruned or failed."""
        return sum(self.counts.get(state, 0) for state in ("complete", "pruned", "failed"))

    @property
    def best(self) -> Observation | None:
        """The best trial, zoo or not."""
        return self.ranked[0] if self.ranked else None

    @property
    def winner(self) -> Observation | None:
        """The best trial whose architecture is not one of the zoo's."""
        return next((trial for trial in self.ranked if trial.hash not in self.zoo), None)

    def baselines(self) -> dict[str, Observation]:
        """The best trial of each baseline that has one, best first."""
        best: dict[str, Observation] = {}
        for trial in self.ranked:
            if trial.hash in self.zoo:
                best.setdefault(self.zoo[trial.hash], trial)
        return best

    def architectures(self) -> list[Observation]:
        """The best trial of each architecture, best first."""
        best: dict[str, Observation] = {}
        for trial in self.ranked:
            best.setdefault(trial.hash, trial)
        return list(best.values())

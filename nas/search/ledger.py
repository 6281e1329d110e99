"""The trials of a study in memory: how far each has come, and what has been measured already."""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import replace

from nas.search.base import Observation
from nas.search.halving import Rungs
from nas.study.history import Trial


class Ledger:
    """What the record says, kept up to date by its only writer, so that it is read once.

    Args:
        rungs: Where trials are compared.
        trials: The record's trials in the order of their numbers.
    """

    def __init__(self, rungs: Rungs, trials: Iterable[Trial] = ()) -> None:
        self._rungs = rungs
        self._at_rung: list[dict[int, float]] = [{} for _ in rungs.steps]
        self._same: defaultdict[tuple[str, float], list[int]] = defaultdict(list)
        self.trials: list[Trial] = []
        self.history: list[Observation] = []
        for trial in trials:
            self.keep(trial)

    def keep(self, trial: Trial) -> None:
        """Take over what the record now says of a trial, new or not."""
        if trial.number == len(self.trials):
            self.trials.append(trial)
            self.history.append(trial.observation)
            self._same[trial.hash, trial.learning_rate].append(trial.number)
        else:
            self.trials[trial.number] = trial
            self.history[trial.number] = trial.observation
        for rung, score in enumerate(trial.scores):
            self._at_rung[rung][trial.number] = score

    def advance(self, trial: Trial, score: float) -> Trial:
        """A trial with a new score: through that rung, and all that need no training.

        Args:
            trial: The trial before.
            score: Its score at its next rung.

        Returns:
            The trial after it: complete, pruned, or running when it goes on to train.
        """
        while True:
            rung = len(trial.scores)
            trial = replace(trial, scores=(*trial.scores, score))
            if rung == self._rungs.last:
                return replace(trial, state="complete")
            others = [s for number, s in self._at_rung[rung].items() if number != trial.number]
            if not self._rungs.continues(rung, others, score):
                return replace(trial, state="pruned")
            known = self._measured(trial, rung + 1)
            if known is None:
                return trial
            score, replayed = known
            trial = replace(trial, replayed=replayed)

    def replay(self, trial: Trial) -> Trial:
        """A new trial with all that was measured of it before; itself, if nothing was."""
        known = self._measured(trial, 0)
        if known is None:
            return trial
        score, replayed = known
        return self.advance(replace(trial, replayed=replayed), score)

    def _measured(self, trial: Trial, rung: int) -> tuple[float, int] | None:
        """Score and number of an earlier measurement of the same work.

        Task, data, seed and the rest of the recipe are the study's; what can differ is the
        architecture and the learning rate.
        """
        for number in self._same[trial.hash, trial.learning_rate]:
            if number != trial.number and len(self.trials[number].scores) > rung:
                return self.trials[number].scores[rung], number
        return None

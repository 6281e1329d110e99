"""Early stopping of trials at rungs: successive halving that never waits."""

import math
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Rungs:
    """The stopping variant of asynchronous successive halving (ASHA).

    A trial that reaches a rung goes on when its score is among the best 1/`eta` of the scores
    recorded at that rung so far, its own included, and stops for good otherwise. Fewer than `eta`
    scores decide nothing: the trial goes on. The decision depends on the record alone, and is made
    once, when the rung is finished: no worker ever waits for another.

    Li et al., "A System for Massively Parallel Hyperparameter Tuning", 2020 (the rung levels and
    the ratio); Klein et al., "Model-based Asynchronous Hyperparameter and Neural Architecture
    Search", 2020 (the stopping variant).

    Args:
        steps: Training steps at which each rung ends, increasing; the last is the full budget.
        eta: One in `eta` goes on, at least 2.

    Raises:
        ValueError: If the steps do not increase or `eta` is below 2.
    """

    steps: tuple[int, ...]
    eta: int = 3

    def __post_init__(self) -> None:
        if not self.steps or self.steps[0] < 1:
            raise ValueError(f"rungs need at least one positive number of steps, not {self.steps}")
        if any(a >= b for a, b in zip(self.steps, self.steps[1:], strict=False)):
            raise ValueError(f"the steps of the rungs must increase: {self.steps}")
        if self.eta < 2:
            raise ValueError(f"eta must be at least 2, not {self.eta}")

    @classmethod
    def geometric(cls, steps: int, eta: int = 3, count: int = 3) -> "Rungs":
        """Rungs at `steps`, `steps / eta`, `steps / eta**2`, ...: at most `count`, at least one.

        Args:
            steps: The full budget.
            eta: Ratio between rungs, and the share that goes on.
            count: Number of rungs; rungs of less than one step are left out.
        """
        budgets = {round(steps / eta**k) for k in range(count)}
        return cls(tuple(sorted(b for b in budgets if b >= 1)), eta)

    @property
    def last(self) -> int:
        """Index of the last rung."""
        return len(self.steps) - 1

    def continues(self, rung: int, recorded: Sequence[float], score: float) -> bool:
        """Whether a trial that finished a rung goes on to the next.

        Args:
            rung: The rung it finished, from 0.
            recorded: Scores of all other trials at this rung so far, in any order, whatever became
                of them.
            score: Its own score at this rung, higher is better.

        Returns:
            False after the last rung and for a score that is not finite.
        """
        if rung >= self.last or not math.isfinite(score):
            return False
        finite = [other for other in recorded if math.isfinite(other)]
        if len(finite) + 1 < self.eta:
            return True
        kept = (len(finite) + 1) // self.eta
        return sum(other > score for other in finite) < kept

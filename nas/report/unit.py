"""The unit in which people are told scores: what is maximised may be the negative of an error."""

from dataclasses import dataclass

from nas.report.output import figure
from nas.tasks.metrics import NEGATIVE


@dataclass(frozen=True)
class Unit:
    """A metric, or the mean of several, as a study knows it.

    Args:
        name: As it is printed.
        higher: Whether more is better.
    """

    name: str
    higher: bool

    @classmethod
    def of(cls, score: str) -> "Unit":
        """That of a study's score.

        Args:
            score: What is maximised, e.g. `accuracy` or `negative mean squared error`.
        """
        return cls(score.removeprefix(NEGATIVE), not score.startswith(NEGATIVE))

    def value(self, score: float) -> float:
        """A score, or a difference of scores, in this unit."""
        return score if self.higher else -score

    def apart(self, gain: float) -> str:
        """How far a value is from another, in words.

        Args:
            gain: By how much the score is larger.
        """
        difference = self.value(gain)
        return f"{figure(abs(difference))} {'below' if difference < 0 else 'above'}"

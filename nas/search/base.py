"""What every strategy is given and gives back: observations, proposals, and what they share."""

import math
import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from nas.grammar.canonical import canonical_hash
from nas.grammar.derivation import Derivation
from nas.grammar.errors import SpaceError
from nas.grammar.space import Space

LEARNING_RATES = (3e-4, 1e-3, 3e-3, 1e-2, 3e-2)
"""The log grid that the learning rate, the last decision of a trial, is chosen from."""

DEFAULT_LEARNING_RATE = 3e-3
"""What the starting architectures are first measured with: the middle of the grid."""

START_LEARNING_RATES = (DEFAULT_LEARNING_RATE, 1e-2)
"""What they are measured with in turn: a gain over baselines that nobody tuned proves nothing."""

State = Literal["waiting", "running", "complete", "pruned", "failed"]


@dataclass(frozen=True, slots=True)
class Proposal:
    """The next trial.

    Args:
        derivation: The architecture.
        learning_rate: Peak learning rate of its training.
        origin: How it came about, for people: `start`, `random`, `regrow`, `crossover`, `tree`...
        parents: Numbers of the trials it was derived from.
    """

    derivation: Derivation
    learning_rate: float
    origin: str
    parents: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Observation:
    """One trial of the history, as far as it has come.

    Args:
        number: The trial's number in the study, from 0.
        state: Where it stands; `pruned` was stopped by a rung, `failed` has no score.
        text: The architecture's text.
        hash: Its canonical hash.
        learning_rate: Peak learning rate of its training.
        score: On validation at the highest rung reached, higher is better; None before the first.
        rung: The highest rung reached, from 0; None before the first.
        origin: As in its proposal.
        parents: As in its proposal.
    """

    number: int
    state: State
    text: str
    hash: str
    learning_rate: float
    score: float | None = None
    rung: int | None = None
    origin: str = ""
    parents: tuple[int, ...] = ()

    @property
    def finished(self) -> bool:
        """Whether it ended with a score, at the last rung or stopped before."""
        return self.state in ("complete", "pruned") and self.score is not None

    @property
    def fitness(self) -> tuple[int, float]:
        """What finished trials are compared by.

        A trial that came further beats one that was stopped: their scores were taken after
        different numbers of steps, and the later one has already won at the earlier rung.
        """
        assert self.score is not None
        return (self.rung or 0, self.score)


class Strategy(Protocol):
    """Proposes the next trial, as a pure function of the history and a random stream.

    Whatever a strategy keeps between two calls is a memo of pure functions, so that a resumed study
    proposes what the uninterrupted one would have proposed.
    """

    def propose(self, history: Sequence[Observation], rng: random.Random) -> Proposal:
        """The next trial.

        Args:
            history: Every trial of the study in the order of their numbers, unfinished ones too.
            rng: A fresh stream, see `random_stream`.
        """
        ...


def random_stream(seed: int, number: int) -> random.Random:
    """The random stream of one trial: a function of the study's seed and the trial's number."""
    return random.Random(f"{seed}/{number}")


def nearest_learning_rate(learning_rate: float) -> int:
    """The position on the grid that a learning rate is closest to, by their ratio."""
    distances = [abs(math.log(learning_rate / other)) for other in LEARNING_RATES]
    return distances.index(min(distances))


class Archive:
    """The texts of a history as derivations, each parsed once."""

    def __init__(self, space: Space) -> None:
        self._space = space
        self._derivations: dict[str, Derivation | None] = {}

    def keep(self, proposal: Proposal) -> Proposal:
        """Remember what a proposal's text is the text of; gives the proposal back."""
        self._derivations.setdefault(proposal.derivation.text, proposal.derivation)
        return proposal

    def derivation(self, text: str) -> Derivation | None:
        """The derivation of a text, or None when the space does not derive it.

        Under several caps there are a few that a study may be started with all the same: they fit,
        but the decisions, which keep a reserve for what is still open, do not lead there.
        """
        if text not in self._derivations:
            self._derivations[text] = self._parsed(text)
        return self._derivations[text]

    def _parsed(self, text: str) -> Derivation | None:
        try:
            derivation = self._space.parse(text)
        except SpaceError:
            return None
        return derivation if self._space.log_probability(derivation) > -math.inf else None


class Start:
    """The architectures that every strategy measures first.

    In order, each with the default learning rate, then all of them with the next, so that what
    is found is compared with baselines whose learning rate was chosen among as many at least.

    Args:
        derivations: Usually the zoo's; those with equal canonical hashes count once.
    """

    def __init__(self, derivations: Iterable[Derivation]) -> None:
        self._by_hash: dict[str, Derivation] = {}
        for derivation in derivations:
            self._by_hash.setdefault(canonical_hash(derivation), derivation)

    def propose(self, history: Sequence[Observation]) -> Proposal | None:
        """The first that the history does not contain, or None when it contains them all."""
        seen = {(observation.hash, observation.learning_rate) for observation in history}
        for rate in START_LEARNING_RATES:
            for key, derivation in self._by_hash.items():
                if (key, rate) not in seen:
                    return Proposal(derivation, rate, "start")
        return None


def propose_new(
    history: Sequence[Observation], draw: Callable[[int], Proposal], attempts: int
) -> Proposal:
    """The first proposal that the history does not contain yet.

    Args:
        history: Trials so far, unfinished and failed ones too: nothing is to be gained from a
            second measurement of the same architecture at the same learning rate.
        draw: Makes a proposal, given the number of the attempt from 0.
        attempts: After as many a repeated proposal is accepted: the space may be exhausted.
    """
    seen = {(observation.hash, observation.learning_rate) for observation in history}
    for attempt in range(attempts):
        proposal = draw(attempt)
        if (canonical_hash(proposal.derivation), proposal.learning_rate) not in seen:
            break
    return proposal

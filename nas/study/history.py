"""Trials as they stand in the record, and as strategies see them."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from optuna.storages import RDBStorage
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy import Connection, Select, column, func, select, table

from nas.errors import NasError
from nas.search.base import Observation, State
from nas.study.tables import attempts, jobs, parents

STATES: dict[TrialState, State] = {
    TrialState.WAITING: "waiting",
    TrialState.RUNNING: "running",
    TrialState.COMPLETE: "complete",
    TrialState.PRUNED: "pruned",
    TrialState.FAIL: "failed",
}


_OPTUNA_TRIALS = table("trials", column("trial_id"), column("study_id"))


@dataclass(frozen=True, slots=True)
class Trial:
    """One trial of the record.

    Args:
        id: Its key in the database.
        number: Its number in the study, from 0.
        state: Where it stands.
        text: The architecture's text.
        hash: Its canonical hash.
        learning_rate: Peak learning rate of its training.
        origin: How it was proposed.
        parents: Numbers of the trials it was derived from.
        scores: Its score at every rung it has finished, from the first.
        attempt: How many times it has been handed to a worker anew.
        replayed: Number of the trial whose result was taken over, instead of training again.
    """

    id: int
    number: int
    state: State
    text: str
    hash: str
    learning_rate: float
    origin: str
    parents: tuple[int, ...] = ()
    scores: tuple[float, ...] = ()
    attempt: int = 0
    replayed: int | None = None

    @property
    def finished(self) -> bool:
        """Whether nothing more is to be done for it."""
        return self.state in ("complete", "pruned", "failed")

    @property
    def observation(self) -> Observation:
        """What a strategy sees of it."""
        return Observation(
            number=self.number,
            state=self.state,
            text=self.text,
            hash=self.hash,
            learning_rate=self.learning_rate,
            score=self.scores[-1] if self.scores else None,
            rung=len(self.scores) - 1 if self.scores else None,
            origin=self.origin,
            parents=self.parents,
        )


@dataclass(frozen=True)
class Finished:
    """A job that was done, for `nas show`.

    Args:
        rung: The rung it trained to.
        attempt: The attempt it belonged to.
        seconds: Wall time of the training and the evaluation.
        result: Scores and loss curves of the sub-tasks.
        log: What went wrong, with its trace; "" if nothing did.
    """

    rung: int
    attempt: int
    seconds: float
    result: dict[str, Any]
    log: str


def read_trials(storage: RDBStorage, study_id: int, rungs: Sequence[int]) -> list[Trial]:
    """Every trial of a study in the order of their numbers.

    Args:
        storage: The study's database.
        study_id: The study.
        rungs: Steps of the rungs: the intermediate values at these are the scores.

    Raises:
        NasError: The database fails, or a trial in it is not of this program's making.
    """
    frozen = storage.get_all_trials(study_id, deepcopy=False)
    with storage.engine.connect() as connection:
        ancestry = _parents(connection, study_id)
        counts = _attempts(connection, study_id)
    trials = [
        _trial(trial, rungs, ancestry.get(trial._trial_id, ()), counts.get(trial._trial_id, 0))
        for trial in frozen
    ]
    trials.sort(key=lambda trial: trial.number)
    return trials


def read_jobs(storage: RDBStorage, trial: Trial) -> list[Finished]:
    """The jobs that were done for a trial, by rung."""
    query = select(jobs).where(jobs.c.trial_id == trial.id).order_by(jobs.c.rung)
    with storage.engine.connect() as connection:
        return [
            Finished(row.rung, row.attempt, row.seconds, json.loads(row.result), row.log)
            for row in connection.execute(query)
        ]


def best(trials: Iterable[Trial]) -> list[Trial]:
    """The completed trials from the best score down; the earlier of two equal ones first."""
    complete = [trial for trial in trials if trial.state == "complete"]
    return sorted(complete, key=lambda trial: (-trial.scores[-1], trial.number))


def _trial(
    frozen: FrozenTrial, rungs: Sequence[int], ancestry: tuple[int, ...], attempt: int
) -> Trial:
    attributes = frozen.user_attrs
    try:
        trial = Trial(
            id=frozen._trial_id,
            number=frozen.number,
            state=STATES[frozen.state],
            text=attributes["architecture"],
            hash=attributes["hash"],
            learning_rate=attributes["learning_rate"],
            origin=attributes["origin"],
            parents=ancestry,
            attempt=attempt,
            replayed=attributes.get("replayed"),
        )
    except KeyError as error:
        raise NasError(
            f"trial {frozen.number} has no {error.args[0]}: another program put it into the study, "
            "which cannot go on; start a new study with --name"
        ) from error
    values = frozen.intermediate_values
    scores = [values[step] for step in rungs if step in values]
    return replace(trial, scores=tuple(scores))


def _parents(connection: Connection, study_id: int) -> dict[int, tuple[int, ...]]:
    query = select(parents).where(parents.c.trial_id.in_(_ids(study_id)))
    found: dict[int, tuple[int, ...]] = {}
    for row in connection.execute(query.order_by(parents.c.trial_id, parents.c.position)):
        found[row.trial_id] = (*found.get(row.trial_id, ()), row.number)
    return found


def _attempts(connection: Connection, study_id: int) -> dict[int, int]:
    query = select(attempts.c.trial_id, func.max(attempts.c.attempt))
    query = query.where(attempts.c.trial_id.in_(_ids(study_id))).group_by(attempts.c.trial_id)
    return {row[0]: row[1] for row in connection.execute(query)}


def _ids(study_id: int) -> Select[tuple[int]]:
    return select(_OPTUNA_TRIALS.c.trial_id).where(_OPTUNA_TRIALS.c.study_id == study_id)

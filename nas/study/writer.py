"""What the driver writes: each method is one transaction, so a trial is never half there.

Whenever the process is killed, a trial is either not there at all (it is proposed again, the same),
or running with the scores of the rungs it has finished (it goes on from there under its number), or
finished. Nothing else can be found by the next driver.
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from optuna.storages import RDBStorage
from optuna.trial import TrialState, create_trial
from sqlalchemy import Connection, column, insert, select, table, update

from nas.errors import NasError
from nas.search.base import State
from nas.study.engine import transaction
from nas.study.history import STATES, Trial
from nas.study.lease import Lease
from nas.study.tables import attempts, jobs, parents

_OPTUNA_TRIALS = table("trials", column("trial_id"), column("number"))

_OPTUNA: dict[State, TrialState] = {ours: theirs for theirs, ours in STATES.items()}

_LOG_CHARACTERS = 20_000
"""A longer log keeps its end: a trace says last what went wrong."""


@dataclass(frozen=True)
class Outcome:
    """What a job brought, as recorded beside the trial's score.

    Args:
        rung: The rung it trained to.
        seconds: Wall time.
        details: JSON values: scores and loss curves of the sub-tasks.
        log: Error and trace, or "".
    """

    rung: int
    seconds: float
    details: dict[str, Any] = field(default_factory=dict)
    log: str = ""


class Writer:
    """The writer of a study.

    Args:
        storage: The study's database.
        study_id: The study.
        rungs: Steps of the rungs: a rung's score is the intermediate value at its step.
        lease: Held by this process.
    """

    def __init__(
        self, storage: RDBStorage, study_id: int, rungs: Sequence[int], lease: Lease
    ) -> None:
        self._storage = storage
        self._study_id = study_id
        self._rungs = tuple(rungs)
        self._lease = lease

    def create(self, trial: Trial) -> Trial:
        """Record a new trial with all that belongs to it: running, or finished by a replay.

        Args:
            trial: As it is to stand in the record; its `id` is not known yet.

        Returns:
            The trial with its `id`.
        """
        attributes: dict[str, Any] = {
            "architecture": trial.text,
            "hash": trial.hash,
            "learning_rate": trial.learning_rate,
            "origin": trial.origin,
        }
        if trial.replayed is not None:
            attributes["replayed"] = trial.replayed
        template = create_trial(
            state=_OPTUNA[trial.state],
            value=trial.scores[-1] if trial.state == "complete" else None,
            user_attrs=attributes,
            intermediate_values=dict(zip(self._rungs, trial.scores, strict=False)),
        )
        with transaction(self._storage) as connection:
            self._lease.require(connection)
            key = self._storage.create_new_trial(self._study_id, template)
            query = select(_OPTUNA_TRIALS.c.number).where(_OPTUNA_TRIALS.c.trial_id == key)
            number = connection.execute(query).scalar_one()
            if number != trial.number:
                raise NasError(
                    f"trial {trial.number} would have become {number}: another program writes "
                    "this study; stop it and start a new study with --name"
                )
            rows = [
                {"trial_id": key, "position": position, "number": parent}
                for position, parent in enumerate(trial.parents)
            ]
            if rows:
                connection.execute(insert(parents), rows)
            if trial.attempt:
                connection.execute(insert(attempts).values(trial_id=key, attempt=trial.attempt))
            self._note(key, trial)
        return replace(trial, id=key)

    def start(self, trial: Trial) -> Trial:
        """Record that a waiting trial is handed out again, as a new attempt."""
        attempt = trial.attempt + 1
        with transaction(self._storage) as connection:
            self._lease.require(connection)
            self._storage.set_trial_state_values(trial.id, TrialState.RUNNING)
            connection.execute(insert(attempts).values(trial_id=trial.id, attempt=attempt))
        return replace(trial, state="running", attempt=attempt)

    def finish(self, before: Trial, after: Trial, outcome: Outcome) -> None:
        """Record what a job brought: new scores, and the trial's end if this was its end.

        Args:
            before: The trial as the record has it, running.
            after: With its new scores (the job's, and those replayed after it) and its new state.
            outcome: The job's.
        """
        key = before.id
        with transaction(self._storage) as connection:
            self._lease.require(connection)
            for rung in range(len(before.scores), len(after.scores)):
                score = after.scores[rung]
                self._storage.set_trial_intermediate_value(key, self._rungs[rung], score)
            if after.replayed != before.replayed:
                self._storage.set_trial_user_attr(key, "replayed", after.replayed)
            connection.execute(
                insert(jobs).values(
                    trial_id=key,
                    rung=outcome.rung,
                    attempt=before.attempt,
                    seconds=outcome.seconds,
                    result=json.dumps(outcome.details),
                    log=outcome.log[-_LOG_CHARACTERS:],
                )
            )
            if after.finished:
                values = [after.scores[-1]] if after.state == "complete" else None
                self._storage.set_trial_state_values(key, _OPTUNA[after.state], values)

    def wait(self, trials: Iterable[Trial], lost: str | None = None) -> list[Trial]:
        """Set running trials back to waiting, under the same numbers.

        Args:
            trials: The trials.
            lost: Why their workers were lost; None: nobody's fault.
        """
        trials = list(trials)
        with transaction(self._storage) as connection:
            self._lease.require(connection)
            for trial in trials:
                self._storage.set_trial_state_values(trial.id, TrialState.WAITING)
                if lost is not None:
                    _mark_lost(connection, trial, lost)
        return [replace(trial, state="waiting") for trial in trials]

    def _note(self, key: int, trial: Trial) -> None:
        """The note that optuna-dashboard shows with a trial; it keeps them with the study."""
        lines = [f"`{trial.text}`", "", f"{trial.origin}, learning rate {trial.learning_rate:g}"]
        if trial.parents:
            lines[-1] += f", from trial {', '.join(map(str, trial.parents))}"
        if trial.replayed is not None:
            lines[-1] += f", result of trial {trial.replayed}"
        body = "\n".join(lines)
        attributes = [(f"dashboard:{key}:note_ver", 1)] + [
            (f"dashboard:{key}:note_str:{i}", body[start : start + _NOTE_CHARACTERS])
            for i, start in enumerate(range(0, len(body), _NOTE_CHARACTERS))
        ]
        for name, value in attributes:
            self._storage.set_study_system_attr(self._study_id, name, value)


_NOTE_CHARACTERS = 2045  # the dashboard's length of one piece of a note


def _mark_lost(connection: Connection, trial: Trial, why: str) -> None:
    mine = (attempts.c.trial_id == trial.id) & (attempts.c.attempt == trial.attempt)
    connection.execute(update(attempts).where(mine).values(lost=why[:500]))

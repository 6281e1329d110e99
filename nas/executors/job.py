"""A job: one trial trained up to one rung. What a worker is sent, and what it sends back.

Both are small and made of JSON values, so that a worker needs neither the space file nor the
database. The architecture travels as its term.
"""

import json
import math
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

from nas.errors import NasError, UsageError
from nas.grammar.derivation import Term

if TYPE_CHECKING:
    from nas.tasks.base import Task
    from nas.training.train import TrainResult

CHECKPOINTS = 10
"""How often a training run leaves a checkpoint over its full budget."""

Status = Literal["complete", "failed", "stopped", "unable"]


@dataclass(frozen=True)
class Job:
    """Train one architecture on every sub-task up to one rung.

    Args:
        study: Name of the study.
        trial: Number of the trial, from 0.
        attempt: Which handing out of the trial this is, from 1.
        rung: The rung to reach, from 0.
        architecture: The term as JSON, see `term_to_json`.
        text: The architecture's text, for people.
        task: The task or suite.
        tasks: The sub-tasks of it that the study's score is the mean of.
        profile: Their size.
        data_hashes: Hash that the data of each sub-task must have.
        data: Folder with real data, or None.
        width: D, the model's width.
        recipe: Recipe of the training as a mapping, the trial's learning rate in it.
        seed: Of the weights and the order of the data.
        until_step: Steps at the end of this rung.
        final_step: Steps at the end of the last rung: a sub-task with another full budget is
            trained for the same share of it.
        folder: Where this attempt leaves its checkpoints.
        earlier: Folders of earlier attempts, the newest first: it goes on from what is there.
        seconds: Stop after this time; None: no limit.
        layers: Text of the person's own files of layers, by name (see `nas.layers.own`).
        task_files: Text of the person's own files of tasks (see `nas.tasks.own.code`).
        split: What to score on; `test` only for the final comparison.
    """

    study: str
    trial: int
    attempt: int
    rung: int
    architecture: list[Any]
    text: str
    task: str
    tasks: tuple[str, ...]
    profile: str
    width: int
    recipe: Mapping[str, Any]
    seed: int
    until_step: int
    final_step: int
    folder: str
    earlier: tuple[str, ...] = ()
    data_hashes: Mapping[str, str] = field(default_factory=dict)
    data: str | None = None
    seconds: float | None = None
    layers: Mapping[str, str] = field(default_factory=dict)
    task_files: Mapping[str, str] = field(default_factory=dict)
    split: Literal["validation", "test"] = "validation"

    def to_json(self) -> str:
        """As it is sent; `from_json` gives an equal job."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> "Job":
        """The inverse of `to_json`."""
        values = json.loads(text)
        return cls(**values | {name: tuple(values[name]) for name in ("tasks", "earlier")})


@dataclass(frozen=True)
class JobResult:
    """What came of a job.

    Args:
        status: `complete`: there is a score. `failed`: the architecture cannot be trained like
            this. `stopped`: time was up; it can go on later. `unable`: the machine could not
            do its part (a full disk, missing data), the architecture is not to blame.
        score: Mean of the sub-tasks' scores, higher is better; None unless complete.
        scores: Score by sub-task.
        losses: `[step, training loss]` points by sub-task.
        seconds: Wall time.
        error: One line on why there is no score, or "".
        log: Its trace.
    """

    status: Status
    score: float | None = None
    scores: Mapping[str, float] = field(default_factory=dict)
    losses: Mapping[str, list[list[float]]] = field(default_factory=dict)
    seconds: float = 0.0
    error: str = ""
    log: str = ""

    def to_json(self) -> str:
        """As it is sent back; `from_json` gives an equal result."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> "JobResult":
        """The inverse of `to_json`."""
        return cls(**json.loads(text))

    @classmethod
    def failure(cls, error: str, log: str = "", seconds: float = 0.0) -> "JobResult":
        """A failed job: the trial ends here, the search goes on."""
        return cls("failed", error=error, log=log, seconds=seconds)


JobFunction = Callable[[Job], JobResult]


class JobSource(Protocol):
    """Where an executor gets jobs and leaves results: a study's driver, the final comparison."""

    def next_job(self) -> Job | None:
        """The next job; None when there is none now, or, when `done`, none at all."""
        ...

    def tell(self, job: Job, result: JobResult) -> None:
        """Record what came of a job."""
        ...

    def lost(self, job: Job, why: str) -> None:
        """Take a job back whose worker died."""
        ...

    def suspend(self) -> None:
        """Take all jobs back that are not finished."""
        ...

    @property
    def done(self) -> bool:
        """Whether no job is running and none will come."""
        ...


def guarded(job_function: JobFunction, job: Job) -> JobResult:
    """Run a job so that whatever goes wrong in it is a result; only Ctrl-C passes through.

    Args:
        job_function: Such as `run_job`.
        job: The job.

    Returns:
        `unable` for errors of the machine (`OSError`, `NasError`), `failed` for all others.
    """
    start = time.perf_counter()
    try:
        return job_function(job)
    except (OSError, NasError) as error:
        return JobResult("unable", error=_line(error), log=traceback.format_exc())
    except Exception as error:
        seconds = time.perf_counter() - start
        return JobResult.failure(_line(error), traceback.format_exc(), seconds)


def run_job(job: Job) -> JobResult:
    """Train and score the job's architecture on each of its sub-tasks.

    Sub-tasks that an earlier attempt has finished are only scored again. A damaged checkpoint is
    said aloud on standard error and left aside: training goes on from the one before it, or from
    the start, and computes the same.

    Raises:
        NasError: The data is missing or is not the study's.
        OSError: A checkpoint could not be written.
    """
    start = time.perf_counter()
    term = term_from_json(job.architecture)
    if job.layers:
        from nas.layers.own import load_source

        for name, source in job.layers.items():
            load_source(name, source)
    if job.task_files:
        from nas.tasks.own import code

        for name, source in job.task_files.items():
            code.load_source(name, source)
    scores: dict[str, float] = {}
    losses: dict[str, list[list[float]]] = {}
    available, weights = _load_tasks(job.task, job.profile, job.data)
    for name in job.tasks:
        if name not in available:
            raise NasError(
                f"{name}, part of the study's score, has no data here: name its folder with --data"
            )
        task = available[name]
        expected = job.data_hashes.get(name, task.data_hash)
        if task.data_hash != expected:
            raise NasError(
                f"the data of {name} is not the study's (hash {task.data_hash[:12]}, not "
                f"{expected[:12]}): name the right folder with --data"
            )
        left = None if job.seconds is None else job.seconds - (time.perf_counter() - start)
        try:
            result = _train(job, term, task, name.replace("/", "-"), left)
        except UsageError as wrong:  # a term that is no architecture; the data is there by now
            return JobResult.failure(_line(wrong), traceback.format_exc())
        losses[name] = [[step, loss] for step, loss in result.losses]
        seconds = time.perf_counter() - start
        if result.score is None:
            status: Status = "stopped" if result.status == "stopped" else "failed"
            error = f"{name}: {result.error}" if result.error else ""
            return JobResult(status, None, scores, losses, seconds, error, result.log)
        scores[name] = result.score
    score = math.fsum(weights[name] * scores[name] for name in scores)
    score /= math.fsum(weights[name] for name in scores)
    return JobResult("complete", score, scores, losses, time.perf_counter() - start)


def term_to_json(term: Term | str) -> Any:
    """A term as `[name, [arguments]]`, a kept literal as itself."""
    if isinstance(term, str):
        return term
    return [term.name, [term_to_json(argument) for argument in term.arguments]]


def term_from_json(value: Any) -> Term:
    """The inverse of `term_to_json` for a whole architecture."""
    name, arguments = value
    return Term(name, tuple(a if isinstance(a, str) else term_from_json(a) for a in arguments))


def _train(job: Job, term: Term, task: "Task", name: str, seconds: float | None) -> "TrainResult":
    """Train on one sub-task, from the furthest checkpoint that can be read."""
    from nas.tasks.recipe import Recipe
    from nas.training.checkpoint import DamagedCheckpointError
    from nas.training.train import train

    until = max(1, round(task.steps * job.until_step / job.final_step))
    folder = Path(job.folder) / name
    found = _checkpoints([folder, *(Path(earlier) / name for earlier in job.earlier)], until)
    while True:
        resume = found.pop(0) if found else None
        try:
            return train(
                term,
                task,
                Recipe.from_dict(job.recipe),
                width=job.width,
                seed=job.seed,
                until_step=until,
                resume=resume,
                checkpoints=folder,
                checkpoint_every=max(1, task.steps // CHECKPOINTS),
                seconds=seconds,
                device=_device(),
                splits=(job.split,),
            )
        except DamagedCheckpointError as error:
            print(f"warning: trial {job.trial}: {error} (left aside)", file=sys.stderr)


def _checkpoints(folders: list[Path], until: int) -> list[Path]:
    """The last checkpoint of each folder, furthest first; none beyond the step to reach."""
    from nas.training.checkpoint import latest_checkpoint

    found = [path for path in map(latest_checkpoint, folders) if path is not None]
    steps = {path: int(path.name.rpartition("-")[2]) for path in found}
    return sorted((p for p in found if steps[p] <= until), key=lambda p: -steps[p])


@lru_cache(maxsize=2)
def _load_tasks(
    name: str, profile: str, data: str | None
) -> tuple[dict[str, "Task"], dict[str, float]]:
    """The sub-tasks of a suite and their weights; kept, for a worker meets them in every job."""
    from nas.tasks.registry import load_task

    suite = load_task(name, profile, Path(data) if data is not None else None)
    weights = suite.weights or (1.0,) * len(suite.tasks)
    tasks = {task.name: task for task in suite.tasks}
    return tasks, dict(zip(suite.names, weights, strict=True))


@lru_cache(maxsize=1)
def _device() -> str:
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def _line(error: BaseException) -> str:
    """An exception as one line."""
    text = " ".join(str(error).split())
    if isinstance(error, NasError):
        return text
    return f"{type(error).__name__}: {text}" if text else type(error).__name__

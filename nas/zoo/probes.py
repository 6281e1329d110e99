"""Does a system learn the task it is known to solve? Trained for real, from several seeds."""

from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, field, replace
from multiprocessing import get_context
from pathlib import Path

import torch

from nas.errors import UsageError
from nas.grammar.errors import SpaceError
from nas.report.output import rounded
from nas.tasks.base import Task
from nas.tasks.own.code import load_source
from nas.tasks.recipe import Recipe
from nas.tasks.registry import load_task
from nas.training.train import train
from nas.zoo.learned import is_solved
from nas.zoo.published import place, spaces


@dataclass(frozen=True)
class Probe:
    """One training.

    Args:
        name: What the architecture is called.
        text: Its text.
        hash: Its canonical hash.
        task: The task.
        seed: Of weights and data order.
        width: D.
        profile: Of the task.
        steps: Budgets that are tried in turn until one solves the task; each trains anew.
        learning_rate: Peak.
        space: The space file.
        data: Folder with original data.
        task_files: Text of the person's own files of tasks, by name.
    """

    name: str
    text: str
    hash: str
    task: str
    seed: int = 0
    width: int = 32
    profile: str = "small"
    steps: tuple[int, ...] = (600, 1800)
    learning_rate: float = 3e-3
    space: str = "hybrid.lark"
    data: str | None = None
    task_files: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Outcome:
    """What a training came to.

    Args:
        name: The text.
        hash: Canonical hash of the architecture.
        task: The task.
        seed: The seed.
        width: D.
        profile: Of the task.
        learning_rate: Peak.
        metric: What the task counts.
        higher: Whether more of it is better.
        value: Of the metric on the test split, in its own unit; None where training failed.
        trivial: What the best trivial rule reaches on validation.
        steps: Steps of the training that was scored.
        seconds: Of all trainings.
        parameters: Of the whole model.
        state: Numbers that a stream keeps after the task's length; 0 where it looks ahead.
        error: Why there is no value.
    """

    name: str
    hash: str
    task: str
    seed: int
    width: int
    profile: str
    learning_rate: float
    metric: str
    higher: bool
    value: float | None
    trivial: float
    steps: int
    seconds: float
    parameters: int
    state: int
    error: str = ""

    @property
    def solved(self) -> bool:
        """Whether no longer training is needed."""
        return self.value is not None and is_solved(self.higher, self.value, self.trivial)


def run(probe: Probe) -> Outcome:
    """Trains one system on one task.

    A system that looks ahead may do so in a causal task if no input holds an answer; elsewhere it
    is a failed outcome.

    Raises:
        UsageError: See `task_of`.
    """
    torch.set_num_threads(1)
    for name, source in probe.task_files.items():
        load_source(name, source)
    task = task_of(probe.task, probe.profile, probe.data)
    best = max if task.metric.higher else min
    causal, free = spaces(probe.space, (task.length,), probe.width)
    found = Outcome(
        name=probe.name,
        hash=probe.hash,
        task=probe.task,
        seed=probe.seed,
        width=probe.width,
        profile=probe.profile,
        learning_rate=probe.learning_rate,
        metric=task.metric.name,
        higher=task.metric.higher,
        value=None,
        trivial=rounded(best(task.baselines.values())),
        steps=0,
        seconds=0.0,
        parameters=0,
        state=0,
    )
    try:
        allowed = [causal, free] if task.hidden_answers else [causal] if task.causal else [free]
        placed = place(probe.text, allowed)
    except SpaceError as error:
        return replace(found, error=f"{probe.task}: {error}")
    found = replace(found, state=placed.architecture.state)
    for steps in probe.steps:
        result = train(
            placed.derivation.term,
            replace(task, steps=steps, causal=placed.shape.causal),
            Recipe(learning_rate=probe.learning_rate),
            width=probe.width,
            seed=probe.seed,
            splits=("test",),
        )
        found = replace(
            found,
            value=None if result.score is None else rounded(task.metric.value(result.score)),
            steps=steps,
            seconds=round(found.seconds + result.seconds, 1),
            parameters=result.parameters,
            error=result.error or "",
        )
        if found.solved:
            break
    return found


def task_of(name: str, profile: str, data: str | None = None) -> Task:
    """The one task that a name stands for.

    Args:
        name: Of a task, or of a suite of one.
        profile: `paper` or `small`.
        data: Folder with original data.

    Raises:
        UsageError: There is no such task, its data is missing, it is a suite of several, or it has
            no trivial rule.
    """
    suite = load_task(name, profile, None if data is None else Path(data))
    if len(suite.tasks) != 1:
        names = ", ".join(task.name for task in suite.tasks)
        raise UsageError(f"a probe is of one task, and {name} is a suite: choose one of {names}")
    (task,) = suite.tasks
    if not task.rules:
        raise UsageError(f"{name} has no trivial rule to compare with: give its Task `rules`")
    return task


def run_all(probes: Iterable[Probe], workers: int) -> Iterator[Outcome]:
    """Runs many, several at a time; each is yielded as it ends.

    Raises:
        NasError: One could not be begun; the others are left.
    """
    if workers == 1:
        yield from map(run, probes)
        return
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        waiting = [pool.submit(run, probe) for probe in probes]
        try:
            for done in as_completed(waiting):
                yield done.result()
        finally:
            pool.shutdown(cancel_futures=True)

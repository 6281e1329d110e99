"""What `nas train` says of its trainings, as lines for people and rows of JSON."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from nas.report.intervals import interval
from nas.report.output import figure, rounded
from nas.tasks.base import Task
from nas.tasks.published import Figure
from nas.tasks.recipe import Recipe
from nas.training.evaluate import Evaluation
from nas.training.sweep import Trained, spelled
from nas.training.train import Held


def row(task: Task, width: int, training: Trained, *, breakdown: bool) -> dict[str, Any]:
    """One training, for a line of JSON.

    Args:
        task: What was trained on.
        width: D.
        training: What came of it.
        breakdown: Whether by position and difficulty, too.
    """
    result = training.result
    found: dict[str, Any] = {
        "name": task.name,
        "profile": task.profile,
        "width": width,
        "learning_rate": training.recipe.learning_rate,
        "weight_decay": training.recipe.weight_decay,
        "seed": training.seed,
        "status": result.status,
        "metric": task.metric.name,
        "baselines": {name: rounded(value) for name, value in task.baselines.items()},
        "steps": result.step,
        "seconds": round(result.seconds, 2),
        "parameters": result.parameters,
    }
    if result.score is None:
        return {**found, "score": None, "error": result.error}
    split, evaluations = next(iter(result.evaluations.items()))
    found |= {
        "split": split,
        "score": rounded(result.score),
        "value": rounded(evaluations[0].value),
        "lengths": {str(e.length): rounded(e.value) for e in evaluations},
    }
    if breakdown:
        found["positions"] = _rounded(evaluations[0].positions)
        found["difficulty"] = _rounded(evaluations[0].difficulty)
    return found


def line(task: Task, width: int, training: Trained, *, swept: bool) -> str:
    """One training, for people.

    Args:
        task: What was trained on.
        width: D.
        training: What came of it.
        swept: Whether others differ in their recipe: it is then said.
    """
    result = training.result
    head = f"{task.name} ({task.profile})"
    if swept:
        head = f"{head}, {spelled(width, training.recipe)}, seed {training.seed}"
    if result.score is None:
        return f"{head}: {result.error or 'stopped'} after {result.step} steps"
    split, evaluations = next(iter(result.evaluations.items()))
    told = f"{head}: {task.metric.name} {figure(evaluations[0].value)} on {split} "
    return (
        f"{told}after {result.step} steps, {result.seconds:.1f} s, {result.parameters:,} parameters"
    )


def trivial(task: Task) -> str:
    """What trivial rules reach."""
    return ", ".join(f"{name} {figure(value)}" for name, value in task.baselines.items())


def breakdown_lines(found: Evaluation) -> list[str]:
    """By position and by difficulty, for people."""
    lines = []
    for title, values in (("position", found.positions), ("difficulty", found.difficulty)):
        if values:
            cells = ", ".join(f"{key}: {figure(value)}" for key, value in values.items())
            lines.append(f"  by {title}: {cells}")
    return lines


def choice(task: Task, width: int, recipe: Recipe, values: Sequence[float]) -> str:
    """The recipe that validation has chosen, and the values on the test split."""
    return (
        f"{task.name}: {spelled(width, recipe)} is best on validation; "
        f"{task.metric.name} {spread(values)} on test"
    )


def choice_row(
    task: Task, width: int, best: Sequence[Trained], beside: Sequence[Figure]
) -> dict[str, Any]:
    """The same for a line of JSON, with what is published at this setting."""
    recipe, found = best[0].recipe, [training.result.evaluations["test"] for training in best]
    return {
        "name": task.name,
        "profile": task.profile,
        "width": width,
        "chosen": {"learning_rate": recipe.learning_rate, "weight_decay": recipe.weight_decay},
        "split": "test",
        "metric": task.metric.name,
        "value": rounded(statistics.fmean(of[0].value for of in found)),
        "lengths": {
            str(same[0].length): [rounded(evaluation.value) for evaluation in same]
            for same in zip(*found, strict=True)
        },
        "published": [asdict(each) for each in beside],
    }


def at_length(task: Task, split: Held, found: Sequence[Evaluation]) -> str:
    """The values of all seeds at one length."""
    length = found[0].length
    where = f"at {length} tokens" if length == task.length else f"at {length} tokens, not trained"
    values = [evaluation.value for evaluation in found]
    return f"{task.name} {where}: {task.metric.name} {spread(values)} on {split}"


def spread(values: Sequence[float]) -> str:
    """A mean, with its interval over seeds where there are several."""
    half = interval(values)
    mean = figure(statistics.fmean(values))
    return mean if half is None else f"{mean} ± {figure(half)} (95%, {len(values)} seeds)"


def _rounded(values: Mapping[int, float]) -> dict[str, float]:
    return {str(key): rounded(value) for key, value in values.items()}

"""A publication's whole setting: train every recipe, choose on validation, test the choice."""

import statistics
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from nas.errors import NasError
from nas.grammar.derivation import Term
from nas.tasks.base import Task
from nas.tasks.recipe import Recipe
from nas.training.checkpoint import latest_checkpoint
from nas.training.train import Held, TrainResult, train

CHECKPOINTS = 10
"""Checkpoints of a training."""

Advance = Callable[[int, float], None]


@dataclass(frozen=True)
class Trained:
    """One training of a sweep.

    Args:
        recipe: How it was trained.
        seed: Of it.
        result: What came of it.
    """

    recipe: Recipe
    seed: int
    result: TrainResult


def sweep(
    term: Term,
    task: Task,
    *,
    width: int,
    recipes: Sequence[Recipe],
    seeds: Sequence[int],
    splits: Sequence[Held],
    also: Sequence[Task] = (),
    until_step: int | None = None,
    enough: float | None = None,
    device: str = "cpu",
    checkpoints: Path | None = None,
    watch: Callable[[str, int], AbstractContextManager[Advance]],
) -> Iterator[Trained]:
    """Train an architecture by every recipe, from every seed.

    Args:
        term: The architecture.
        task: What it is trained on.
        width: D.
        recipes: Each is trained from every seed.
        seeds: Of the weights and the order of the data.
        splits: What to measure on, see `train`.
        also: Tasks that trained models are measured on, too.
        until_step: Stop after this step; None: the task's full budget.
        enough: See `train`.
        device: Where to train.
        checkpoints: Trainings leave checkpoints here, each in a folder of its own, and go on from
            what stands there; None: no checkpoints.
        watch: Given a training's name and steps, shows its progress while it is entered.

    Yields:
        Each training, once it has ended.

    Raises:
        NasError: There is but one recipe, and it failed.
    """
    for recipe in recipes:
        for seed in seeds:
            folder = (
                None if checkpoints is None else checkpoints / _folder(task, width, recipe, seed)
            )
            told = task.name if len(recipes) == 1 else f"{task.name} {spelled(width, recipe)}"
            with watch(told, min(until_step or task.steps, task.steps)) as advance:
                result = train(
                    term,
                    task,
                    recipe,
                    width=width,
                    seed=seed,
                    until_step=until_step,
                    resume=None if folder is None else latest_checkpoint(folder),
                    checkpoints=folder,
                    checkpoint_every=None if folder is None else max(1, task.steps // CHECKPOINTS),
                    device=device,
                    splits=splits,
                    also=also,
                    enough=enough,
                    on_step=advance,
                )
            if result.score is None and len(recipes) == 1:
                raise NasError(f"{task.name}: {result.error or 'stopped before its last step'}")
            yield Trained(recipe, seed, result)


def chosen(trainings: Sequence[Trained]) -> list[Trained]:
    """The trainings of the recipe with the best mean score on what was measured first.

    Args:
        trainings: Of one architecture, task and width; a recipe of which one failed is never best.

    Raises:
        NasError: Of every recipe one has failed.
    """
    by_recipe: dict[Recipe, list[Trained]] = {}
    for training in trainings:
        by_recipe.setdefault(training.recipe, []).append(training)
    means = {
        recipe: statistics.fmean(t.result.score for t in of if t.result.score is not None)
        for recipe, of in by_recipe.items()
        if all(t.result.score is not None for t in of)
    }
    if not means:
        reasons = {t.result.error or "stopped" for t in trainings if t.result.score is None}
        raise NasError(f"no recipe could be trained: {'; '.join(sorted(reasons))}")
    return by_recipe[max(means, key=lambda recipe: means[recipe])]


def spelled(width: int, recipe: Recipe) -> str:
    """What the trainings of a sweep differ in."""
    return f"D={width} lr={recipe.learning_rate:.4g} wd={recipe.weight_decay:g}"


def _folder(task: Task, width: int, recipe: Recipe, seed: int) -> Path:
    # All that may differ between two trainings into the same folder stands in the name.
    name = task.name.replace("/", "-")
    of = spelled(width, recipe).replace(" ", "-")
    return Path(name) / f"{of}-seed={seed}"

"""How a task is trained: as its publication does, or as a call asks for instead."""

from dataclasses import dataclass

from nas.tasks.base import Task
from nas.tasks.lengths import longer
from nas.tasks.published import Figure, figures
from nas.tasks.setting import Setting
from nas.training.train import Held


@dataclass(frozen=True)
class Plan:
    """All trainings of an architecture on a task.

    Args:
        task: The task.
        setting: Of all trainings.
        widths: D: each is gone through by itself.
        seeds: Of each recipe.
        until: Steps after which a training stops.
        splits: What is measured: recipes are compared on the first, the last is told.
        also: The task at other lengths, which trained models are measured on, too.
        as_published: Whether nothing but the width differs from the task's publication.
    """

    task: Task
    setting: Setting
    widths: tuple[int, ...]
    seeds: range
    until: int
    splits: tuple[Held, ...]
    also: tuple[Task, ...]
    as_published: bool

    @property
    def swept(self) -> bool:
        """Whether validation chooses among recipes."""
        return len(self.setting.recipes) > 1

    @property
    def trainings(self) -> int:
        """How many there are."""
        return len(self.widths) * len(self.setting.recipes) * len(self.seeds)

    def published(self, width: int) -> tuple[Figure, ...]:
        """The figures to compare with; (): none are of this setting."""
        widths = self.task.setting.widths
        if self.splits[-1] != "test" or not self.as_published or (widths and width not in widths):
            return ()
        return figures(self.task, width)


def plan(
    task: Task,
    *,
    usual_width: int,
    seeds: range,
    learning_rate: float | None = None,
    weight_decay: float | None = None,
    steps: int | None = None,
    width: int | None = None,
    depth: int | None = None,
    lengths: str | None = None,
    test: bool = False,
) -> Plan:
    """The plan of a task; what is None is as in its publication.

    Args:
        task: The task.
        usual_width: D where neither the call nor the publication says it.
        seeds: Of each recipe.
        learning_rate: Peak, instead.
        weight_decay: Instead.
        steps: Stop after so many.
        width: D, instead.
        depth: How often the architecture repeats its block, instead.
        lengths: Other lengths to measure at, see `nas.tasks.lengths`.
        test: Whether the test split is told where no recipe is chosen.

    Raises:
        UsageError: The task cannot be asked at such lengths.
    """
    setting = task.setting.changed(learning_rate, weight_decay, width, depth)
    splits: tuple[Held, ...] = ("test",) if test else ("validation",)
    if len(setting.recipes) > 1:
        splits = ("validation", "test")
    return Plan(
        task=task,
        setting=setting,
        widths=setting.widths or (usual_width,),
        seeds=seeds,
        until=min(steps or task.steps, task.steps),
        splits=splits,
        also=longer(task, lengths),
        as_published=all(each is None for each in (learning_rate, weight_decay, steps, depth)),
    )

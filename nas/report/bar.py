"""The bar of one training, on standard error while it lasts."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from nas.report.output import messages


@contextmanager
def bar(name: str, total: int) -> Iterator[Callable[[int, float], None]]:
    """Shows progress; its function takes the step and its loss.

    Args:
        name: Of the training.
        total: Its steps.
    """
    shown = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.completed}/{task.total} loss {task.fields[loss]:.3f}"),
        TimeRemainingColumn(),
        console=messages,
        transient=True,
    )
    line = shown.add_task(name, total=total, loss=0.0)
    with shown:
        yield lambda step, loss: shown.update(line, completed=step, loss=loss)

"""A task at lengths that were not trained: `2x,4x` of its own, or numbers of tokens."""

import math
import re

from nas.errors import UsageError
from nas.tasks.base import Task


def longer(task: Task, asked: str | None) -> tuple[Task, ...]:
    """The task at other lengths.

    Args:
        task: The task.
        asked: What `--eval-length` was given; None: none.

    Raises:
        UsageError: These are no lengths, or the task has one only.
    """
    lengths = []
    for word in filter(None, (asked or "").split(",")):
        match = re.fullmatch(r"(\d+(?:\.\d+)?)x|(\d+)", word.strip())
        if match is None:
            raise UsageError(f"--eval-length is like 2x,4x or 512, not {word!r}")
        length = int(match[2]) if match[2] else math.ceil(float(match[1]) * task.length)
        if length < 1:
            raise UsageError(f"--eval-length: a sequence needs at least one token, not {length}")
        lengths.append(length)
    if lengths and task.longer is None:
        raise UsageError(f"{task.name} has one length, {task.length}: leave --eval-length out")
    return tuple(task.longer(length) for length in lengths if task.longer is not None)

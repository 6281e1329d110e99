"""Tasks of one's own as Python: `--task path/to/reverse.py:make[length=32]`.

The file is executed, so only the person at the command line can name it. A study records the
task as `reverse.py:make[length=32]`, with the file's hash and no path.
"""

import inspect
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

from nas.errors import NasError, UsageError
from nas.own_files import (
    OwnFile,
    hashes_of,
    load,
    read_source,
    refuse_other_files,
    sources_of,
    told,
)
from nas.tasks.base import Profile, Splits, Task
from nas.tasks.cache import salted
from nas.tasks.named import TASKS, Entry, knobs_of

_NAME = re.compile(r"(.*\.py)(?::(\w*))?(\[.*\])?")
_PACKAGE = "nas.own_tasks"


@dataclass(frozen=True)
class OwnTasks(OwnFile):
    """A file that was executed.

    Args:
        name: Its name without `.py`.
        source: Its text.
        module: What it became.
    """

    module: ModuleType


_LOADED: dict[str, OwnTasks] = {}


def load_task_file(word: str) -> str:
    """Executes the file of a task that the command line names; twice the same is executed once.

    Args:
        word: What `--task` was given; no file is named by what does not end in `.py:NAME`.

    Returns:
        The task's name, `reverse.py:make[length=32]`; another word as it is.

    Raises:
        UsageError: The file cannot be read, raises an error, has no such function, or another file
            of its name was executed before.
    """
    parsed = _NAME.fullmatch(word)
    if parsed is None:
        return word
    path = Path(parsed[1])
    source = read_source(path, "--task", "task")
    load_source(path.stem, source, str(path))
    name = f"{path.name}:{parsed[2] or ''}"
    find(name)
    return name + (parsed[3] or "")


def load_source(name: str, source: str, path: str = "") -> None:
    """Executes the text of a file of tasks.

    Args:
        name: The file's name without `.py`.
        source: Its text.
        path: Where it stands, for messages.

    Raises:
        UsageError: As `load_task_file`.
    """
    known = dict(TASKS)
    try:
        load(
            _LOADED,
            f"{_PACKAGE}.{name}",
            source,
            path or f"{name}.py",
            lambda module: OwnTasks(name, source, module),
        )
    finally:  # a decorated function does not replace a task of the package
        TASKS.clear()
        TASKS.update(known)


def find(name: str) -> Entry | None:
    """The entry of a name such as `reverse.py:make`; None where it names no file.

    Raises:
        UsageError: The file was not executed here, or has no such function.
    """
    parsed = _NAME.fullmatch(name)
    if parsed is None:
        return None
    stem, function = Path(parsed[1]).stem, parsed[2]
    own = _LOADED.get(f"{_PACKAGE}.{stem}")
    if own is None or Path(parsed[1]).name != parsed[1]:
        raise UsageError(
            f"{name} is a task of a file of one's own: say where it is with --task .../{name}"
        )
    make = getattr(own.module, function or "", None)
    if not inspect.isfunction(make):
        there = [
            key
            for key, value in vars(own.module).items()
            if inspect.isfunction(value) and value.__module__ == own.module.__name__
        ]
        raise UsageError(
            f"--task names the function that makes the task, such as {stem}.py:make; {stem}.py has "
            f"{', '.join(there) or 'no function'}"
        )
    knobs, shares = knobs_of(make)
    made = partial(_make, name, own, make)
    return Entry("a task of one's own", made, knobs=knobs, shares=shares)


def task_sources() -> dict[str, str]:
    """Text of every file that this process has executed, by its name without `.py`."""
    return sources_of(_LOADED)


def task_hashes() -> dict[str, str]:
    """Hash of every such text, by its name."""
    return hashes_of(_LOADED)


def refuse_other_tasks(wanted: Mapping[str, str], study: str, task: str) -> None:
    """Make sure that a study goes on with the file that its task began with.

    Args:
        wanted: Its hash by name, as the study recorded it.
        study: The study's name, for the message.
        task: The study's task.

    Raises:
        UsageError: It is missing or different.
    """
    refuse_other_files(wanted, task_hashes(), study, what="the task", option=f"--task .../{task}")


def _make(
    name: str, own: OwnFile, make: Any, profile: Profile, data: Path | None, **knobs: float
) -> Task | tuple[Task, ...]:
    positional = [
        p
        for p in inspect.signature(make).parameters.values()
        if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)
    ]
    path = make.__code__.co_filename
    try:
        made = make(*(profile, data)[: len(positional)], **knobs)
    except (NasError, ValueError):  # what it says itself, of a knob or of data that is missing
        raise
    except Exception as error:
        raise UsageError(told(error, path)) from error
    tasks = (made,) if isinstance(made, Task) else made
    if not isinstance(tasks, tuple) or not tasks or not all(isinstance(t, Task) for t in tasks):
        raise UsageError(f"{name} returns a Task (nas.tasks.base) or a tuple of some, not {made!r}")
    if len({task.name for task in tasks}) < len(tasks):
        raise UsageError(f"{name} returns several tasks of one name: give each its own")
    if wrong := [task.name for task in tasks if task.profile != profile]:
        raise UsageError(f"{name} was asked for the profile {profile}; {wrong[0]} is of another")
    # What its draws are kept by in the cache may be the same after the file was changed.
    tasks = tuple(replace(task, source=partial(_salted, own.sha256, task.source)) for task in tasks)
    return replace(tasks[0], name=name) if isinstance(made, Task) else tasks


def _salted(salt: str, source: Any) -> Splits:
    with salted(salt):
        return source()

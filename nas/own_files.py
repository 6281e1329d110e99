"""A person's own Python files: executed as modules, because the command line named them.

A database never does: a study records what a file was, and a worker gets its text from the process
that was told to execute it.
"""

import hashlib
import sys
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TypeVar

from nas.errors import UsageError


@dataclass(frozen=True)
class OwnFile:
    """A file that was executed.

    Args:
        name: Its name without `.py`.
        source: Its text.
    """

    name: str
    source: str

    @property
    def sha256(self) -> str:
        """Hash of its text."""
        return hashlib.sha256(self.source.encode()).hexdigest()


Own = TypeVar("Own", bound=OwnFile)


def read_source(path: Path, option: str, what: str) -> str:
    """The text of a file that an option names.

    Args:
        path: The file.
        option: E.g. `--layers`, for messages.
        what: What it holds, e.g. `layers`.

    Raises:
        UsageError: It is no Python file, or cannot be read.
    """
    if path.suffix != ".py" or not path.stem.isidentifier():
        raise UsageError(f"{option} names a Python file such as my_{what}.py, not {path}")
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"cannot read the {what} of {path}: {error}") from error


def execute(module_name: str, source: str, path: str) -> ModuleType:
    """Executes a text as a module, which stays importable by that name only if nothing went wrong.

    Args:
        module_name: The module that it becomes.
        source: The text.
        path: Where it stands, for messages.

    Raises:
        UsageError: It raised an error; the message says where.
    """
    module = ModuleType(module_name)
    module.__file__ = path
    sys.modules[module_name] = module  # where dataclasses look for the module of a class
    try:
        exec(compile(source, path, "exec"), module.__dict__)
    except BaseException as error:
        del sys.modules[module_name]
        if isinstance(error, UsageError) or not isinstance(error, Exception):
            raise
        raise UsageError(told(error, path)) from error
    return module


def load(
    loaded: dict[str, Own],
    module_name: str,
    source: str,
    path: str,
    kept: Callable[[ModuleType], Own],
) -> Own:
    """Executes a text as a module; twice the same text is executed once.

    Args:
        loaded: What this process has executed, by the name of the module it became; it is added.
        module_name: The module that it becomes.
        source: The text.
        path: Where it stands, for messages.
        kept: What is kept of the module; where it raises an error, nothing is.

    Raises:
        UsageError: The text raised an error, or another file of its name was executed before.
    """
    if module_name not in loaded:
        module = execute(module_name, source, path)
        try:
            loaded[module_name] = kept(module)
        except BaseException:
            del sys.modules[module_name]
            raise
    if loaded[module_name].source != source:
        raise UsageError(f"{path}: another file of this name was loaded before: rename one")
    return loaded[module_name]


def sources_of(loaded: Mapping[str, OwnFile]) -> dict[str, str]:
    """Text of every file that was executed, by its name without `.py`."""
    return {own.name: own.source for own in loaded.values()}


def hashes_of(loaded: Mapping[str, OwnFile]) -> dict[str, str]:
    """Hash of every such text, by its name."""
    return {own.name: own.sha256 for own in loaded.values()}


def told(error: Exception, path: str) -> str:
    """An error of a file as one line, with the line of the file where it arose."""
    message = " ".join(str(error).split())
    return f"{path}{_line(error, path)}: {type(error).__name__}: {message}"


def refuse_other_files(
    wanted: Mapping[str, str], now: Mapping[str, str], study: str, *, what: str, option: str
) -> None:
    """Make sure that a study goes on with the files that it began with.

    Args:
        wanted: Their hashes by name, as the study recorded them.
        now: Hashes of those that were executed.
        study: Its name, for the message.
        what: What they hold, e.g. `layers`.
        option: What names such a file, with `{}` for its name without `.py`.

    Raises:
        UsageError: One is missing or different.
    """
    for name, sha256 in wanted.items():
        if name not in now:
            raise UsageError(
                f"study {study} uses {what} of {name}.py (sha256 {sha256[:12]}): say where it is "
                f"with {option.format(name)}"
            )
        if now[name] != sha256:
            raise UsageError(
                f"study {study}: {name}.py has changed since it began (sha256 {sha256[:12]}, now "
                f"{now[name][:12]}): restore it, or start a new study with --name"
            )


def _line(error: Exception, path: str) -> str:
    """Where in the file an error arose: `:12`."""
    if isinstance(error, SyntaxError):
        return f":{error.lineno}"
    frames = [f for f in traceback.extract_tb(error.__traceback__) if f.filename == path]
    return f":{frames[-1].lineno}" if frames else ""

"""Processes of their own for tests, forked from one that has imported what takes seconds.

Apart from the imports they are as good as new: each has its own folder, environment and output,
ends with an exit code, and can be interrupted, limited and killed.
"""

import multiprocessing
import os
import resource
import signal
import time
from collections.abc import Callable, Mapping
from contextlib import chdir, suppress
from multiprocessing import forkserver
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).parents[1]

_context = multiprocessing.get_context("forkserver")


class Finished(NamedTuple):
    """What a process that has ended leaves: exit code (-9: killed) and what it has written."""

    code: int
    out: str
    err: str


class Process:
    """A function that runs in a process of its own.

    Args:
        function: Importable by its name; the exit code is that of its SystemExit, 0 without one, 1
            after another exception.
        arguments: Its arguments.
        output: A folder for what it writes.
        folder: Where it runs; None: here.
        environment: What differs from this process's own.
        prepare: Called first in the process.
    """

    def __init__(
        self,
        function: Callable[..., object],
        arguments: tuple[Any, ...],
        output: Path,
        folder: Path | None = None,
        environment: Mapping[str, str] | None = None,
        prepare: Callable[[], object] | None = None,
    ) -> None:
        self._files = output / "out", output / "err"
        for file in self._files:
            file.touch()
        variables = {**os.environ, "OMP_NUM_THREADS": "1", **(environment or {})}
        work = (function, arguments, self._files, folder or Path.cwd(), variables, prepare)
        self._process = _context.Process(target=_run, args=work)
        self._process.start()

    @property
    def pid(self) -> int:
        """Its number."""
        assert self._process.pid is not None
        return self._process.pid

    @property
    def code(self) -> int | None:
        """Its exit code; None while it runs."""
        return self._process.exitcode

    @property
    def out(self) -> str:
        """What it has written to its standard output so far."""
        return self._files[0].read_text(encoding="utf-8")

    @property
    def err(self) -> str:
        """What it has written to its standard error so far."""
        return self._files[1].read_text(encoding="utf-8")

    def signal(self, number: int) -> None:
        """Send it a signal, if it runs."""
        if self.code is None:
            with suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def finish(self, timeout: float = 300) -> Finished:
        """Wait until it has ended."""
        self._process.join(timeout)
        assert self.code is not None, f"still running after {timeout} s: {self.err}"
        return Finished(self.code, self.out, self.err)

    def wait(self, condition: "Callable[[Process], object]", timeout: float = 120) -> None:
        """Wait until something is true of it, or it has ended."""
        deadline = time.monotonic() + timeout
        while self.code is None and not condition(self):
            assert time.monotonic() < deadline, f"not within {timeout} s: {self.err}"
            time.sleep(0.002)

    def end(self) -> None:
        """Kill it if it runs."""
        if self.code is None:
            self._process.kill()
        self._process.join()


def limit_files(size: int) -> None:
    """Let no file of this process grow larger: a full disk, of which it is told by an error."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


def start_server() -> None:
    """Start the process that the others are forked from; called once, it stays until the end."""
    _context.set_forkserver_preload(["tests.imported"])
    with chdir(ROOT):  # where it finds that module
        forkserver.ensure_running()


def _run(
    function: Callable[..., object],
    arguments: tuple[Any, ...],
    files: tuple[Path, Path],
    folder: Path,
    variables: Mapping[str, str],
    prepare: Callable[[], object] | None,
) -> None:
    for file, descriptor in zip(files, (1, 2), strict=True):
        os.dup2(os.open(file, os.O_WRONLY | os.O_APPEND), descriptor)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(variables)
    if prepare is not None:
        prepare()
    function(*arguments)

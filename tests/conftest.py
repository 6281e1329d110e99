import signal
from collections.abc import Callable, Iterator

import pytest

from tests.processes import Process, start_server

# A shell that starts a command in the background lets it ignore Ctrl-C, and so would every process
# that a test starts and interrupts.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def _server() -> None:
    start_server()


@pytest.fixture
def process(_server, tmp_path_factory) -> Iterator[Callable[..., Process]]:
    """Starts a `Process`: a function, its arguments, and the keywords of the class."""
    started: list[Process] = []

    def start(function: Callable[..., object], *arguments: object, **keywords: object) -> Process:
        output = tmp_path_factory.mktemp("output")
        started.append(Process(function, arguments, output, **keywords))  # type: ignore[arg-type]
        return started[-1]

    yield start
    for each in started:
        each.end()

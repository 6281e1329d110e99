"""What the tests of all kernel families share: error measure, guarded memory, interpreter."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy
import pytest
import torch
from torch import Tensor

GUARD_ELEMENTS = 4096
GUARD_VALUE = 77.0


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def guarded_memory(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Fill what `torch.empty` returns with NaN, and find writes before and after it.

    An element that a kernel forgets stays NaN; one that it writes outside its tensor hits a guard.
    """
    empty, guards = torch.empty, []

    def guarded(*size, dtype=None, device=None):  # type: ignore[no-untyped-def]
        shape = size[0] if len(size) == 1 and not isinstance(size[0], int) else size
        count = torch.Size(shape).numel()
        memory = empty(count + 2 * GUARD_ELEMENTS, dtype=dtype, device=device).fill_(GUARD_VALUE)
        guards.extend([memory[:GUARD_ELEMENTS], memory[GUARD_ELEMENTS + count :]])
        # A storage of its own offset, and not a view: operators may not return views.
        inside = memory.new_tensor([]).set_(
            memory.untyped_storage(), GUARD_ELEMENTS, shape, empty(shape, device="meta").stride()
        )
        return inside.fill_(float("nan"))

    monkeypatch.setattr(torch, "empty", guarded)
    yield
    monkeypatch.undo()
    assert all((guard == GUARD_VALUE).all() for guard in guards), "a write outside its tensor"


@pytest.fixture
def in_padding() -> Callable[[Tensor], Tensor]:
    """Move a tensor into the middle of a larger one full of NaN, which a stray read would meet."""

    def embed(tensor: Tensor) -> Tensor:
        padded = torch.full([n + 6 for n in tensor.shape], float("nan")).to(tensor)
        inside = padded[tuple(slice(3, 3 + n) for n in tensor.shape)]
        return inside.copy_(tensor)

    return embed


def _release(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".")[:2])


@pytest.fixture
def in_the_interpreter() -> Callable[[str], None]:
    """Run a test file's tests of `-k expression` again where Triton kernels are interpreted.

    It takes a new process: Triton must be told before it is first imported.
    """

    def run(file: str, expression: str) -> None:
        triton = pytest.importorskip("triton")
        if _release(triton.__version__) < (3, 9) and _release(numpy.__version__) >= (2, 4):
            # Seen with 3.6: "only 0-dimensional arrays can be converted to Python scalars".
            pytest.skip("an interpreter of Triton before 3.9 has no loop bounds with NumPy 2.4")
        root = Path(__file__).resolve().parents[2]
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", file]
        finished = subprocess.run(
            [*command, "-k", expression],
            cwd=root,
            env={**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
        )
        assert finished.returncode == 0, finished.stdout + finished.stderr

    return run

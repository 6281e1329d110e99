"""Which implementation runs."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from nas.kernels.diagonal_scan.operator import diagonal_scan
from nas.kernels.dispatch import ENVIRONMENT_VARIABLE, choose_backend, interpreting

CPU, CUDA, META = torch.device("cpu"), torch.device("cuda"), torch.device("meta")


@pytest.fixture(autouse=True)
def _nothing_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(ENVIRONMENT_VARIABLE, raising=False)
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)


def test_the_device_decides() -> None:
    pytest.importorskip("triton")
    assert [choose_backend(device) for device in (CPU, CUDA, META)] == ["cpu", "triton", "cpu"]


def test_the_environment_goes_before_the_device(monkeypatch) -> None:
    monkeypatch.setenv(ENVIRONMENT_VARIABLE, "reference")
    assert choose_backend(CPU) == choose_backend(CUDA) == "reference"
    monkeypatch.setenv(ENVIRONMENT_VARIABLE, "")
    assert choose_backend(CPU) == "cpu"


def test_the_argument_goes_before_the_environment(monkeypatch) -> None:
    monkeypatch.setenv(ENVIRONMENT_VARIABLE, "reference")
    assert choose_backend(CPU, "cpu") == "cpu"
    monkeypatch.setenv(ENVIRONMENT_VARIABLE, "nonsense")
    assert choose_backend(CPU, "cpu") == "cpu"


def test_unknown_names_say_where_they_stand(monkeypatch) -> None:
    with pytest.raises(ValueError, match=r"^backend is 'cuda': choose one of reference, cpu, tri"):
        choose_backend(CPU, "cuda")
    monkeypatch.setenv(ENVIRONMENT_VARIABLE, "GPU")
    with pytest.raises(ValueError, match=r"^NAS_KERNEL_BACKEND is 'GPU': choose one of"):
        choose_backend(CPU)


def test_triton_on_a_cpu_wants_the_interpreter(monkeypatch) -> None:
    pytest.importorskip("triton")
    with pytest.raises(ValueError, match="TRITON_INTERPRET=1"):
        choose_backend(CPU, "triton")
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    assert interpreting()
    assert choose_backend(CPU, "triton") == "triton"


def test_a_kernel_obeys(monkeypatch) -> None:
    a = torch.rand(1, 4, 2, requires_grad=True)
    assert "nas_diagonal_scan" in str(diagonal_scan(a, a)[0].grad_fn)
    monkeypatch.setenv(ENVIRONMENT_VARIABLE, "reference")
    assert "Stack" in str(diagonal_scan(a, a)[0].grad_fn)
    monkeypatch.setenv(ENVIRONMENT_VARIABLE, "triton")
    with pytest.raises(ValueError, match="NAS_KERNEL_BACKEND is 'triton'"):
        diagonal_scan(a, a)


def test_importing_the_kernels_imports_neither_triton_nor_the_rest() -> None:
    code = (
        "import sys, nas.kernels.diagonal_scan.operator; "
        "names = {m.split('.')[0] for m in sys.modules}; "
        "print(sorted(names & {'triton', 'lark', 'optuna', 'ray', 'pydantic'}), "
        "[m for m in sys.modules if m.startswith('nas.') and not m.startswith('nas.kernels')])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=Path(__file__).resolve().parents[2],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == "[] []"

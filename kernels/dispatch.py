"""Which implementation of a kernel runs: by device, unless an argument or the environment says."""

import importlib.util
import os
from functools import cache
from typing import Literal, get_args

import torch

Backend = Literal["reference", "cpu", "triton"]
BACKENDS: tuple[str, ...] = get_args(Backend)
ENVIRONMENT_VARIABLE = "NAS_KERNEL_BACKEND"


def choose_backend(device: torch.device, backend: str | None = None) -> str:
    """Name the implementation that shall run on tensors of a device.

    Args:
        device: where the tensors are.
        backend: "reference" (a loop over time, differentiated by autograd), "cpu" (plain torch, on
            any device) or "triton". None leaves it to the environment variable
            NAS_KERNEL_BACKEND, and where that is not set, to the device: Triton on CUDA, plain
            torch elsewhere.

    Raises:
        ValueError: the name is none of these, or Triton cannot run on this device.
    """
    source = "backend"
    if backend is None:
        backend, source = os.environ.get(ENVIRONMENT_VARIABLE) or None, ENVIRONMENT_VARIABLE
    if backend is None:
        return "triton" if device.type == "cuda" and has_triton() else "cpu"
    if backend not in BACKENDS:
        raise ValueError(f"{source} is {backend!r}: choose one of {', '.join(BACKENDS)}")
    if backend == "triton":
        if not has_triton():
            raise ValueError(f"{source} is 'triton', and triton is not installed: choose 'cpu'")
        if device.type not in ("cuda", "meta") and not interpreting():
            raise ValueError(
                f"{source} is 'triton' and the tensors are on {device.type}: move them to a CUDA "
                "device, choose 'cpu', or set TRITON_INTERPRET=1 before the first import of triton"
            )
    return backend


@cache
def has_triton() -> bool:
    """Whether Triton is installed; it is not imported."""
    return importlib.util.find_spec("triton") is not None


def interpreting() -> bool:
    """Whether Triton's kernels run in its interpreter, on CPU tensors."""
    return os.environ.get("TRITON_INTERPRET", "0").lower() in ("1", "true", "on")

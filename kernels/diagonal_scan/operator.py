"""The diagonal scan's public functions: one signature, whichever implementation runs."""

from torch import Tensor

from nas.kernels.diagonal_scan import cpu, reference
from nas.kernels.diagonal_scan.cpu import diagonal_scan_step
from nas.kernels.dispatch import choose_backend

__all__ = ["diagonal_scan", "diagonal_scan_step"]


def diagonal_scan(
    a: Tensor,
    b: Tensor,
    initial_state: Tensor | None = None,
    *,
    reverse: bool = False,
    backend: str | None = None,
) -> tuple[Tensor, Tensor]:
    """Compute h_t = a_t h_{t-1} + b_t over a sequence, elementwise.

    Differentiable once in every argument, through both results.

    Args:
        a: gates [B, L, D], any real numbers (negative, zero, one and more).
        b: inputs [B, L, D].
        initial_state: h before the first step [B, D]; None means zero.
        reverse: run from the last step to the first, h_t = a_t h_{t+1} + b_t.
        backend: "reference", "cpu" or "triton"; None chooses by NAS_KERNEL_BACKEND or the device.

    Returns:
        h [B, L, D] in the promoted type of `a` and `b`, and the state after the last step taken
        [B, D], a fresh tensor, at least float32 (half types are accumulated in float32).

    Raises:
        ValueError: shapes or devices that do not belong together, or an unknown backend.
        TypeError: tensors that are not of a real floating-point type.
    """
    _check(a, b, initial_state)
    chosen = choose_backend(a.device, backend)
    if chosen == "reference":
        return reference.diagonal_scan(a, b, initial_state, reverse=reverse)
    return cpu.diagonal_scan(a, b, initial_state, reverse=reverse)


def _check(a: Tensor, b: Tensor, initial_state: Tensor | None) -> None:
    if a.dim() != 3 or a.shape != b.shape or a.shape[1] == 0:
        raise ValueError(
            "a and b must both be [B, L, D] with L >= 1, "
            f"and are {list(a.shape)} and {list(b.shape)}"
        )
    tensors = {"a": a, "b": b}
    if initial_state is not None:
        tensors["initial_state"] = initial_state
        expected = (a.shape[0], a.shape[2])
        if initial_state.shape != expected:
            raise ValueError(
                f"initial_state must be [B, D] = {list(expected)}, "
                f"and is {list(initial_state.shape)}"
            )
    for name, tensor in tensors.items():
        if not tensor.dtype.is_floating_point:
            raise TypeError(f"{name} must be of a real floating-point type, and is {tensor.dtype}")
        if tensor.device != a.device:
            raise ValueError(f"a is on {a.device} and {name} on {tensor.device}: move one of them")

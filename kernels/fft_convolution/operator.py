"""The long convolution's public functions: checked arguments, and one path for all devices.

There is no operator of our own and no Triton: the transforms are torch's, which has fast ones for
CPUs and GPUs (MKL, cuFFT) and hands them on to every compiler and exporter as they are. A program
that is exported with these functions needs nothing of this package to run.
"""

from torch import Tensor

from nas.kernels.dispatch import choose_backend
from nas.kernels.fft_convolution import cpu, reference
from nas.kernels.fft_convolution.cpu import fft_convolution_step

__all__ = ["fft_convolution", "fft_convolution_bidirectional", "fft_convolution_step"]


def fft_convolution(
    x: Tensor,
    kernel: Tensor,
    skip: Tensor | None = None,
    initial_state: Tensor | None = None,
    *,
    backend: str | None = None,
) -> tuple[Tensor, Tensor]:
    """Compute y_t = sum_{j < M} kernel_j x_{t-j} + skip x_t for every channel, in O(L log L).

    The convolution of S4 (Gu et al. 2022), CKConv (Romero et al. 2022) and Hyena (Poli et al.
    2023), whose kernels are as long as the sequence. Differentiable once in every argument, through
    both results.

    Args:
        x: inputs [B, L, D].
        kernel: [D, M], M shorter or longer than L; kernel_0 is the token's own.
        skip: weight of x itself [D] (the D of a state-space model); None means zero.
        initial_state: the inputs before the first [B, M - 1, D], oldest first; None means zeros.
            It holds inputs, so that it is taken in x's type.
        backend: "reference" (the explicit sum), "cpu" or "triton", which are the same FFT; None
            chooses by NAS_KERNEL_BACKEND or the device.

    Returns:
        y [B, L, D], and the last M - 1 inputs, a fresh tensor: the initial state of what follows.
        Both in x's type; spectra are in the promoted type of x, kernel and float32.

    Raises:
        ValueError: shapes or devices that do not belong together, or an unknown backend.
        TypeError: tensors that are not of a real floating-point type.
    """
    _check(x, kernel=kernel, skip=skip, initial_state=initial_state)
    chosen = choose_backend(x.device, backend)
    function = reference.fft_convolution if chosen == "reference" else cpu.fft_convolution
    return function(x, kernel, skip, initial_state)


def fft_convolution_bidirectional(
    x: Tensor,
    kernel: Tensor,
    backward_kernel: Tensor,
    skip: Tensor | None = None,
    *,
    backend: str | None = None,
) -> Tensor:
    """Compute the sum of a convolution with what came before and one with what follows.

    y_t = sum_{j >= 0} kernel_j x_{t-j} + sum_{j >= 0} backward_kernel_j x_{t+1+j} + skip x_t, at
    the cost of one convolution. Differentiable once in every argument.

    Args:
        x: inputs [B, L, D].
        kernel: [D, M]; kernel_0 is the token's own.
        backward_kernel: [D, N]; its first tap is the following token's.
        skip: [D]; None means zero.
        backend: as of `fft_convolution`.

    Returns:
        y [B, L, D] in x's type.

    Raises:
        ValueError: shapes or devices that do not belong together, or an unknown backend.
        TypeError: tensors that are not of a real floating-point type.
    """
    _check(x, kernel=kernel, backward_kernel=backward_kernel, skip=skip)
    chosen = choose_backend(x.device, backend)
    module = reference if chosen == "reference" else cpu
    return module.fft_convolution_bidirectional(x, kernel, backward_kernel, skip)


def _check(x: Tensor, **tensors: Tensor | None) -> None:
    if x.dim() != 3 or 0 in x.shape:  # torch has no transform of nothing
        raise ValueError(f"x must be [B, L, D] with B, L, D >= 1, and is {list(x.shape)}")
    batch, _, width = x.shape
    given = {"x": x} | {name: tensor for name, tensor in tensors.items() if tensor is not None}
    for name, tensor in given.items():
        if name.endswith("kernel") and (
            tensor.dim() != 2 or tensor.shape[0] != width or tensor.shape[1] == 0
        ):
            raise ValueError(
                f"{name} must be [D, M] with D = {width} and M >= 1, and is {list(tensor.shape)}"
            )
        if name == "skip" and tensor.shape != (width,):
            raise ValueError(f"skip must be [D] = {[width]}, and is {list(tensor.shape)}")
        if name == "initial_state":
            expected = (batch, given["kernel"].shape[1] - 1, width)
            if tensor.shape != expected:
                raise ValueError(
                    f"initial_state must be [B, M - 1, D] = {list(expected)}, "
                    f"and is {list(tensor.shape)}"
                )
        if not tensor.dtype.is_floating_point:
            raise TypeError(f"{name} must be of a real floating-point type, and is {tensor.dtype}")
        if tensor.device != x.device:
            raise ValueError(f"x is on {x.device} and {name} on {tensor.device}: move one of them")

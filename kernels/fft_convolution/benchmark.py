"""The long convolution's benchmark: its shapes, its floor, and what it is compared with."""

import math

import torch
from torch import Tensor

from nas.kernels.family import Candidate, Family, Sizes, Work
from nas.kernels.fft_convolution import reference
from nas.kernels.fft_convolution.operator import fft_convolution


def _inputs(shape: Sizes, generator: torch.Generator) -> tuple[Tensor, ...]:
    """Normal tokens, a kernel that decays as a trained one does, and a skip, in float32."""
    batch, length, width, taps = shape
    decay = torch.exp(-4 * torch.arange(taps) / taps) / math.sqrt(taps)
    kernel = torch.randn(width, taps, generator=generator) * decay
    x = torch.randn(batch, length, width, generator=generator)
    return x, kernel, torch.randn(width, generator=generator)


def _candidates(shape: Sizes, device: torch.device, backend: str | None) -> list[Candidate]:
    return [
        Candidate("nas", lambda x, h, skip: fft_convolution(x, h, skip, backend=backend)[0]),
        Candidate("loop over unbind(1)", _loop),
        Candidate("torch.fft by autograd", _autograd),
    ]


def _loop(x: Tensor, kernel: Tensor, skip: Tensor) -> Tensor:
    return reference.fft_convolution(x, kernel, skip)[0]


def _autograd(x: Tensor, kernel: Tensor, skip: Tensor) -> Tensor:
    """What S4 and Hyena publish: spectra of twice the length, multiplied."""
    length = x.shape[1]
    size = 2 * max(length, kernel.shape[1])
    spectrum = torch.fft.rfft(x.mT.float(), size) * torch.fft.rfft(kernel.float(), size)
    y = torch.fft.irfft(spectrum, size)[..., :length].mT
    return (y + x * skip).to(x.dtype)


def _checked(shape: Sizes) -> Sizes:
    """The explicit sum in float64 keeps L * M * D numbers for a sequence's gradient."""
    _, length, width, taps = shape
    return 1, min(length, 512), min(width, 16), min(taps, 512)


def _work(shape: Sizes) -> Work:
    batch, length, width, taps = shape
    size, kernel = batch * length * width, width * taps
    # x, kernel -> y, and x, kernel, grad_y -> grad_x, grad_kernel: the spectra are not counted.
    return Work(forward_elements=2 * size + kernel, backward_elements=3 * size + 2 * kernel)


FFT_CONVOLUTION = Family(
    name="fft_convolution",
    dimensions="BLDM",
    shapes={
        "cpu": ((2, 1024, 64, 1024), (8, 256, 64, 256), (2, 1000, 64, 64)),
        "cuda": ((8, 2048, 768, 2048), (2, 8192, 768, 8192), (8, 1000, 256, 1000)),
    },
    inputs=_inputs,
    reference=_loop,
    candidates=_candidates,
    work=_work,
    # A sum by way of spectra has errors relative to the largest terms, not to each number.
    tolerance={torch.float32: 1e-5, torch.bfloat16: 5e-3, torch.float16: 1e-3},
    checked=_checked,
    linear=False,  # L log L
)

FAMILIES = (FFT_CONVOLUTION,)

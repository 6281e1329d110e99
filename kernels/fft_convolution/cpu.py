"""The long convolution in the frequency domain, by torch's own FFT on every device.

Everything here needs torch alone and nothing of this package, so that a model which uses the
convolution can carry these definitions with it.

A convolution is a product of spectra. Both sequences are filled up with zeros to n >= L + M - 1
numbers, so that what a circular convolution wraps around falls on zeros, and n is a product of
twos, threes and fives, for which the transform is fast (Frigo and Johnson 2005, "FFTW3").

The gradient is written by hand: autograd of a real transform goes through a complex one of full
length and keeps both spectra. Here each gradient is one more real convolution, and x and the kernel
are all that is kept.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


def fft_convolution(
    x: Tensor, kernel: Tensor, skip: Tensor | None = None, initial_state: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Compute y_t = sum_{j < M} kernel_j x_{t-j} + skip x_t in O(L log L).

    Differentiable once in every argument, through both results.

    Args:
        x: inputs [B, L, D].
        kernel: [D, M], M shorter or longer than L; kernel_0 is the token's own.
        skip: [D]; None means zero.
        initial_state: the inputs before the first [B, M - 1, D], oldest first; None means zeros.

    Returns:
        y [B, L, D] and the last M - 1 inputs [B, M - 1, D], both in x's type.
    """
    length, reach = x.shape[1], kernel.shape[1] - 1
    if initial_state is None:
        known, taps = x, _reaching(kernel, length)
        if isinstance(length, torch.SymInt) or length < reach:
            last = F.pad(x, (0, 0, reach, 0))[:, length:]
        else:
            last = x[:, length - reach :]
    else:
        known, taps = torch.cat([initial_state.to(x.dtype), x], dim=1), kernel
        last = known[:, length:]
    final_state = last.clone(memory_format=torch.contiguous_format)
    # With a state the convolution is of length L + 2M - 2, but what wraps around in one of length
    # L + M - 1 are its first M - 1 numbers, which nobody asked for ("overlap-save").
    size = fast_length(length + taps.shape[1] - 1)
    return _Convolution.apply(known, taps, skip, size, length), final_state


def fft_convolution_bidirectional(
    x: Tensor, kernel: Tensor, backward_kernel: Tensor, skip: Tensor | None = None
) -> Tensor:
    """Compute the sum of a convolution with what came before and one with what follows.

    y_t = sum_{j >= 0} kernel_j x_{t-j} + sum_{j >= 0} backward_kernel_j x_{t+1+j} + skip x_t, as in
    the bidirectional S4 (Gu et al. 2022): both in one circular convolution, whose kernel holds the
    second kernel turned around at its end. Differentiable once in every argument.

    Args:
        x: inputs [B, L, D].
        kernel: [D, M].
        backward_kernel: [D, N]; its first tap is the following token's.
        skip: [D]; None means zero.

    Returns:
        y [B, L, D] in x's type.
    """
    length = x.shape[1]
    before, after = _reaching(kernel, length), _reaching(backward_kernel, length - 1)
    size = fast_length(length + torch.sym_max(before.shape[1] - 1, after.shape[1]))
    between = size - before.shape[1] - after.shape[1]
    circular = torch.cat([F.pad(before, (0, between)), after.flip(1)], dim=1)
    y: Tensor = _Convolution.apply(x, circular, skip, size, length)
    return y


def fft_convolution_step(
    x: Tensor, kernel: Tensor, state: Tensor, skip: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Convolve one token, exactly: the sum over the last M inputs.

    It costs O(M): no state of fixed size gives an arbitrary kernel. The state is moved on by a
    copy, which costs no more than reading it for the sum.

    Args:
        x: inputs of this step [B, D].
        kernel: [D, M].
        state: the inputs before [B, M - 1, D], oldest first.
        skip: [D]; None means zero.

    Returns:
        y [B, D] in x's type, and the next step's state.
    """
    number = _accumulator(x, kernel)
    tokens = torch.cat([state.to(x.dtype), x.unsqueeze(1)], dim=1)
    y = torch.einsum("bmd,dm->bd", tokens.to(number), kernel.to(number).flip(1))
    if skip is not None:
        y = y + skip.to(number) * x.to(number)
    return y.to(x.dtype), tokens[:, 1:]


def fast_length(least: int) -> int:
    """The smallest even product of twos, threes and fives that is no less."""
    if isinstance(least, torch.SymInt):
        # A length that is not known yet, while a program for all of them is traced, has no factors.
        # Twice is right too, and with it the shapes of spectra remain linear in the length.
        return 2 * least
    best = 1 << max(1, (least - 1).bit_length())
    fives = 1
    while fives < best:
        odd = fives
        while odd < best:
            twos = max(1, (-(-least // odd) - 1).bit_length())
            best = min(best, odd << twos)
            odd *= 3
        fives *= 5
    return best


class _Convolution(torch.autograd.Function):
    """The last `length` of a circular convolution of x [B, T, D], T <= size, and kernel [D, K]."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, kernel: Tensor, skip: Tensor | None, size: int, length: int
    ) -> Tensor:
        ctx.save_for_backward(x, kernel, skip)
        ctx.size, ctx.length = size, length
        number, before = _accumulator(x, kernel), x.shape[1] - length
        spectrum = _spectrum(x.mT.to(number), size).mul_(_spectrum(kernel.to(number), size))
        y = _time(spectrum, size, before, x.shape[1])
        if skip is not None:
            y.addcmul_(x[:, before:].to(number), skip.to(number))
        return y.to(x.dtype)

    @staticmethod
    def backward(ctx: Any, grad_y: Tensor) -> Any:
        if torch.is_grad_enabled():
            # Not once_differentiable: that takes the gradient for a constant without a word.
            raise RuntimeError(
                "fft_convolution can be differentiated only once: call backward or grad without "
                "create_graph=True"
            )
        x, kernel, skip = ctx.saved_tensors
        number, before, size = _accumulator(x, kernel), x.shape[1] - ctx.length, ctx.size
        grad = grad_y.to(number)
        grad_spectrum = _spectrum(F.pad(grad.mT, (before, 0)), size)
        # A gradient is a correlation: a convolution with the other factor's conjugate spectrum.
        grad_x = grad_kernel = grad_skip = None
        if ctx.needs_input_grad[1]:
            products = _spectrum(x.mT.to(number), size).conj() * grad_spectrum
            summed = torch.fft.irfft(products.sum(0), size)
            grad_kernel = summed[:, : kernel.shape[1]].to(kernel.dtype)
        if ctx.needs_input_grad[0]:
            grad_spectrum.mul_(_spectrum(kernel.to(number), size).conj())
            grad_x = _time(grad_spectrum, size, 0, x.shape[1])
            if skip is not None:
                grad_x[:, before:].addcmul_(grad, skip.to(number))
            grad_x = grad_x.to(x.dtype)
        if ctx.needs_input_grad[2]:
            grad_skip = (grad * x[:, before:].to(number)).sum((0, 1)).to(skip.dtype)
        return grad_x, grad_kernel, grad_skip, None, None


def _spectrum(x: Tensor, size: int) -> Tensor:
    return torch.fft.rfft(x, size)


def _time(spectrum: Tensor, size: int, start: int, end: int) -> Tensor:
    """Numbers `start` to `end` of the sequences of a spectrum [B, D, S]: a fresh [B, L, D]."""
    sequences = torch.fft.irfft(spectrum, size)[..., start:end]
    return sequences.mT.clone(memory_format=torch.contiguous_format)


def _reaching(kernel: Tensor, length: int) -> Tensor:
    """The taps that reach a token within so many; all of them while the length is not known."""
    return kernel if isinstance(length, torch.SymInt) else kernel[:, :length]


def _accumulator(x: Tensor, kernel: Tensor) -> torch.dtype:
    return torch.promote_types(torch.promote_types(x.dtype, kernel.dtype), torch.float32)

"""The long convolution as the explicit sum that defines it: the oracle of the fast one."""

import torch
from torch import Tensor


def fft_convolution(
    x: Tensor, kernel: Tensor, skip: Tensor | None = None, initial_state: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Compute y_t = sum_{j < M} kernel_j x_{t-j} + skip x_t by a loop over time.

    Gradients come from autograd alone.

    Args:
        x: inputs [B, L, D].
        kernel: [D, M]; kernel_0 is the token's own.
        skip: [D]; None means zero.
        initial_state: the inputs before the first [B, M - 1, D], oldest first; None means zeros.

    Returns:
        y [B, L, D] and the last M - 1 inputs [B, M - 1, D], both in x's type. Sums are in the
        promoted type of x, kernel and float32.
    """
    number = torch.promote_types(torch.promote_types(x.dtype, kernel.dtype), torch.float32)
    length, taps = x.shape[1], kernel.shape[1]
    if initial_state is None:
        initial_state = x.new_zeros(x.shape[0], taps - 1, x.shape[2])
    known = torch.cat([initial_state.to(x.dtype), x], dim=1)
    tokens, newest_last = known.to(number).unbind(1), kernel.to(number).flip(1).T
    # Converted once: a gradient of a half type would be rounded at every step.
    direct = None if skip is None else skip.to(number)
    outputs = []
    for t in range(length):
        y = (torch.stack(tokens[t : t + taps], dim=1) * newest_last).sum(1)
        if direct is not None:
            y = y + direct * tokens[t + taps - 1]
        outputs.append(y)
    return torch.stack(outputs, dim=1).to(x.dtype), known[:, length:].clone()


def fft_convolution_bidirectional(
    x: Tensor, kernel: Tensor, backward_kernel: Tensor, skip: Tensor | None = None
) -> Tensor:
    """Compute the sum of a convolution with what came before and one with what follows.

    y_t = sum_{j >= 0} kernel_j x_{t-j} + sum_{j >= 0} backward_kernel_j x_{t+1+j} + skip x_t

    Args:
        x: inputs [B, L, D].
        kernel: [D, M].
        backward_kernel: [D, N]; its first tap is the following token's.
        skip: [D]; None means zero.

    Returns:
        y [B, L, D] in x's type.
    """
    number = torch.promote_types(torch.promote_types(x.dtype, kernel.dtype), torch.float32)
    before, _ = fft_convolution(x.to(number), kernel.to(number), skip)
    after, _ = fft_convolution(x.to(number).flip(1), backward_kernel.to(number))
    after = torch.cat([after.flip(1)[:, 1:], torch.zeros_like(after[:, :1])], dim=1)
    return (before + after).to(x.dtype)

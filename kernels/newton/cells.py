"""Recurrences for the parallel solver: those of ParaRNN (Danieli et al. 2025), LEM, a plain RNN.

What the inputs contribute is computed outside, for all steps at once. Each cell takes states and
inputs of any leading dimensions, and can be called for one step or for all.
"""

import torch
from torch import Tensor


def diagonal_gru(h: Tensor, x: Tensor, weights: Tensor) -> Tensor:
    """ParaRNN's GRU, whose recurrent matrices are diagonal: jacobian "diagonal".

    r = sigma(x_r + a_r h), z = sigma(x_z + a_z h), n = tanh(x_n + a_n r h), h' = (1 - z) h + z n.

    Args:
        h: states [..., D].
        x: inputs of the gates r, z, n [..., 3, D].
        weights: a_r, a_z, a_n [3, D].

    Returns:
        The next states [..., D].
    """
    x_r, x_z, x_n = x.unbind(-2)
    a_r, a_z, a_n = weights
    new = torch.tanh(x_n + a_n * torch.sigmoid(x_r + a_r * h) * h)
    return torch.lerp(h, new, torch.sigmoid(x_z + a_z * h))


def diagonal_lstm(state: Tensor, x: Tensor, weights: Tensor) -> Tensor:
    """ParaRNN's LSTM, diagonal, with peepholes and coupled gates: jacobian "block".

    f = sigma(x_f + a_f h + p_f c), z = tanh(x_z + a_z h), c' = f c + (1 - f) z,
    o = sigma(x_o + a_o h + p_o c'), h' = o tanh(c').

    Args:
        state: (c, h) [..., D, 2].
        x: inputs of the gates f, z, o [..., 3, D].
        weights: a_f, a_z, a_o, p_f, p_o [5, D].

    Returns:
        The next (c, h) [..., D, 2].
    """
    c, h = state.unbind(-1)
    x_f, x_z, x_o = x.unbind(-2)
    a_f, a_z, a_o, p_f, p_o = weights
    forget = torch.sigmoid(x_f + a_f * h + p_f * c)
    c = torch.lerp(torch.tanh(x_z + a_z * h), c, forget)
    return _pair(c, torch.sigmoid(x_o + a_o * h + p_o * c) * torch.tanh(c))


def diagonal_lem(state: Tensor, x: Tensor, weights: Tensor) -> Tensor:
    """Long expressive memory (Rusch et al. 2022) with diagonal matrices: jacobian "block".

    dt1 = sigma(x_1 + a_1 y), dt2 = sigma(x_2 + a_2 y), z' = (1 - dt1) z + dt1 tanh(x_z + a_z y),
    y' = (1 - dt2) y + dt2 tanh(x_y + a_y z').

    Args:
        state: (y, z) [..., D, 2].
        x: inputs of 1, 2, z, y [..., 4, D].
        weights: a_1, a_2, a_z, a_y [4, D].

    Returns:
        The next (y, z) [..., D, 2].
    """
    y, z = state.unbind(-1)
    x_1, x_2, x_z, x_y = x.unbind(-2)
    a_1, a_2, a_z, a_y = weights
    z = torch.lerp(z, torch.tanh(x_z + a_z * y), torch.sigmoid(x_1 + a_1 * y))
    y = torch.lerp(y, torch.tanh(x_y + a_y * z), torch.sigmoid(x_2 + a_2 * y))
    return _pair(y, z)


def dense_rnn(h: Tensor, x: Tensor, recurrent: Tensor) -> Tensor:
    """Elman's network, h' = tanh(x + R h): jacobian "dense" or "quasi".

    Args:
        h: states [..., N].
        x: inputs [..., N].
        recurrent: matrix [N, N].

    Returns:
        The next states [..., N].
    """
    return torch.tanh(x + torch.nn.functional.linear(h, recurrent))


def _pair(first: Tensor, second: Tensor) -> Tensor:
    """Stack along a new last dimension; in memory along the one before, which is much faster."""
    return torch.stack([first, second], dim=-2).mT

"""The diagonal scan and its gradient in Triton: every tensor is read or written once.

How the kernels walk is described in `triton_rows`. Complex numbers have kernels of their own, which
see a tensor as pairs of real numbers.
"""

from collections.abc import Callable
from types import ModuleType

import torch
import triton
from torch import Tensor

from nas.kernels.diagonal_scan import triton_complex, triton_real


def scan_forward(
    a: Tensor,
    b: Tensor,
    initial_state: Tensor | None,
    cu_seqlens: Tensor | None,
    reverse: bool,
) -> tuple[Tensor, Tensor]:
    """Compute h [B, L, D] and the final state [B, D] as `cpu.scan_forward` does."""
    out_dtype = torch.promote_types(a.dtype, b.dtype)
    state_dtype = torch.promote_types(out_dtype, torch.float32)
    sequences, length, width = _sizes(a, cu_seqlens)
    h = torch.empty(a.shape, dtype=out_dtype, device=a.device)
    final_state = torch.empty(sequences, width, dtype=state_dtype, device=a.device)
    initial = final_state if initial_state is None else initial_state.to(state_dtype).contiguous()
    if h.is_complex():
        a, b = a.to(out_dtype), b.to(out_dtype)
    rows_a, rows_b, rows_h = _rows(a), _rows(b), _rows(h)
    with torch.cuda.device_of(a):
        _kernels(h).forward_kernel[_grid(sequences, width)](
            rows_a, rows_b, _rows(initial), _ends(cu_seqlens, final_state), rows_h,
            _rows(final_state),
            length, *(_start(x, cu_seqlens) for x in (rows_a, rows_b, rows_h)),
            width=width, stride_a=rows_a.stride(1), stride_b=rows_b.stride(1),
            HAS_INITIAL=initial_state is not None, PACKED=cu_seqlens is not None, REVERSE=reverse,
            enable_fp_fusion=True,
        )  # fmt: skip
    return h, final_state


def scan_backward(
    a: Tensor,
    h: Tensor,
    initial_state: Tensor | None,
    cu_seqlens: Tensor | None,
    grad_h: Tensor,
    grad_final: Tensor,
    reverse: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Compute the gradients of a, b and the initial state as `cpu.scan_backward` does."""
    state_dtype = torch.promote_types(h.dtype, torch.float32)
    sequences, length, width = _sizes(a, cu_seqlens)
    gates = a.to(h.dtype) if h.is_complex() else a
    grad_a = torch.empty(a.shape, dtype=gates.dtype, device=a.device)
    grad_b = torch.empty(h.shape, dtype=h.dtype, device=a.device)
    grad_initial = torch.empty(sequences, width, dtype=state_dtype, device=a.device)
    initial = grad_initial if initial_state is None else initial_state.to(state_dtype).contiguous()
    rows_a, rows_g, rows_h = _rows(gates), _rows(grad_h), _rows(h.contiguous())
    with torch.cuda.device_of(a):
        _kernels(h).backward_kernel[_grid(sequences, width)](
            rows_a, rows_h, _rows(initial), _ends(cu_seqlens, grad_initial), rows_g,
            _rows(grad_final.contiguous()), _rows(grad_a), _rows(grad_b), _rows(grad_initial),
            length, *(_start(x, cu_seqlens) for x in (rows_a, rows_g, rows_h)),
            width=width, stride_a=rows_a.stride(1), stride_g=rows_g.stride(1),
            HAS_INITIAL=initial_state is not None, PACKED=cu_seqlens is not None,
            REVERSE=not reverse, enable_fp_fusion=True,
        )  # fmt: skip
    if gates.is_complex() and not a.is_complex():
        grad_a = grad_a.real.to(a.dtype).contiguous()
    return grad_a, grad_b, grad_initial


def _kernels(h: Tensor) -> ModuleType:
    return triton_complex if h.is_complex() else triton_real


def _rows(tensor: Tensor) -> Tensor:
    """Keep any layout whose channels lie side by side: halves of a projection, repeated gates.

    Complex numbers become pairs of real ones, in a last dimension of their own.
    """
    if tensor.stride(-1) != 1:
        tensor = tensor.contiguous()
    return torch.view_as_real(tensor.resolve_conj()) if tensor.is_complex() else tensor


def _sizes(a: Tensor, cu_seqlens: Tensor | None) -> tuple[int, int, int]:
    batch, length, width = a.shape
    return batch if cu_seqlens is None else cu_seqlens.shape[0] - 1, length, width


def _start(rows: Tensor, cu_seqlens: Tensor | None) -> int:
    """How far one unit of what `triton_rows.span` finds moves: a sequence, or a packed step."""
    return rows.stride(0 if cu_seqlens is None else 1)


def _ends(cu_seqlens: Tensor | None, unused: Tensor) -> Tensor:
    return _rows(unused) if cu_seqlens is None else cu_seqlens.contiguous()


def _grid(sequences: int, width: int) -> Callable[[dict[str, int]], tuple[int]]:
    return lambda config: (sequences * triton.cdiv(width, config["BLOCK"]),)

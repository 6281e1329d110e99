"""The gated matrix state and its gradient in Triton: chunks of 32 steps, products on tensor cores.

This file launches the kernels; they stand in `triton_forward` and `triton_backward`. Products of
bfloat16 tensors are taken in bfloat16 and accumulated in float32. Those of float32 tensors are made
of three TF32 ones each, which is as exact, unless `torch.set_float32_matmul_precision` allows a
single one. float16 tensors are multiplied in TF32, which rounds as they do, since the factors that
gates make would leave float16's range.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from nas.kernels.dispatch import interpreting
from nas.kernels.gated_linear_attention.cpu import LOG_GATE_FLOOR
from nas.kernels.gated_linear_attention.triton_backward import _gradient_kernel
from nas.kernels.gated_linear_attention.triton_forward import (
    _forward_kernel,
    _states_kernel,
    _sums_kernel,
)

CHUNK = 32
_TRITON = {torch.float32: tl.float32, torch.bfloat16: tl.bfloat16}


def attention_forward(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    log_gate: Tensor | None,
    initial_state: Tensor | None,
    scale: float,
    reverse: bool,
) -> tuple[Tensor, Tensor]:
    """Compute o and the final state as `cpu.attention_forward` does."""
    q, k, v = _unit_stride(q), _unit_stride(k), _unit_stride(v)
    batch, length, heads, keys = q.shape
    values = v.shape[3]
    out_dtype, number, precision = _types(q, k, v)
    chunks = triton.cdiv(length, CHUNK)
    o = torch.empty(v.shape, dtype=out_dtype, device=q.device)
    final_state = torch.empty((batch, heads, keys, values), dtype=torch.float32, device=q.device)
    initial = final_state if initial_state is None else initial_state.contiguous()
    with torch.cuda.device_of(q):
        sums = _sums(log_gate, reverse, o)
        _forward_kernel[lambda config: (batch * heads * triton.cdiv(values, config["BV"]),)](
            q, k, v, sums, initial, o, final_state,
            length, heads, chunks, scale, *q.stride()[:3], *k.stride()[:3], *v.stride()[:3],
            K=keys, V=values, BK=_block(keys), GATE=_kind(log_gate),
            HAS_INITIAL=initial_state is not None, REVERSE=reverse,
            DOT=_TRITON[number], PRECISION=precision, CHUNK=CHUNK,
            enable_fp_fusion=True,
        )  # fmt: skip
    return o, final_state


def attention_backward(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    log_gate: Tensor | None,
    initial_state: Tensor | None,
    grad_o: Tensor,
    grad_final: Tensor,
    scale: float,
    reverse: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Compute the gradients as `cpu.attention_backward` does."""
    q, k, v, grad_o = (_unit_stride(x) for x in (q, k, v, grad_o))
    gate = q if log_gate is None else _unit_stride(log_gate)
    batch, length, heads, keys = q.shape
    values = v.shape[3]
    _, number, precision = _types(q, k, v)
    chunks, kind = triton.cdiv(length, CHUNK), _kind(log_gate)
    grad_q, grad_k, grad_v = (
        torch.empty(x.shape, dtype=x.dtype, device=x.device) for x in (q, k, v)
    )
    grad_gate = torch.empty(
        (0,) if log_gate is None else gate.shape, dtype=gate.dtype, device=q.device
    )
    grad_initial = torch.empty((batch, heads, keys, values), dtype=torch.float32, device=q.device)
    states, grad_states = (
        torch.empty((batch, heads, chunks, keys, values), dtype=number, device=q.device)
        for _ in range(2)
    )
    end = torch.empty_like(grad_initial)
    initial = end if initial_state is None else initial_state.contiguous()
    sizes = {"K": keys, "V": values, "GATE": kind, "REVERSE": reverse, "CHUNK": CHUNK}
    types = {"DOT": _TRITON[number], "PRECISION": precision, "enable_fp_fusion": True}

    def blocks(config: dict[str, int]) -> tuple[int]:
        return (
            batch * heads * triton.cdiv(keys, config["BK"]) * triton.cdiv(values, config["BV"]),
        )

    with torch.cuda.device_of(q):
        sums = _sums(log_gate, reverse, q)
        _states_kernel[blocks](
            k, v, sums, initial, states, end,
            length, heads, chunks, scale, *k.stride()[:3], *v.stride()[:3],
            HAS_START=initial_state is not None, BACKWARD=False, **sizes, **types,
        )  # fmt: skip
        _states_kernel[blocks](
            q, grad_o, sums, grad_final.contiguous(), grad_states, grad_initial,
            length, heads, chunks, scale, *q.stride()[:3], *grad_o.stride()[:3],
            HAS_START=True, BACKWARD=True, **sizes, **types,
        )  # fmt: skip
        _gradient_kernel[(batch * heads * chunks,)](
            q, k, v, gate, sums, states, grad_states, grad_o, grad_q, grad_k, grad_v, grad_gate,
            length, heads, chunks, scale, *q.stride()[:3], *k.stride()[:3], *v.stride()[:3],
            *gate.stride()[:3], *grad_o.stride()[:3],
            BK=_block(keys), FLOOR=LOG_GATE_FLOOR, **sizes, **types,
        )  # fmt: skip
    return grad_q, grad_k, grad_v, grad_gate, grad_initial


def _sums(log_gate: Tensor | None, reverse: bool, unused: Tensor) -> Tensor:
    """Sum log gates as `triton_tiles` says; give the `unused` tensor where there are none."""
    if log_gate is None:
        return unused
    gate = _unit_stride(log_gate)
    batch, length, heads = gate.shape[:3]
    width = gate.shape[3] if gate.dim() == 4 else 1
    chunks = triton.cdiv(length, CHUNK)
    shape = (batch, heads, chunks, CHUNK, width)
    sums = torch.empty(shape, dtype=torch.float32, device=gate.device)
    _sums_kernel[(batch * heads * chunks,)](
        gate, sums, length, heads, chunks, *gate.stride()[:3],
        WIDTH=width, FLOOR=LOG_GATE_FLOOR, REVERSE=reverse, CHUNK=CHUNK,
        BK=triton.next_power_of_2(width), num_warps=1 if width == 1 else 4,
        enable_fp_fusion=True,
    )  # fmt: skip
    return sums


def _types(q: Tensor, k: Tensor, v: Tensor) -> tuple[torch.dtype, torch.dtype, str]:
    """Choose the type of the output, that of the products, and how float32 is multiplied."""
    out_dtype = torch.promote_types(torch.promote_types(q.dtype, k.dtype), v.dtype)
    exact = out_dtype == torch.float32 and torch.get_float32_matmul_precision() == "highest"
    # The interpreter has no right products of bfloat16.
    brain = out_dtype == torch.bfloat16 and not interpreting()
    return out_dtype, torch.bfloat16 if brain else torch.float32, "tf32x3" if exact else "tf32"


def _kind(log_gate: Tensor | None) -> int:
    return 0 if log_gate is None else log_gate.dim() - 2


def _block(width: int) -> int:
    """Choose the width of a tile that holds all channels: products have no fewer than 16."""
    return max(16, triton.next_power_of_2(width))


def _unit_stride(x: Tensor) -> Tensor:
    """Keep any layout whose channels lie side by side; a gate per head has none."""
    return x if x.dim() == 3 or x.stride(-1) == 1 else x.contiguous()

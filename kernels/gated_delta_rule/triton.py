"""The gated delta rule and its gradient in Triton: allocations and launches.

Nothing but the arguments is kept between the forward and the backward pass; the latter solves the
chunks' systems and walks through their states again.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from nas.kernels.dispatch import interpreting
from nas.kernels.gated_delta_rule.cpu import LOG_GATE_FLOOR
from nas.kernels.gated_delta_rule.triton_backward import (
    grad_states_kernel,
    gradient_kernel,
    local_kernel,
)
from nas.kernels.gated_delta_rule.triton_forward import output_kernel, solve_kernel, states_kernel

ROWS = 32
"""Sub-steps in a chunk. A public kernel's chunks of 64 had wrong gradients on Hopper."""


def rule_forward(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    beta: Tensor,
    log_gate: Tensor | None,
    initial_state: Tensor | None,
    scale: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """Compute o [B, L, H, V] and the final state [B, H, K, V] as `cpu.rule_forward` does.

    K is at most 256, n at most 32, and none of q, k and v float64. No states are kept: the third
    result has no elements.
    """
    with torch.cuda.device_of(q):
        x = _prepare(q, k, v, beta, log_gate)
        final_state, states, v_new = _states(x, initial_state)
        out_dtype = torch.promote_types(torch.promote_types(q.dtype, k.dtype), v.dtype)
        o = torch.empty((*q.shape[:3], v.shape[-1]), dtype=out_dtype, device=q.device)
        output_kernel[x.grid(v.shape[-1])](
            x.q, x.k, x.gate, x.start, states, v_new, o,
            scale, *x.sizes, **x.constants, **x.gates, READS=x.reads,
        )  # fmt: skip
    return o, final_state, final_state.new_empty(0, *final_state.shape)


def rule_backward(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    beta: Tensor,
    log_gate: Tensor | None,
    initial_state: Tensor | None,
    kept: Tensor,
    grad_o: Tensor,
    grad_final: Tensor,
    scale: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Compute the gradients of `rule_forward`'s arguments as `cpu.rule_backward` does."""
    grad_o, values = grad_o.contiguous(), v.shape[-1]
    grad_initial = _empty_like(grad_final if initial_state is None else initial_state)
    grad_q, grad_k, grad_v, grad_beta = (_empty_like(x) for x in (q, k, v, beta))
    grad_gate = beta.new_empty(0) if log_gate is None else _empty_like(log_gate)
    with torch.cuda.device_of(q):
        x = _prepare(q, k, v, beta, log_gate)
        _, states, v_new = _states(x, initial_state)
        local, grad_v_new, grad_states = (_empty_like(y) for y in (v_new, v_new, states))
        local_kernel[x.grid(values)](
            x.q, x.k, x.gate, grad_o, local,
            scale, *x.sizes, **x.constants, **x.gates, READS=x.reads,
        )  # fmt: skip
        grad_states_kernel[x.grid(values, walk=True)](
            x.q, x.k, x.w, x.start, x.end, grad_o, local, grad_final.contiguous(),
            grad_states, grad_v_new, grad_initial,
            scale, *x.sizes, **x.constants, HAS_GATE=x.gates["HAS_GATE"], READS=x.reads,
        )  # fmt: skip
        gradient_kernel[x.grid()](
            x.q, x.k, x.v, x.beta, x.gate, grad_o,
            x.inverse, x.start, x.end, states, v_new, grad_states, grad_v_new,
            grad_q, grad_k, grad_v, grad_beta, grad_gate,
            scale, *x.sizes, **x.constants, **x.gates, READS=x.reads,
        )  # fmt: skip
    return grad_q, grad_k, grad_v, grad_beta, grad_gate, grad_initial


class _Prepared(NamedTuple):
    """The arguments as the kernels take them, and the chunks' solved systems."""

    q: Tensor
    k: Tensor
    v: Tensor
    beta: Tensor
    gate: Tensor
    inverse: Tensor  # [B * H * chunks, ROWS, ROWS]
    w: Tensor  # [B * H * chunks, ROWS, K]
    u: Tensor  # [B * H * chunks, ROWS, V]
    # Decays from a chunk's start and to its end [B * H * chunks, ROWS]; nothing without gates.
    start: Tensor
    end: Tensor
    sizes: tuple[int, int, int]  # L, chunks, H
    constants: dict[str, Any]  # of all kernels, and how they are compiled
    gates: dict[str, Any]  # constants of kernels that read gates
    reads: int  # rows of a chunk's queries

    def grid(
        self, values: int | None = None, *, walk: bool = False
    ) -> Callable[[dict[str, int]], tuple[int]]:
        """Count programs: one for a chunk (or a `walk` along all of a head), and block of V."""
        programs = len(self.w) // self.sizes[1] if walk else len(self.w)

        def count(config: dict[str, int]) -> tuple[int]:
            blocks = 1 if values is None else triton.cdiv(values, config["BLOCK_V"])
            return (programs * blocks,)

        return count


def _prepare(q: Tensor, k: Tensor, v: Tensor, beta: Tensor, log_gate: Tensor | None) -> _Prepared:
    q, k, v, beta = (x.contiguous() for x in (q, k, v, beta))
    gate = beta if log_gate is None else log_gate.contiguous()
    batch, length, heads, width = q.shape
    substeps, values = k.shape[2], v.shape[-1]
    tokens = ROWS // substeps
    chunks = triton.cdiv(length, tokens)
    # What lies between kernels is bfloat16 where the arguments are. Its range is that of float32;
    # that of float16 is too small for states and their gradients.
    halves = q.dtype == k.dtype == v.dtype == torch.bfloat16
    dtype = torch.bfloat16 if halves else torch.float32

    def empty(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        return torch.empty((batch * heads * chunks, *shape), dtype=dtype, device=q.device)

    x = _Prepared(
        q, k, v, beta, gate,
        inverse=empty(ROWS, ROWS),
        w=empty(ROWS, width, dtype=dtype),
        u=empty(ROWS, values, dtype=dtype),
        start=empty(0 if log_gate is None else ROWS),
        end=empty(0 if log_gate is None else ROWS),
        sizes=(length, chunks, heads),
        constants={
            "WIDTH": width, "VALUES": values, "SUBSTEPS": substeps, "TOKENS": tokens, "ROWS": ROWS,
            "enable_fp_fusion": True,
            # The interpreter's arithmetic in bfloat16 is wrong.
            "NUMBER": tl.bfloat16 if halves and not interpreting() else tl.float32,
            "BLOCK_K": max(16, triton.next_power_of_2(width)),
        },
        gates={"HAS_GATE": log_gate is not None, "FLOOR": LOG_GATE_FLOOR},
        reads=max(16, triton.next_power_of_2(tokens)),
    )  # fmt: skip
    solve_kernel[x.grid()](
        x.k, x.v, x.beta, x.gate, x.w, x.u, x.inverse, x.start, x.end,
        *x.sizes, **x.constants, **x.gates,
    )  # fmt: skip
    return x


def _states(x: _Prepared, initial_state: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """Compute the final state [B, H, K, V], the states [B * H * chunks, K, V] and V' [.., V]."""
    (batch, _, heads, width), values = x.q.shape, x.v.shape[-1]
    final_state = torch.empty((batch, heads, width, values), dtype=torch.float32, device=x.q.device)
    states = torch.empty((len(x.w), width, values), dtype=x.w.dtype, device=x.q.device)
    v_new = _empty_like(x.u)
    initial = final_state if initial_state is None else initial_state.contiguous()
    states_kernel[x.grid(values, walk=True)](
        x.k, x.w, x.u, x.start, x.end, initial, states, v_new, final_state,
        *x.sizes, **x.constants, HAS_GATE=x.gates["HAS_GATE"],
        HAS_INITIAL=initial_state is not None,
    )  # fmt: skip
    return final_state, states, v_new


def _empty_like(x: Tensor) -> Tensor:
    return torch.empty(x.shape, dtype=x.dtype, device=x.device)

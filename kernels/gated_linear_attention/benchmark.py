"""The gated matrix state's benchmark: shapes, floor, and what it is compared with."""

import importlib.util
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from nas.kernels.family import Candidate, Family, Sizes, Work
from nas.kernels.gated_linear_attention import reference
from nas.kernels.gated_linear_attention.operator import gated_linear_attention

GATES = ("none", "scalar", "vector")


def _inputs(gate: str, shape: Sizes, generator: torch.Generator) -> tuple[Tensor, ...]:
    """Normal q, k, v and gates as a trained sigmoid's are, as their logarithms, in float32."""
    *outer, keys, values = shape
    q, k = (torch.randn(*outer, keys, generator=generator) for _ in range(2))
    inputs = q * keys**-0.5, k, torch.randn(*outer, values, generator=generator)
    if gate == "none":
        return inputs
    logits = torch.randn(*outer, *([keys] if gate == "vector" else []), generator=generator)
    return *inputs, torch.nn.functional.logsigmoid(logits + 3)


def _candidates(
    gate: str, shape: Sizes, device: torch.device, backend: str | None
) -> list[Candidate]:
    ours = Candidate("nas", lambda *inputs: gated_linear_attention(*inputs, backend=backend)[0])
    if device.type != "cuda":
        return [ours, Candidate("loop over unbind(1)", _loop)]
    # The loop keeps a state of every step, which at these shapes is more than a GPU holds.
    plain = partial(gated_linear_attention, backend="cpu")
    candidates = [ours, Candidate("chunks in plain torch", lambda *inputs: plain(*inputs)[0])]
    if importlib.util.find_spec("fla"):
        name, run = _flash_linear_attention(gate)
        candidates.append(Candidate(f"fla {name}", run))
    return candidates


def _flash_linear_attention(gate: str) -> tuple[str, Callable[..., Tensor]]:
    """Find the peer of a kind of gate in flash-linear-attention."""
    if gate == "none":
        from fla.ops.linear_attn import chunk_linear_attn

        # Its own normaliser is another function of q and k.
        return "chunk_linear_attn", lambda q, k, v: chunk_linear_attn(
            q, k, v, scale=1.0, normalize=False
        )[0]
    if gate == "scalar":
        from fla.ops.simple_gla import chunk_simple_gla

        return "chunk_simple_gla", lambda q, k, v, g: chunk_simple_gla(q, k, v, g, scale=1.0)[0]
    from fla.ops.gla import chunk_gla

    return "chunk_gla", lambda q, k, v, g: chunk_gla(q, k, v, g, scale=1.0)[0]


def _loop(*inputs: Tensor) -> Tensor:
    return reference.gated_linear_attention(*inputs)[0]


def _work(gate: str, shape: Sizes) -> Work:
    batch, length, heads, keys, values = shape
    tokens = batch * length * heads
    gates = {"none": 0, "scalar": 1, "vector": keys}[gate]
    # q, k, v, g -> o, and q, k, v, g, grad_o -> grad_q, grad_k, grad_v, grad_g. Without chunks the
    # products are k v' and S'q, and twice as many backwards, with the states once more.
    return Work(
        forward_elements=tokens * (2 * keys + 2 * values + gates),
        backward_elements=tokens * (4 * keys + 3 * values + 2 * gates),
        forward_flops=4 * tokens * keys * values,
        backward_flops=10 * tokens * keys * values,
    )


def _checked(shape: Sizes) -> Sizes:
    """Fewer sequences and heads: the float64 loop keeps a state for every step."""
    batch, length, heads, keys, values = shape
    if keys * values <= 4096:
        return shape
    return min(batch, 1), length, min(heads, 2), keys, values


def _family(gate: str) -> Family:
    return Family(
        name=f"gated_linear_attention/{gate}",
        dimensions="BLHKV",
        shapes={
            "cpu": ((4, 1024, 4, 32, 32), (2, 1000, 4, 64, 64)),
            "cuda": ((8, 2048, 16, 128, 128), (8, 2048, 16, 64, 128), (8, 1000, 8, 256, 256)),
        },
        inputs=partial(_inputs, gate),
        reference=_loop,
        candidates=partial(_candidates, gate),
        work=partial(_work, gate),
        tolerance={torch.float32: 1e-5, torch.bfloat16: 1e-2, torch.float16: 2e-3},
        # Log gates stay in float32 beside halves: what they lose is multiplied over a chunk.
        kept=frozenset({3}),
        checked=_checked,
    )


FAMILIES = tuple(_family(gate) for gate in GATES)

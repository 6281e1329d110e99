"""The gated delta rule's benchmark: its shapes, its floor, and what it is compared with."""

import importlib.util
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid, normalize

from nas.kernels.family import Candidate, Family, Sizes, Work
from nas.kernels.gated_delta_rule import reference
from nas.kernels.gated_delta_rule.operator import gated_delta_product

SUBSTEPS = {"delta": 1, "gated": 1, "product": 2}
"""Steps a token of each variant. All but "delta" have gates."""


def _inputs(variant: str, shape: Sizes, generator: torch.Generator) -> tuple[Tensor, ...]:
    """Normal q and v, keys of length 1, strengths between 0 and 1, and gates near 1, in float32.

    All variants take the arguments of a product: q, k, v, beta and, but for "delta", log gates.
    """
    batch, length, heads, width, values = shape
    steps = (batch, length, SUBSTEPS[variant], heads)
    q = width**-0.5 * torch.randn(batch, length, heads, width, generator=generator)
    k = normalize(torch.randn(*steps, width, generator=generator), dim=-1)
    v = torch.randn(*steps, values, generator=generator)
    beta = torch.randn(steps, generator=generator).sigmoid()
    if variant == "delta":
        return q, k, v, beta
    return q, k, v, beta, logsigmoid(torch.randn(batch, length, heads, generator=generator) + 3)


def _candidates(
    variant: str, shape: Sizes, device: torch.device, backend: str | None
) -> list[Candidate]:
    ours = Candidate("nas", lambda *inputs: gated_delta_product(*inputs, backend=backend)[0])
    if device.type != "cuda":
        return [ours, Candidate("loop over unbind(1)", _loop)]
    # The loop keeps a state of every step, which at these shapes is more than a GPU holds.
    plain = partial(gated_delta_product, backend="cpu")
    candidates = [ours, Candidate("chunks in plain torch", lambda *inputs: plain(*inputs)[0])]
    if importlib.util.find_spec("fla"):
        name, run = _flash_linear_attention(variant)
        candidates.append(
            Candidate(f"fla {name}", run, prepare=_flatten_steps, gradients=_unflatten_steps)
        )
    return candidates


def _flash_linear_attention(variant: str) -> tuple[str, Callable[..., Tensor]]:
    """Find the peer of a variant in flash-linear-attention. It takes sub-steps as a longer L."""
    if variant == "delta":
        from fla.ops.delta_rule import chunk_delta_rule

        return chunk_delta_rule.__name__, lambda q, k, v, beta: chunk_delta_rule(
            q, k, v, beta, scale=1.0
        )[0]
    if variant == "gated":
        from fla.ops.gated_delta_rule import chunk_gated_delta_rule

        return chunk_gated_delta_rule.__name__, lambda q, k, v, beta, g: chunk_gated_delta_rule(
            q, k, v, g, beta, scale=1.0
        )[0]
    from fla.ops.gated_delta_product import chunk_gated_delta_product

    return chunk_gated_delta_product.__name__, lambda q, k, v, beta, g: chunk_gated_delta_product(
        q, k, v, g, beta, SUBSTEPS[variant], scale=1.0
    )[0]


def _flatten_steps(
    q: Tensor, k: Tensor, v: Tensor, beta: Tensor, *gate: Tensor
) -> tuple[Tensor, ...]:
    return q, k.flatten(1, 2), v.flatten(1, 2), beta.flatten(1, 2), *gate


def _unflatten_steps(_: tuple[Tensor, ...], gradients: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    q, k, v, beta, *gate = gradients
    k, v, beta = (x.unflatten(1, (q.shape[1], -1)) for x in (k, v, beta))
    return q, k, v, beta, *gate


def _loop(*inputs: Tensor) -> Tensor:
    return reference.gated_delta_product(*inputs)[0]


def _work(variant: str, shape: Sizes) -> Work:
    batch, length, heads, keys, values = shape
    tokens, n, gate = batch * length * heads, SUBSTEPS[variant], int(variant != "delta")
    # q, k, v, beta, g -> o; backwards these and grad_o, and a gradient of each. Without chunks, a
    # sub-step has the products S'k and k v'', backwards the same again and dS'k, dS v', S dv',
    # k dv''; a token has S'q, backwards q do' and S do.
    inputs = keys + n * (keys + values + 1) + gate
    return Work(
        forward_elements=tokens * (inputs + values),
        backward_elements=tokens * (2 * inputs + values),
        forward_flops=(4 * n + 2) * tokens * keys * values,
        backward_flops=(12 * n + 4) * tokens * keys * values,
    )


def _checked(shape: Sizes) -> Sizes:
    """Fewer sequences and heads: the float64 loop keeps a state for every step."""
    batch, length, heads, keys, values = shape
    if keys * values <= 4096:
        return shape
    return min(batch, 1), length, min(heads, 2), keys, values


def _family(variant: str) -> Family:
    return Family(
        name=f"gated_delta_rule/{variant}",
        dimensions="BLHKV",
        shapes={
            "cpu": ((4, 1024, 4, 32, 32), (2, 1000, 4, 64, 64)),
            "cuda": ((8, 2048, 16, 128, 128), (8, 2048, 16, 64, 64), (8, 1000, 8, 256, 128)),
        },
        inputs=partial(_inputs, variant),
        reference=_loop,
        candidates=partial(_candidates, variant),
        work=partial(_work, variant),
        tolerance={torch.float32: 1e-5, torch.bfloat16: 1e-2, torch.float16: 2e-3},
        # Log gates stay in float32 beside halves: what they lose is multiplied over a chunk.
        kept=frozenset({4}),
        checked=_checked,
    )


FAMILIES = tuple(_family(variant) for variant in SUBSTEPS)

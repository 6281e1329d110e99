"""The softmax scan's benchmark: its shapes, its floor, and what it is compared with."""

import math

import torch
from torch import Tensor

from nas.kernels.family import Candidate, Family, Sizes, Work
from nas.kernels.softmax_scan import reference
from nas.kernels.softmax_scan.operator import softmax_scan


def _inputs(shape: Sizes, generator: torch.Generator) -> tuple[Tensor, ...]:
    """Normal scores, as those of normalised queries and keys are, and normal values."""
    return torch.randn(shape[:3], generator=generator), torch.randn(shape, generator=generator)


def _candidates(shape: Sizes, device: torch.device, backend: str | None) -> list[Candidate]:
    return [
        Candidate("nas", lambda scores, values: softmax_scan(scores, values, backend=backend)[0]),
        Candidate("loop over unbind(1)", _loop),
        Candidate("SDPA, the scores as a mask", _attention),
        Candidate("torch associative_scan, eager", _associative_scan),
    ]


def _loop(scores: Tensor, values: Tensor) -> Tensor:
    return reference.softmax_scan(scores, values)[0]


def _attention(scores: Tensor, values: Tensor) -> Tensor:
    """The same as attention whose every query is 0: quadratic in L."""
    length = scores.shape[1]
    later = torch.ones(length, length, dtype=torch.bool, device=scores.device).triu(1)
    mask = scores.to(values.dtype).mT[:, :, None].masked_fill(later, float("-inf"))
    nothing = torch.zeros_like(values).transpose(1, 2)
    return torch.nn.functional.scaled_dot_product_attention(
        nothing, nothing, values.transpose(1, 2), attn_mask=mask
    ).transpose(1, 2)


def _associative_scan(scores: Tensor, values: Tensor) -> Tensor:
    from torch._higher_order_ops.associative_scan import associative_scan

    def combine(x: tuple[Tensor, ...], y: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        m = torch.maximum(x[0], y[0])
        left, right = (x[0] - m).exp(), (y[0] - m).exp()
        return m, left * x[1] + right * y[1], left * x[2] + right * y[2]

    m = scores.float()[..., None]
    _, u, w = associative_scan(
        combine, (m, torch.ones_like(m), values.float()), 1, combine_mode="generic"
    )
    return (w / u).to(values.dtype)


def _work(shape: Sizes) -> Work:
    size, tokens = math.prod(shape), math.prod(shape[:3])
    # scores, v -> o, and scores, v, o, grad_o -> grad_scores, grad_v
    return Work(forward_elements=2 * size + tokens, backward_elements=4 * size + 2 * tokens)


SOFTMAX_SCAN = Family(
    name="softmax_scan",
    dimensions="BLHD",
    shapes={
        "cpu": ((8, 1024, 2, 64), (8, 512, 8, 16), (2, 2048, 4, 32), (2, 1000, 4, 128)),
        "cuda": ((8, 2048, 16, 64), (4, 4096, 16, 128), (32, 1024, 8, 64)),
    },
    inputs=_inputs,
    reference=_loop,
    candidates=_candidates,
    work=_work,
    tolerance={torch.float32: 1e-5, torch.bfloat16: 1e-2, torch.float16: 2e-3},
    checked=lambda shape: (min(shape[0], 2), *shape[1:]),
)

FAMILIES = (SOFTMAX_SCAN,)

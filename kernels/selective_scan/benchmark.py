"""The selective scan's benchmark: its shapes, its floor, and what it is compared with."""

import importlib.util
import math

import torch
from torch import Tensor

from nas.kernels.family import Candidate, Family, Sizes, Work
from nas.kernels.selective_scan import reference
from nas.kernels.selective_scan.operator import selective_scan


def _inputs(shape: Sizes, generator: torch.Generator) -> tuple[Tensor, ...]:
    """Arguments up to delta_bias as in Mamba at its initialisation, in float32."""
    batch, length, width, order = shape

    def normal(*sizes: int) -> Tensor:
        return torch.randn(sizes, generator=generator)

    u, delta, z = (normal(batch, length, width) for _ in range(3))
    B, C = (normal(batch, length, order) for _ in range(2))
    A = -torch.arange(1, order + 1, dtype=torch.float32).expand(width, order).contiguous()
    # Steps between 0.001 and 0.1 before the softplus, whose inverse is x + log(1 - exp(-x)).
    steps = torch.rand(width, generator=generator).mul(math.log(100)).sub(math.log(1000)).exp()
    bias = steps + torch.log(-torch.expm1(-steps))
    return u, delta, A, B, C, torch.ones(width), z, bias


def _candidates(shape: Sizes, device: torch.device, backend: str | None) -> list[Candidate]:
    candidates = [
        Candidate("nas", lambda *x: selective_scan(*x, delta_softplus=True, backend=backend)[0]),
        Candidate("loop over unbind(1)", _loop),
    ]
    if device.type == "cuda" and importlib.util.find_spec("mamba_ssm"):
        from mamba_ssm.ops.selective_scan_interface import selective_scan_fn

        # Its own layout is [B, D, L]: it gets its tensors so, and is not charged for the change.
        candidates.append(
            Candidate(
                "mamba-ssm selective_scan_fn",
                lambda *x: selective_scan_fn(*x, delta_softplus=True),
                prepare=_channels_first,
                layout=_transposed,
                gradients=lambda _, gradients: _channels_first(*gradients),
            )
        )
    return candidates


def _loop(*inputs: Tensor) -> Tensor:
    return reference.selective_scan(*inputs, delta_softplus=True)[0]


def _transposed(tensor: Tensor) -> Tensor:
    return tensor.mT.contiguous()


def _channels_first(*tensors: Tensor) -> tuple[Tensor, ...]:
    return tuple(_transposed(x) if x.dim() == 3 else x for x in tensors)


def _work(shape: Sizes) -> Work:
    batch, length, width, order = shape
    size, projections = batch * length * width, 2 * batch * length * order
    # u, delta, z, B, C -> y, and these with grad_y -> the gradients of the five. The states are
    # no traffic: they need not leave the chip.
    return Work(
        forward_elements=4 * size + projections, backward_elements=7 * size + 2 * projections
    )


SELECTIVE_SCAN = Family(
    name="selective_scan",
    dimensions="BLDN",
    shapes={
        "cpu": ((1, 1024, 128, 16), (8, 256, 128, 16), (1, 1024, 1536, 16), (2, 1000, 256, 4)),
        "cuda": ((8, 2048, 2048, 16), (8, 2048, 1536, 16), (32, 1024, 256, 16), (8, 1000, 768, 64)),
    },
    inputs=_inputs,
    reference=_loop,
    candidates=_candidates,
    work=_work,
    tolerance={torch.float32: 1e-5, torch.bfloat16: 1e-2, torch.float16: 2e-3},
    kept=frozenset({2, 5, 7}),  # A, D, delta_bias: parameters
    # The loop keeps several tensors of the states of all steps, in float64.
    checked=lambda shape: (min(shape[0], 2), shape[1], min(shape[2], 128), shape[3]),
)

FAMILIES = (SELECTIVE_SCAN,)

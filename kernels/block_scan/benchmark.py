"""The block scan's benchmark: its shapes, its floor, and what it is compared with."""

import torch
from torch import Tensor

from nas.kernels.block_scan import reference
from nas.kernels.block_scan.operator import block_scan
from nas.kernels.family import Candidate, Family, Sizes, Work


def _inputs(shape: Sizes, generator: torch.Generator) -> tuple[Tensor, ...]:
    """Matrices that turn and shrink, as those of a trained cell do, and normal inputs."""
    angle = torch.randn(shape, generator=generator)
    size = torch.randn(shape, generator=generator).add(2).sigmoid()
    row = torch.stack([angle.cos(), -angle.sin()], -1), torch.stack([angle.sin(), angle.cos()], -1)
    a = size[..., None, None] * torch.stack(row, -2)
    return a, torch.randn((*shape, 2), generator=generator)


def _candidates(shape: Sizes, device: torch.device, backend: str | None) -> list[Candidate]:
    return [
        Candidate("nas", lambda a, b: block_scan(a, b, backend=backend)[0]),
        Candidate("loop over unbind(1)", _loop),
        Candidate("torch associative_scan, eager", _associative_scan),
    ]


def _loop(a: Tensor, b: Tensor) -> Tensor:
    return reference.block_scan(a, b)[0]


def _associative_scan(a: Tensor, b: Tensor) -> Tensor:
    from torch._higher_order_ops.associative_scan import associative_scan

    def combine(x: tuple[Tensor, Tensor], y: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        return y[0] @ x[0], y[0] @ x[1] + y[1]

    return associative_scan(combine, (a, b.unsqueeze(-1)), 1, combine_mode="generic")[1].squeeze(-1)


def _work(shape: Sizes) -> Work:
    batch, length, width = shape
    size = batch * length * width
    # a (4), b (2) -> h (2), and a, h, grad_h -> grad_a, grad_b
    return Work(forward_elements=8 * size, backward_elements=14 * size)


BLOCK_SCAN = Family(
    name="block_scan",
    dimensions="BLD",
    shapes={
        "cpu": ((8, 1024, 128), (4, 2048, 32)),
        "cuda": ((8, 2048, 1024), (16, 2048, 256)),
    },
    inputs=_inputs,
    reference=_loop,
    candidates=_candidates,
    work=_work,
    tolerance={torch.float32: 1e-5, torch.bfloat16: 1e-2, torch.float16: 2e-3},
)

FAMILIES = (BLOCK_SCAN,)

"""The diagonal scan's benchmark: its shapes, its floor, and what it is compared with."""

import importlib.util
import math

import torch
from torch import Tensor

from nas.kernels.diagonal_scan import reference
from nas.kernels.diagonal_scan.operator import diagonal_scan
from nas.kernels.family import Candidate, Family, Sizes, Work


def _inputs(shape: Sizes, generator: torch.Generator) -> tuple[Tensor, ...]:
    """Gates between 0 and 1, as a trained sigmoid's are, and normal inputs, in float32."""
    a = torch.randn(shape, generator=generator).add(2).sigmoid()
    return a, torch.randn(shape, generator=generator)


def _candidates(shape: Sizes, device: torch.device, backend: str | None) -> list[Candidate]:
    candidates = [
        Candidate("nas", lambda a, b: diagonal_scan(a, b, backend=backend)[0]),
        Candidate("loop over unbind(1)", _loop),
    ]
    if device.type != "cuda":
        return [*candidates, Candidate("torch associative_scan, eager", _associative_scan)]
    if importlib.util.find_spec("accelerated_scan") and math.log2(shape[1]).is_integer():
        from accelerated_scan.warp import scan

        # Its own layout is [B, D, L]: it gets its tensors so, and is not charged for the change.
        candidates.append(
            Candidate("accelerated-scan warp", scan, _channels_first, _transposed, _channels_last)
        )
    if importlib.util.find_spec("fla"):
        from fla.ops.hgrn import chunk_hgrn

        candidates.append(
            Candidate(
                "fla chunk_hgrn",
                lambda log_a, b: chunk_hgrn(b, log_a)[0],
                prepare=lambda a, b: (a.log(), b),
                gradients=lambda inputs, gradients: (gradients[0] / inputs[0].exp(), gradients[1]),
            )
        )
    return candidates


def _loop(a: Tensor, b: Tensor) -> Tensor:
    return reference.diagonal_scan(a, b)[0]


def _associative_scan(a: Tensor, b: Tensor) -> Tensor:
    from torch._higher_order_ops.associative_scan import associative_scan

    def combine(x: tuple[Tensor, Tensor], y: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        return x[0] * y[0], y[0] * x[1] + y[1]

    return associative_scan(combine, (a, b), 1, combine_mode="generic")[1]


def _transposed(tensor: Tensor) -> Tensor:
    return tensor.mT.contiguous()


def _channels_first(*tensors: Tensor) -> tuple[Tensor, ...]:
    return tuple(_transposed(tensor) for tensor in tensors)


def _channels_last(_: tuple[Tensor, ...], gradients: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return _channels_first(*gradients)


def _work(shape: Sizes) -> Work:
    size = math.prod(shape)
    # a, b -> h, and a, h, grad_h -> grad_a, grad_b
    return Work(forward_elements=3 * size, backward_elements=5 * size)


DIAGONAL_SCAN = Family(
    name="diagonal_scan",
    dimensions="BLD",
    shapes={
        "cpu": ((8, 1024, 128), (32, 256, 64), (4, 2048, 128), (16, 1000, 256)),
        "cuda": ((8, 2048, 2048), (16, 2048, 512), (32, 1024, 256), (8, 1000, 1536)),
    },
    inputs=_inputs,
    reference=_loop,
    candidates=_candidates,
    work=_work,
    tolerance={torch.float32: 1e-6, torch.bfloat16: 5e-3, torch.float16: 1e-3},
)

FAMILIES = (DIAGONAL_SCAN,)

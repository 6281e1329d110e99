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


def _complex_inputs(shape: Sizes, generator: torch.Generator) -> tuple[Tensor, ...]:
    """Gates within the unit circle near its rim, as an LRU's are, and normal inputs."""
    radius = torch.rand(shape, generator=generator).mul(0.2).add(0.8)
    a = torch.polar(radius, torch.rand(shape, generator=generator).mul(2 * math.pi))
    return a, torch.randn(shape, generator=generator, dtype=torch.complex64)


def _complex_candidates(shape: Sizes, device: torch.device, backend: str | None) -> list[Candidate]:
    return [
        Candidate("nas", lambda a, b: diagonal_scan(a, b, backend=backend)[0]),
        Candidate("loop over unbind(1)", _loop),
        Candidate("torch associative_scan, eager", _associative_scan),
    ]


def _complex_work(shape: Sizes) -> Work:
    size = 2 * math.prod(shape)
    return Work(forward_elements=3 * size, backward_elements=5 * size)


COMPLEX = Family(
    name="diagonal_scan/complex",
    dimensions="BLD",
    shapes={"cpu": ((8, 1024, 128), (4, 2048, 64)), "cuda": ((8, 2048, 1024), (16, 2048, 256))},
    inputs=_complex_inputs,
    reference=_loop,
    candidates=_complex_candidates,
    work=_complex_work,
    tolerance={torch.float32: 1e-6},
)


def _packed_inputs(shape: Sizes, generator: torch.Generator) -> tuple[Tensor, ...]:
    """B sequences of random lengths, L on average, packed into one, and where they begin."""
    batch, length, width = shape
    inner = torch.randint(batch * length + 1, (batch - 1,), generator=generator).sort().values
    ends = torch.cat([torch.tensor([0]), inner, torch.tensor([batch * length])])
    return *_inputs((1, batch * length, width), generator), ends.int()


def _packed_candidates(shape: Sizes, device: torch.device, backend: str | None) -> list[Candidate]:
    def packed(a: Tensor, b: Tensor, ends: Tensor) -> Tensor:
        return diagonal_scan(a, b, cu_seqlens=ends, backend=backend)[0]

    def one_by_one(a: Tensor, b: Tensor, ends: Tensor) -> Tensor:
        lengths = [n for n in ends.diff().tolist() if n > 0]
        parts = zip(a.split(lengths, 1), b.split(lengths, 1), strict=True)
        return torch.cat([diagonal_scan(*part, backend=backend)[0] for part in parts], 1)

    return [
        Candidate("nas", packed),
        Candidate("loop over unbind(1)", _packed_loop),
        Candidate("nas, sequence by sequence", one_by_one),
    ]


def _packed_loop(a: Tensor, b: Tensor, ends: Tensor) -> Tensor:
    return reference.diagonal_scan(a, b, cu_seqlens=ends)[0]


VARLEN = Family(
    name="diagonal_scan/varlen",
    dimensions="BLD",
    shapes={"cpu": ((8, 1024, 128), (32, 256, 64)), "cuda": ((8, 2048, 2048), (64, 512, 512))},
    inputs=_packed_inputs,
    reference=_packed_loop,
    candidates=_packed_candidates,
    work=_work,
    tolerance={torch.float32: 1e-6, torch.bfloat16: 5e-3, torch.float16: 1e-3},
)

FAMILIES = (DIAGONAL_SCAN, COMPLEX, VARLEN)

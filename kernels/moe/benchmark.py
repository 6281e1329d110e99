"""The benchmark of mixtures of experts: shapes, floor, and what it is compared with."""

import math
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from nas.kernels.family import Candidate, Family, Sizes, Work
from nas.kernels.moe import cpu, reference
from nas.kernels.moe.operator import expert_mlp, moe


def _routed(shape: Sizes, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Tokens, k different experts each, and weights as of a softmax's largest."""
    tokens, width, _, count, chosen = shape
    x = torch.randn(tokens, width, generator=generator)
    scores = torch.randn(tokens, count, generator=generator).softmax(-1)
    weights, experts = scores.topk(chosen, dim=-1)
    return x, experts, weights / weights.sum(-1, keepdim=True)


def _inputs(shape: Sizes, generator: torch.Generator) -> tuple[Tensor, ...]:
    _, width, hidden, count, _ = shape
    w = torch.randn(count, width, hidden, generator=generator) / math.sqrt(width)
    return *_routed(shape, generator), w


def _mlp_inputs(shape: Sizes, generator: torch.Generator) -> tuple[Tensor, ...]:
    _, width, hidden, count, _ = shape
    w_in = torch.randn(count, width, hidden, generator=generator) / math.sqrt(width)
    w_out = torch.randn(count, hidden, width, generator=generator) / math.sqrt(hidden)
    return *_routed(shape, generator), w_in, w_out


def _candidates(shape: Sizes, device: torch.device, backend: str | None) -> list[Candidate]:
    candidates = [
        Candidate("nas", partial(moe, backend=backend)),
        Candidate("every expert on every token, masked", _dense),
        Candidate("split and cat by autograd", _split),
    ]
    if hasattr(F, "grouped_mm"):
        candidates.append(Candidate("torch grouped_mm", _torch_grouped))
    return candidates


def _mlp_candidates(shape: Sizes, device: torch.device, backend: str | None) -> list[Candidate]:
    candidates = [
        Candidate("nas", partial(expert_mlp, activation=F.silu, backend=backend)),
        Candidate("every expert on every token, masked", _dense),
        Candidate("split and cat by autograd", _split),
    ]
    if hasattr(F, "grouped_mm"):
        candidates.append(Candidate("torch grouped_mm", _torch_grouped))
    return candidates


def _dense(x: Tensor, experts: Tensor, weights: Tensor, *w: Tensor) -> Tensor:
    gates = x.new_zeros(x.shape[0], w[0].shape[0]).scatter_add(1, experts, weights.to(x.dtype))
    y = torch.einsum("td,edf->etf", x, w[0])
    if len(w) > 1:
        y = F.silu(y) @ w[1]
    return torch.einsum("etf,te->tf", y, gates)


def _split(x: Tensor, experts: Tensor, weights: Tensor, *w: Tensor) -> Tensor:
    """Rows sorted by expert, split by sizes that the device is asked for."""
    top = experts.shape[1]
    order = experts.flatten().argsort(stable=True)
    sizes = experts.flatten().bincount(minlength=len(w[0])).tolist()
    parts = list(x.index_select(0, order // top).split(sizes))
    for i, stack in enumerate(w):
        parts = [F.silu(part) if i > 0 else part for part in parts]
        parts = [part @ matrix for part, matrix in zip(parts, stack.unbind(0), strict=True)]
    rows = torch.cat(parts).index_select(0, order.argsort()).unflatten(0, (-1, top))
    return (rows * weights.unsqueeze(-1).to(rows.dtype)).sum(1)


def _torch_grouped(x: Tensor, experts: Tensor, weights: Tensor, *w: Tensor) -> Tensor:
    """Our routing about torch's own grouped product."""
    routing = cpu.route(experts, len(w[0]))
    y, ends = cpu.dispatch(x, routing), routing.ends.to(torch.int32)
    for i, stack in enumerate(w):
        y = F.grouped_mm(F.silu(y) if i > 0 else y, stack, offs=ends)
    return cpu.combine(y, weights, routing)


def _checked(shape: Sizes) -> Sizes:
    tokens, width, hidden, count, chosen = shape
    return min(tokens, 96), min(width, 256), min(hidden, 256), count, chosen


def _work(shape: Sizes, products: int) -> Work:
    tokens, width, hidden, count, chosen = shape
    out = hidden if products == 1 else width
    matrices, product = products * count * width * hidden, tokens * chosen * width * hidden
    # x, w -> y, and x, w, grad_y -> grad_x, grad_w; a multiply-add counts 2.
    return Work(
        forward_elements=tokens * (width + out) + matrices,
        backward_elements=tokens * (2 * width + out) + 2 * matrices,
        forward_flops=2 * products * product,
        backward_flops=4 * products * product,
    )


_DIMENSIONS = "LDFEK"
"""L tokens of all sequences together, D and F channels, E experts, of which a token meets K."""
_TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 1e-2, torch.float16: 2e-3}
_SHAPES = {
    "cpu": ((1024, 128, 256, 8, 2), (512, 64, 128, 16, 1), (500, 60, 100, 4, 4)),
    "cuda": (
        (16384, 1024, 4096, 8, 2),
        (16384, 2048, 1024, 64, 8),
        (8000, 768, 3072, 16, 1),
    ),
}

FAMILIES = (
    Family(
        name="moe/one_product",
        dimensions=_DIMENSIONS,
        shapes=_SHAPES,
        inputs=_inputs,
        reference=reference.moe,
        candidates=_candidates,
        work=partial(_work, products=1),
        tolerance=_TOLERANCE,
        kept=frozenset({2}),
        checked=_checked,
    ),
    Family(
        name="moe/mlp",
        dimensions=_DIMENSIONS,
        shapes=_SHAPES,
        inputs=_mlp_inputs,
        reference=partial(reference.expert_mlp, activation=F.silu),
        candidates=_mlp_candidates,
        work=partial(_work, products=2),
        tolerance=_TOLERANCE,
        kept=frozenset({2}),
        checked=_checked,
    ),
)

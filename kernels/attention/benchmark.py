"""Attention's benchmarks: a score under a pattern each, its floor, and what it is compared with.

Scores and weights are nothing that must be moved: what counts is q, k, v and the output, and the
matrix products of the pairs of query and key that see each other (2 forward, 5 backward, one of
which computes the scores again).
"""

import math
from functools import cache, partial

import torch
import torch.nn.functional as F
from torch import Tensor

from nas.kernels.attention import reference
from nas.kernels.attention.operator import attention
from nas.kernels.attention.pattern import Causal, Dilated, Landmark, Pattern, Window
from nas.kernels.family import Candidate, Family, Sizes, Work


def _family(name: str, pattern: Pattern, *, score: str = "softmax", linear: bool = True) -> Family:
    """A benchmark of one score under one pattern; a sigmoid has the bias -log L."""

    def oracle(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return reference.attention(q, k, v, score=score, pattern=pattern, bias=bias(q))

    def bias(q: Tensor) -> float | None:
        return -math.log(q.shape[1]) if score == "sigmoid" else None

    def candidates(shape: Sizes, device: torch.device, backend: str | None) -> list[Candidate]:
        # Without a backend torch's attention would be timed as ours, where it is the default.
        chosen = "triton" if backend is None and device.type == "cuda" else backend

        def ours(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            return attention(q, k, v, score=score, pattern=pattern, bias=bias(q), backend=chosen)

        found = [Candidate("nas", ours)]
        if device.type != "cuda" or score == "sigmoid":
            found.append(Candidate("dense masked", oracle))
        if score == "sigmoid":
            return [*found, Candidate("torch SDPA", _another_score)]
        if not isinstance(pattern, Landmark):
            call = partial(_torch_attention, mask=_mask(pattern, shape[1], device))
            found.append(Candidate("torch SDPA", call, _heads_first, _turned, _heads_last))
        if device.type == "cuda" and not isinstance(pattern, Landmark):
            flex = partial(_flex_attention, pattern=pattern)
            found.append(
                Candidate("torch flex_attention", flex, _heads_first, _turned, _heads_last)
            )
        return found

    def work(shape: Sizes) -> Work:
        batch, length, heads, width = shape
        pairs = batch * heads * _pairs(pattern, length)
        size = math.prod(shape)
        # q, k, v -> o, and q, k, v, o, grad_o -> grad_q, grad_k, grad_v
        return Work(4 * size, 8 * size, 4 * width * pairs, 10 * width * pairs)

    return Family(
        name=f"attention/{name}",
        dimensions="BLHD",
        shapes={
            "cpu": ((2, 1024, 4, 32), (1, 2048, 4, 64)),
            "cuda": ((8, 2048, 16, 128), (2, 8192, 16, 128), (8, 2048, 16, 64)),
        },
        inputs=_inputs,
        reference=oracle,
        candidates=candidates,
        work=work,
        tolerance={torch.float32: 1e-5, torch.bfloat16: 1e-2, torch.float16: 2e-3},
        checked=lambda shape: (1, shape[1], min(2, shape[2]), shape[3]),
        linear=linear,
    )


def _inputs(shape: Sizes, generator: torch.Generator) -> tuple[Tensor, ...]:
    q, k, v = (torch.randn(shape, generator=generator) for _ in range(3))
    return q, k, v


@cache
def _pairs(pattern: Pattern, length: int) -> int:
    """How many pairs of query and key see each other."""
    positions = torch.arange(length, dtype=torch.int32)
    rows = (pattern.visible(i, positions).sum() for i in positions.unsqueeze(1).split(256))
    return int(sum(rows))


def _mask(pattern: Pattern, length: int, device: torch.device) -> Tensor | None:
    """What torch's attention needs to know beside its own causal flag."""
    if isinstance(pattern, Causal):
        return None
    positions = torch.arange(length, device=device)
    visible: Tensor = pattern.visible(positions.unsqueeze(1), positions)
    return visible


def _torch_attention(q: Tensor, k: Tensor, v: Tensor, *, mask: Tensor | None) -> Tensor:
    return F.scaled_dot_product_attention(q, k, v, mask, is_causal=mask is None)


def _another_score(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    raise NotImplementedError(
        "it has no sigmoid; what its softmax takes at the same shape stands under attention/softmax"
    )


@cache
def _compiled_flex_attention(pattern: Pattern, length: int, device: torch.device) -> object:
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    def visible(batch: Tensor, head: Tensor, i: Tensor, j: Tensor) -> Tensor:
        found: Tensor = pattern.visible(i, j)
        return found

    mask = create_block_mask(visible, None, None, length, length, device=str(device))
    return partial(torch.compile(flex_attention), block_mask=mask)


def _flex_attention(q: Tensor, k: Tensor, v: Tensor, *, pattern: Pattern) -> Tensor:
    call = _compiled_flex_attention(pattern, q.shape[2], q.device)
    assert callable(call)
    out: Tensor = call(q, k, v)
    return out


def _turned(tensor: Tensor) -> Tensor:
    """To the layout [B, H, L, d] and back: torch's attention gets its tensors so."""
    return tensor.detach().transpose(1, 2).contiguous()


def _heads_first(*tensors: Tensor) -> tuple[Tensor, ...]:
    return tuple(_turned(tensor) for tensor in tensors)


def _heads_last(_: tuple[Tensor, ...], gradients: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return _heads_first(*gradients)


FAMILIES = (
    _family("softmax", Causal(), linear=False),
    _family("sigmoid", Causal(), score="sigmoid", linear=False),
    _family("window", Window(128)),
    _family("dilated", Dilated(32, 16)),
    _family("landmark", Landmark(64), linear=False),
)

"""The causal convolution's benchmark: its shapes, its floor, and what it is compared with."""

import importlib.util
import math
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from nas.kernels.causal_conv1d import reference
from nas.kernels.causal_conv1d.operator import causal_conv1d
from nas.kernels.family import Candidate, Family, Sizes, Work


def _inputs(shape: Sizes, generator: torch.Generator) -> tuple[Tensor, ...]:
    """Normal tokens, weights as a layer starts with, and a bias, in float32."""
    *tokens, width, taps = shape
    x = torch.randn(*tokens, width, generator=generator)
    weight = torch.randn(width, taps, generator=generator) / math.sqrt(taps)
    return x, weight, torch.randn(width, generator=generator)


def _candidates(
    shape: Sizes, device: torch.device, backend: str | None, dilation: int, activation: str | None
) -> list[Candidate]:
    def ours(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        keywords = {"dilation": dilation, "activation": activation, "backend": backend}
        return causal_conv1d(x, weight, bias, **keywords)[0]  # type: ignore[arg-type]

    candidates = [
        Candidate("nas", ours),
        Candidate("loop over unbind(1)", partial(_loop, dilation=dilation, activation=activation)),
        Candidate("F.conv1d", partial(_conv1d, dilation=dilation, activation=activation)),
    ]
    if device.type == "cuda" and dilation == 1 and importlib.util.find_spec("causal_conv1d"):
        from causal_conv1d import causal_conv1d_fn

        def peer(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
            # Its layout is [B, D, L]; it has a kernel for tensors whose channels lie side by side.
            return causal_conv1d_fn(x.mT, weight, bias, activation=activation).mT

        candidates.append(Candidate("causal-conv1d", peer))
    return candidates


def _loop(
    x: Tensor, weight: Tensor, bias: Tensor, *, dilation: int, activation: str | None
) -> Tensor:
    return reference.causal_conv1d(x, weight, bias, dilation=dilation, activation=activation)[0]


def _conv1d(
    x: Tensor, weight: Tensor, bias: Tensor, *, dilation: int, activation: str | None
) -> Tensor:
    width, taps = weight.shape
    padded = F.pad(x.mT, ((taps - 1) * dilation, 0))
    y = F.conv1d(padded, weight.unsqueeze(1), bias, groups=width, dilation=dilation)
    return (F.silu(y) if activation == "silu" else y).mT


def _work(shape: Sizes) -> Work:
    size = math.prod(shape[:-1])
    # x -> y, and x, grad_y -> grad_x; weight and bias are small.
    return Work(forward_elements=2 * size, backward_elements=3 * size)


def _family(
    name: str, taps: int, dilation: int, activation: str | None, cuda: tuple[Sizes, ...]
) -> Family:
    return Family(
        name=name,
        dimensions="BLDK",
        shapes={
            "cpu": tuple(
                (*sizes, taps) for sizes in ((8, 1024, 128), (32, 256, 64), (4, 1000, 256))
            ),
            "cuda": cuda,
        },
        inputs=_inputs,
        reference=partial(_loop, dilation=dilation, activation=activation),
        candidates=partial(_candidates, dilation=dilation, activation=activation),
        work=_work,
        tolerance={torch.float32: 1e-5, torch.bfloat16: 5e-3, torch.float16: 1e-3},
    )


FAMILIES = (
    _family(
        "causal_conv1d/silu",
        taps=4,
        dilation=1,
        activation="silu",
        cuda=((8, 2048, 2048, 4), (16, 2048, 512, 4), (8, 1000, 1536, 4), (8, 2048, 2048, 8)),
    ),
    _family(
        "causal_conv1d/dilated",
        taps=3,
        dilation=8,
        activation=None,
        cuda=((8, 2048, 2048, 3), (32, 1024, 256, 3)),
    ),
)

"""The parallel solver's benchmark: cells of ParaRNN and a small dense one, against their loops."""

from collections.abc import Callable

import torch
from torch import Tensor

from nas.kernels.family import Candidate, Family, Sizes, Work
from nas.kernels.newton import cells, reference
from nas.kernels.newton.operator import Jacobian, newton_scan


def _family(
    name: str,
    cell: Callable[[Tensor, Tensor, Tensor], Tensor],
    jacobian: Jacobian,
    gates: int,
    weights: Callable[[int], tuple[int, ...]],
    sizes: tuple[Sizes, ...],
) -> Family:
    parts = 2 if jacobian == "block" else 1

    def inputs(shape: Sizes, generator: torch.Generator) -> tuple[Tensor, ...]:
        batch, length, width = shape
        wide = (gates, width) if gates > 1 else (width,)
        x = torch.randn((batch, length, *wide), generator=generator)
        size = 0.5 if len(weights(width)) == 2 and gates > 1 else width**-0.5
        return x, size * torch.randn(weights(width), generator=generator)

    def begin(x: Tensor) -> Tensor:
        batch, width = x.shape[0], x.shape[-1]
        return x.new_zeros((batch, width, 2) if parts == 2 else (batch, width))

    def loop(x: Tensor, w: Tensor) -> Tensor:
        return reference.newton_scan(lambda h, u: cell(h, u, w), [x], begin(x))[0]

    def candidates(shape: Sizes, device: torch.device, backend: str | None) -> list[Candidate]:
        def ours(x: Tensor, w: Tensor) -> Tensor:
            found = newton_scan(
                lambda h, u: cell(h, u, w), x, begin(x), jacobian=jacobian, backend=backend
            )
            return found.states

        return [Candidate("nas", ours), Candidate("loop over unbind(1)", loop)]

    def work(shape: Sizes) -> Work:
        batch, length, width = shape
        size = batch * length * width
        # What the recurrence itself costs: gates read and states written; these, the gradient of
        # the states and those of the gates. Iterations come on top.
        return Work(
            forward_elements=size * (gates + parts),
            backward_elements=size * (2 * gates + 2 * parts),
        )

    return Family(
        name=f"newton/{name}",
        dimensions="BLD",
        shapes={"cpu": sizes, "cuda": tuple((b, 8 * n, 4 * d) for b, n, d in sizes)},
        inputs=inputs,
        reference=loop,
        candidates=candidates,
        work=work,
        tolerance={torch.float32: 1e-4},
    )


FAMILIES = (
    _family(
        "gru", cells.diagonal_gru, "diagonal", 3, lambda d: (3, d), ((4, 1024, 32), (8, 256, 64))
    ),
    _family(
        "lstm", cells.diagonal_lstm, "block", 3, lambda d: (5, d), ((4, 1024, 32), (8, 256, 64))
    ),
    _family("lem", cells.diagonal_lem, "block", 4, lambda d: (4, d), ((4, 1024, 32),)),
    _family("rnn", cells.dense_rnn, "dense", 1, lambda d: (d, d), ((4, 1024, 8),)),
)

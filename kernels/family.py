"""What a kernel family tells the benchmark about itself."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor


def _as_they_are(*tensors: Tensor) -> tuple[Tensor, ...]:
    return tensors


@dataclass(frozen=True)
class Candidate:
    """One implementation to be timed: the family's own, or one that it is compared with.

    Attributes:
        name: as it stands in the table.
        run: from its inputs to its output, differentiable.
        prepare: from the family's inputs to its own (another layout, log gates); not timed.
        layout: from the family's layout of an output to its own, and back; not timed.
        gradients: from its inputs and their gradients to those of the family's inputs.
    """

    name: str
    run: Callable[..., Tensor]
    prepare: Callable[..., tuple[Tensor, ...]] = _as_they_are
    layout: Callable[[Tensor], Tensor] = torch.Tensor.detach
    gradients: Callable[[tuple[Tensor, ...], tuple[Tensor, ...]], tuple[Tensor, ...]] = (
        lambda inputs, gradients: gradients
    )


@dataclass(frozen=True)
class Family:
    """A kernel family's benchmark.

    Attributes:
        name: the family's folder.
        dimensions: a letter for each dimension of its shapes, such as "BLD".
        shapes: default shapes by type of device ("cpu", "cuda").
        inputs: makes the inputs of a shape from a random generator, on the CPU in float32.
        reference: from inputs to output in any type, differentiable: the oracle.
        candidates: for a shape, a device and a backend; the family's own is the first.
        moved: tensors of the output's size that forward and backward must read or write.
        tolerance: largest relative RMS error of output and gradients by type.
    """

    name: str
    dimensions: str
    shapes: Mapping[str, tuple[tuple[int, ...], ...]]
    inputs: Callable[[tuple[int, ...], torch.Generator], tuple[Tensor, ...]]
    reference: Callable[..., Tensor]
    candidates: Callable[[tuple[int, ...], torch.device, str | None], list[Candidate]]
    moved: int
    tolerance: Mapping[torch.dtype, float]

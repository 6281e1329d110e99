"""What a kernel family tells the benchmark about itself."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

Sizes = tuple[int, ...]
"""Sizes of a family's dimensions."""


@dataclass(frozen=True)
class Candidate:
    """One implementation to be timed: the family's own, or one that it is compared with.

    Attributes:
        name: as it stands in the table.
        run: from its inputs to its output, differentiable.
        prepare: from the family's inputs to its own (another layout, log gates); not timed.
        layout: from the family's layout of an output to its own, and back; not timed.
        gradients: from its inputs and their gradients to those of the family's inputs, both of the
            inputs that have one alone.
    """

    name: str
    run: Callable[..., Tensor]
    prepare: Callable[..., tuple[Tensor, ...]] = lambda *inputs: inputs
    layout: Callable[[Tensor], Tensor] = torch.Tensor.detach
    gradients: Callable[[tuple[Tensor, ...], tuple[Tensor, ...]], tuple[Tensor, ...]] = (
        lambda inputs, gradients: gradients
    )


@dataclass(frozen=True)
class Work:
    """What no implementation can do without, for one shape: the floor is computed from it.

    Attributes:
        forward_elements: numbers of the inputs and outputs of the forward pass, each counted once.
        backward_elements: the same of the backward pass, with what it must read again.
        forward_flops: of the forward pass's matrix products, a multiply-add counting 2.
        backward_flops: of the backward pass's.
    """

    forward_elements: int
    backward_elements: int
    forward_flops: int = 0
    backward_flops: int = 0


@dataclass(frozen=True)
class Family:
    """A kernel family's benchmark, or that of one of its variants.

    Attributes:
        name: the family's folder; a variant's name follows after a slash.
        dimensions: a letter for each dimension of its shapes, such as "BLD".
        shapes: default shapes by type of device ("cpu", "cuda").
        inputs: makes the inputs of a shape from a random generator, on the CPU in float32 (or
            complex64, or integers, which are left as they are and have no gradient).
        reference: from inputs to output in any type, differentiable: the oracle.
        candidates: for a shape, a device and a backend; the family's own is the first.
        work: what a shape costs at least.
        tolerance: largest relative RMS error of output and gradients by type.
        kept: positions of the inputs that stay in float32 in every type, such as log gates.
        checked: from a shape to the one at which correctness is checked: with fewer sequences or
            heads, where a float64 loop over time would not fit into memory.
        linear: whether the cost must not grow faster than the length L.
    """

    name: str
    dimensions: str
    shapes: Mapping[str, tuple[Sizes, ...]]
    inputs: Callable[[Sizes, torch.Generator], tuple[Tensor, ...]]
    reference: Callable[..., Tensor]
    candidates: Callable[[Sizes, torch.device, str | None], list[Candidate]]
    work: Callable[[Sizes], Work]
    tolerance: Mapping[torch.dtype, float]
    kept: frozenset[int] = frozenset()
    checked: Callable[[Sizes], Sizes] = lambda shape: shape
    linear: bool = True

"""How the time of a kernel grows with the length of its sequences."""

import math
from collections.abc import Callable
from typing import Any

import torch

from nas.kernels.family import Family, Sizes
from nas.kernels.floors import interleaved

LENGTHS = (512, 1024, 2048, 4096, 8192)
LARGEST_EXPONENT = 1.1
"""Of the length, in the time of what should grow linearly: above it the row is not `correct`."""

COLUMNS = {
    "family": "family",
    "shape": "shape",
    "device": "device",
    "exponent": "exponent of L",
    "linear": "linear",
    "us_per_token": f"us a token at L = {', '.join(map(str, LENGTHS))}",
}


def measure(
    family: Family, device: torch.device, backend: str | None = None, repeats: int = 5
) -> dict[str, Any]:
    """Time forward and backward at lengths from 512 to 8192 and fit time = c * L ** exponent.

    Args:
        family: whose own candidate is timed, in float32, at its first shape with other lengths.
        device: where.
        backend: which implementation; None means the device's default.
        repeats: rounds of which the median is taken.

    Returns:
        `family`, `shape`, `device`, `exponent`, `us_per_token` by length; `linear`: whether the
        exponent is small enough (None: the family's mathematics is not linear); and `correct`.
    """
    shape = family.shapes[device.type][0]
    calls: dict[str, Callable[[], Any]] = {}
    for length in LENGTHS:
        sizes: Sizes = tuple(
            length if letter == "L" else min(n, 2) if letter == "B" else n
            for letter, n in zip(family.dimensions, shape, strict=True)
        )
        ours = family.candidates(sizes, device, backend)[0]
        made = family.inputs(sizes, torch.Generator().manual_seed(0))
        inputs = ours.prepare(*(x.to(device) for x in made))
        leaves = [x.requires_grad_() for x in inputs if x.is_floating_point() or x.is_complex()]
        grad = torch.randn_like(ours.run(*inputs))

        def call(run: Any = ours.run, x: Any = inputs, y: Any = leaves, g: Any = grad) -> Any:
            return torch.autograd.grad(run(*x), y, g)

        calls[str(length)] = call
    seconds = interleaved(calls, device, repeats)
    slope = exponent({length: seconds[str(length)] for length in LENGTHS})
    return {
        "family": family.name,
        "shape": " ".join(
            f"{letter}{min(n, 2) if letter == 'B' else n}"
            for letter, n in zip(family.dimensions, shape, strict=True)
            if letter != "L"
        ),
        "device": device.type,
        "exponent": slope,
        "linear": slope <= LARGEST_EXPONENT if family.linear else None,
        "correct": not family.linear or slope <= LARGEST_EXPONENT,
        "us_per_token": ", ".join(f"{1e6 * seconds[str(n)] / n:.3g}" for n in LENGTHS),
    }


def exponent(times: dict[int, float]) -> float:
    """Fit log(time) = exponent * log(length) + constant by least squares."""
    xs, ys = [math.log(n) for n in times], [math.log(t) for t in times.values()]
    mean_x, mean_y = sum(xs) / len(xs), sum(ys) / len(ys)
    over = sum((x - mean_x) * (y - mean_y) for x, y in zip(xs, ys, strict=True))
    return over / sum((x - mean_x) ** 2 for x in xs)

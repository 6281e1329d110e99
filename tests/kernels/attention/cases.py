"""What the tests of attention share: every pattern, arguments, results and the oracle's."""

import itertools
import math

import torch
from torch import Tensor

from nas.kernels.attention import reference
from nas.kernels.attention.pattern import (
    Causal,
    Chunk,
    Dilated,
    Fixed,
    Full,
    Landmark,
    Prefix,
    Window,
)
from tests.kernels import harness

OUTPUTS = ("o",)
PATTERNS = {
    "full": Full(),
    "causal": Causal(),
    "window": Window(7),
    "wide window": Window(100),
    "window to both sides": Window(8, causal=False),
    "itself": Window(1),
    "dilated": Dilated(3, 5),
    "dilated to both sides": Dilated(5, 3, causal=False),
    "strided": Dilated(None, 8),
    "fixed": Fixed(16, 2),
    "wide fixed": Fixed(90, 3),
    "chunk": Chunk(10),
    "chunk to both sides": Chunk(10, causal=False),
    "wide chunk": Chunk(70),
    "wide chunk to both sides": Chunk(75, causal=False),
    "prefix": Prefix(9),
    "no prefix": Prefix(0),
    "prefixes": Prefix(torch.tensor([5, 80])),
    "landmark": Landmark(5),
    "wide landmark": Landmark(70),
    "smallest landmark": Landmark(2),
}
NOT_CAUSAL = {"full", "window to both sides", "dilated to both sides"} | {
    "chunk to both sides", "wide chunk to both sides", "prefix", "prefixes"
}  # fmt: skip
CASES = [
    (name, score)
    for name, score in itertools.product(PATTERNS, ("softmax", "sigmoid"))
    if score == "softmax" or "landmark" not in name
]
TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-12, torch.bfloat16: 1e-2, torch.float16: 2e-3}


def make(length, heads=4, kv=2, width=8, keys=None, *, score="softmax", batch=2, slopes=False,
         dtype=torch.float32, device="cpu", seed=0):  # fmt: skip
    """Arguments of attention by name, and the gradient of its result."""
    torch.manual_seed(seed)
    keys = length if keys is None else keys
    sizes = {"q": (length, heads), "k": (keys, kv), "v": (keys, kv)}
    found = {x: torch.randn(batch, *s, width).to(device, dtype) for x, s in sizes.items()}
    if score == "sigmoid":
        bias = torch.randn(heads) - math.log(keys)
        found["bias"] = bias.to(device, torch.promote_types(dtype, torch.float32))
    grad = torch.randn(batch, length, heads, width).to(device, dtype)
    extra = {"slopes": torch.rand(heads).to(device)} if slopes else {}
    return found, (grad,), extra


def results(function, arguments, grads, **keywords) -> dict[str, Tensor]:
    return harness.results(function, arguments, grads, OUTPUTS, **keywords)


def expected(arguments, grads, *, slopes=None, pattern=Full(), **keywords) -> dict[str, Tensor]:  # noqa: B008
    slopes = slopes if slopes is None else slopes.cpu()
    found = harness.oracle(
        reference.attention, arguments, grads, OUTPUTS, slopes=slopes,
        pattern=on("cpu", pattern), **keywords,
    )  # fmt: skip
    # A query with one key has no gradient; what float64 leaves of it is no measure.
    return {name: x if x.abs().max() > 1e-12 else 0 * x for name, x in found.items()}


def on(device, pattern):
    if isinstance(pattern, Prefix) and isinstance(pattern.length, Tensor):
        return Prefix(pattern.length.to(device))
    return pattern

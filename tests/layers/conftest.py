"""What the tests of the layers share: every primitive's arguments, and how layers are compared."""

from collections.abc import Callable, Iterator, Mapping
from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from nas.layers import PRIMITIVES
from nas.layers.base import Primitive, Shape
from nas.layers.matrix_state import DELTA

BLOCKS = {"res": 1, "repeat": 1, "down": 1, "gated": 1, "add": 2, "gate": 2, "concat": 2, "seq": 2}
ACTIVATIONS = ("relu", "gelu", "silu")


def arguments(everything: bool) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every primitive, with all combinations of arguments, or with those that differ in kind."""
    for name in ("relu", "gelu", "silu", "norm", "identity", "linear"):
        yield name, {}
    for name in ("seq", "res", "add", "gate", "concat", "down"):
        yield name, {}
    yield "down", {"factor": 3}
    yield "repeat", {"times": 3}
    yield "stack", {"copies": 3}
    for name in ("mlp", "glu", "gated"):
        expansions = (1, 2, 4) if everything else (2,)
        for expansion, activation in product(expansions, ACTIVATIONS):
            yield name, {"expansion": expansion, "activation": activation}
    expansions, activations = ((1, 2, 4), ACTIVATIONS) if everything else ((2,), ("silu",))
    for experts, top, expansion, activation in product((4, 8), (1, 2), expansions, activations):
        yield (
            "moe",
            {"experts": experts, "top": top, "expansion": expansion, "activation": activation},
        )
    heads = [(h, kv) for h in (1, 2, 4, 8) for kv in (1, 2, 4, 8) if h % kv == 0]
    heads, windows = (heads, ("full", 5, 16, 64)) if everything else ([(1, 1), (4, 2)], ("full", 5))
    for (h, kv), window, position in product(heads, windows, ("none", "rope")):
        yield "attention", {"heads": h, "kv": kv, "window": window, "position": position}
    for transition, update, direction in product(
        ("sigmoid", "ratio", "rglru", "fixed"),
        ("convex", "normalised", "plain"),
        ("forward", "backward", "both"),
    ):
        yield "scan", {"transition": transition, "update": update, "direction": direction}
    for states, direction in product(
        (8, 16, 32) if everything else (8,), ("forward", "backward", "both")
    ):
        yield "selective", {"states": states, "direction": direction}
    yield from matrix_arguments(everything)
    for kind, states, direction in product(
        ("s4d", "lru"), (8, 16, 32, 64) if everything else (8,), ("forward", "backward", "both")
    ):
        values = {"parameterisation": kind, "states": states, "direction": direction}
        yield "diagonal", values
    widths, dilations = ((3, 4, 7), (1, 2, 4, 8)) if everything else ((4,), (1, 8))
    for kind, width, dilation, direction in product(
        ("depthwise", "dense"), widths, dilations, ("causal", "centred")
    ):
        yield (
            "conv",
            {"kind": kind, "width": width, "dilation": dilation, "direction": direction},
        )


def matrix_arguments(everything: bool) -> Iterator[tuple[str, dict[str, Any]]]:
    states = [
        ("add", ("none", "fixed", "head", "channel", "bounded"), ("divided", "norm", "gated")),
        ("tied", ("channel", "bounded"), ("divided", "norm", "gated")),
        *((name, ("none", "fixed", "head"), ("norm", "gated")) for name in DELTA),
    ]
    combined = [
        (update, decay, read)
        for update, decays, reads in states
        for decay, read in product(decays, reads)
    ]
    features = ("identity", "elu", "silu", "rotary")
    if everything:
        inputs = product((4,), (1, 2), ("direct", "short"), features, combined)
    else:  # every value of each factor, not all with all
        spread = product((2,), (1, 2), ("direct", "short"), features)
        inputs = ((*first, combined[7 * i % len(combined)]) for i, first in enumerate(spread))
    for index, (heads, values, input, feature, (update, decay, read)) in enumerate(inputs):
        yield (
            "matrix",
            {
                "heads": heads,
                "values": values,
                "input": input,
                "feature": feature,
                "update": update,
                "decay": decay,
                "read": read,
                "direction": "backward" if index % 5 == 4 else "forward",
            },
        )


class Case:
    """A primitive, its arguments and a shape; its blocks are linear maps."""

    def __init__(self, name: str, arguments: dict[str, Any], shape: Shape) -> None:
        self.name, self.arguments, self.shape = name, arguments, shape
        self.primitive = PRIMITIVES[name]

    @property
    def looks_ahead(self) -> bool:
        ahead = self.arguments.get("direction") in ("backward", "both", "centred")
        return ahead or self.name == "down" or (self.name == "attention" and not self.shape.causal)

    @property
    def legal(self) -> bool:
        return not (self.shape.causal and self.looks_ahead)

    @property
    def blocks(self) -> int:
        return BLOCKS.get(self.name, 1 if self.name == "stack" else 0)

    def build(self, block: str = "linear") -> Primitive:
        inner = self.primitive.block_shape(self.shape, **self.arguments)
        copies = self.primitive.copies(**self.arguments)
        modules = [PRIMITIVES[block](inner) for _ in range(self.blocks * copies)]
        torch.manual_seed(1)
        return self.primitive(self.shape, *modules, **self.arguments)

    def __str__(self) -> str:
        kind = "causal" if self.shape.causal else "free"
        return "-".join([self.name, *(str(v) for v in self.arguments.values()), kind])


def cases(everything: bool) -> list[Case]:
    drawn = [
        Case(name, values, Shape(12, 32, causal))
        for name, values in arguments(everything)
        for causal in (True, False)
    ]
    return [case for case in drawn if case.legal]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    selections: dict[str, Callable[[Case], bool]] = {
        "case": lambda case: True,
        "causal_case": lambda case: case.shape.causal,
        "ahead_case": lambda case: case.looks_ahead,
    }
    for fixture, selected in selections.items():
        if fixture in metafunc.fixturenames:
            chosen = [case for case in cases(everything=False) if selected(case)]
            metafunc.parametrize(fixture, chosen, ids=str)


@pytest.fixture
def every_case() -> list[Case]:
    """All combinations of arguments."""
    return cases(everything=True)


def relative_error(actual: Tensor, expected: Tensor) -> float:
    """RMS of the difference over RMS of what is expected (over 1 where that is rounding noise)."""
    actual, expected = actual.detach().double(), expected.detach().double()
    scale = expected.square().mean().sqrt().item()
    difference = (actual - expected).square().mean().sqrt().item()
    return difference / scale if scale > 1e-6 else difference


Reference = Callable[[Tensor, Mapping[str, Tensor]], Tensor]


class Compare:
    """Checks a layer in float64 against a formula: output and all gradients."""

    def __call__(self, layer: nn.Module, reference: Reference, x: Tensor) -> None:
        layer = layer.double()
        x = x.double().requires_grad_()
        y = layer(x)
        direction = torch.randn(y.shape, dtype=torch.float64)
        names = [name for name, _ in layer.named_parameters()]
        wrt = [x, *layer.parameters()]
        gradients = torch.autograd.grad(y, wrt, direction)

        copies = {n: p.detach().clone().requires_grad_() for n, p in layer.named_parameters()}
        x = x.detach().clone().requires_grad_()
        expected = reference(x, copies)
        expected_gradients = torch.autograd.grad(expected, [x, *copies.values()], direction)

        assert y.shape == expected.shape
        assert relative_error(y, expected) < 1e-12
        for name, actual, wanted in zip(["x", *names], gradients, expected_gradients, strict=True):
            assert relative_error(actual, wanted) < 1e-10, name


@pytest.fixture(autouse=True)
def _one_thread_and_a_seed() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)


@pytest.fixture
def compare() -> Compare:
    return Compare()


@pytest.fixture
def error() -> Callable[[Tensor, Tensor], float]:
    return relative_error


@pytest.fixture
def stream() -> Callable[[Primitive, Tensor], Tensor]:
    """Runs a layer token by token."""

    def run(layer: Primitive, x: Tensor) -> Tensor:
        state = layer.init_state(x.shape[0], x.device, x.dtype)
        outputs = []
        for token in x.unbind(1):
            y, state = layer.step(token, state)
            outputs.append(y)
        return torch.stack(outputs, dim=1)

    return run

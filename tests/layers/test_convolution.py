"""Convolutions against a loop over tokens and taps, in float64."""

import pytest
import torch

from nas.layers.base import Shape
from nas.layers.convolution import Convolution

D = 6


def reference(x, w, kind, taps, dilation, direction):
    length = x.shape[1]
    offset = (taps - 1) * dilation if direction == "causal" else (taps - 1) // 2 * dilation
    rows = []
    for t in range(length):
        y = w["bias"].expand(x.shape[0], -1)
        for k in range(taps):
            s = t + k * dilation - offset
            if 0 <= s < length:
                tap = w["weight"][:, :, k]
                y = y + (x[:, s] * tap[:, 0] if kind == "depthwise" else x[:, s] @ tap.T)
        rows.append(y)
    return torch.stack(rows, 1)


@pytest.mark.parametrize("length", [1, 7, 20])
@pytest.mark.parametrize("direction", ["causal", "centred"])
@pytest.mark.parametrize("dilation", [1, 3, 8])
@pytest.mark.parametrize("taps", [1, 3, 4, 7])
@pytest.mark.parametrize("kind", ["depthwise", "dense"])
def test_agrees_with_a_loop(compare, kind, taps, dilation, direction, length):
    layer = Convolution(
        Shape(8, D, False), kind=kind, width=taps, dilation=dilation, direction=direction
    )
    torch.nn.init.normal_(layer.bias)

    def expected(x, w):
        return reference(x, w, kind, taps, dilation, direction)

    compare(layer, expected, torch.randn(2, length, D))


@pytest.mark.parametrize("taps", [3, 7])
def test_centred_looks_as_far_back_as_ahead(taps):
    layer = Convolution(
        Shape(8, D, False), kind="depthwise", width=taps, dilation=2, direction="centred"
    )
    x = torch.zeros(1, 40, D)
    x[:, 20] = 1
    with torch.no_grad():
        touched = (layer(x) != 0).any(-1).squeeze().nonzero().squeeze()
    assert touched.min() == 20 - (taps - 1)
    assert touched.max() == 20 + (taps - 1)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"kind": "sparse"}, "depthwise or dense"),
        ({"direction": "forward"}, "causal or centred"),
        ({"direction": "centred"}, "later tokens"),
        ({"width": 0}, "at least 1"),
        ({"dilation": 0}, "at least 1"),
    ],
)
def test_wrong_arguments_are_refused_when_built_and_when_counted(changed, message):
    arguments = {"kind": "dense", "width": 3, "dilation": 1, "direction": "causal"} | changed
    for call in (Convolution, Convolution.cost):
        with pytest.raises(ValueError, match=message):
            call(Shape(8, D, True), **arguments)

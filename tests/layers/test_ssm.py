"""State spaces against a loop over time in float64, from the equations of their systems."""

import math

import pytest
import torch

from nas.layers.base import Shape
from nas.layers.ssm import Selective

D = 40


def run(tokens, step, direction, split):
    """The outputs [B, L, D] of `step(x, h) -> y, h` over tokens, in a direction of scans."""

    def along(order):
        h, outputs = 0.0, {}
        for t in order:
            outputs[t], h = step(tokens[:, t], h)
        return torch.stack([outputs[t] for t in sorted(outputs)], 1)

    order = list(range(tokens.shape[1]))
    if direction == "forward":
        return along(order)
    if direction == "backward":
        return along(order[::-1])
    return torch.cat((along(order)[..., :split], along(order[::-1])[..., split:]), -1)


def selective(x, w, states, direction):
    """Mamba's algorithm 2, written out."""
    rank = math.ceil(x.shape[-1] / 32)
    rates = -torch.exp(w["log_rates"])

    def step(x, h):
        low, enter, leave = (x @ w["projection.weight"].T).split((rank, states, states), -1)
        raw = low @ w["step_projection.weight"].T + w["step_bias"]
        size = torch.log(1 + torch.exp(raw))
        moved = (size * x)[:, :, None] * enter[:, None, :]
        h = torch.exp(size[:, :, None] * rates) * h + moved
        return (h * leave[:, None, :]).sum(-1) + w["skip"] * x, h

    return run(x, step, direction, x.shape[-1] // 2)


@pytest.mark.parametrize("length", [1, 7, 40])
@pytest.mark.parametrize("direction", ["forward", "backward", "both"])
@pytest.mark.parametrize("states", [1, 16])
def test_selective_agrees_with_a_loop(compare, states, direction, length):
    layer = Selective(Shape(16, D, False), states=states, direction=direction)
    with torch.no_grad():
        layer.skip.normal_()
        layer.step_bias.normal_()
        layer.log_rates.add_(0.3 * torch.randn_like(layer.log_rates))

    def expected(x, w):
        return selective(x, w, states, direction)

    compare(layer, expected, torch.randn(2, length, D))


def test_selective_starts_as_published():
    layer = Selective(Shape(16, 4096, True), states=16, direction="forward")
    rates = layer.log_rates.detach().double().exp()
    assert torch.allclose(rates, torch.arange(1.0, 17.0, dtype=torch.float64).expand(4096, 16))
    assert (layer.skip == 1).all()
    steps = torch.nn.functional.softplus(layer.step_bias.detach().double())
    assert 1e-3 - 1e-7 < steps.min() < 1.01e-3
    assert 0.099 < steps.max() < 0.1 + 1e-6
    assert steps.log().mean() == pytest.approx(math.log(1e-2), abs=0.1)
    assert layer.step_projection.weight.shape == (4096, 128)
    assert layer.step_projection.weight.abs().max() <= 128**-0.5


def test_half_precision_tokens_have_float32_states():
    layer = Selective(Shape(16, D, True), states=8, direction="forward").to(torch.bfloat16)
    x = torch.randn(2, 30, D, dtype=torch.bfloat16)
    y, state = layer.step(x[:, 0], layer.init_state(2, "cpu", torch.bfloat16))
    assert y.dtype == layer(x).dtype == torch.bfloat16
    assert state.dtype == torch.float32


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"states": 0}, "at least 1"),
        ({"direction": "sideways"}, "forward, backward or both"),
        ({"direction": "both"}, "later tokens"),
    ],
)
def test_wrong_arguments_of_selective_are_refused(changed, message):
    arguments = {"states": 8, "direction": "forward"} | changed
    for call in (Selective, Selective.cost):
        with pytest.raises(ValueError, match=message):
            call(Shape(8, D, True), **arguments)

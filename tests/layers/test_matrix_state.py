"""Matrix states against a loop over time in float64, from the equations of their systems."""

import math

import pytest
import torch

from nas.compiler.check import find_problems
from nas.grammar.space import Space
from nas.layers.base import Shape
from nas.layers.matrix_state import MatrixState
from nas.resources import find_space

D = 16

SYSTEMS = {
    "linear_attention": "matrix(2, 1, direct, elu, add, none, divided, forward)",
    "identity": "matrix(4, 1, direct, identity, add, none, divided, forward)",
    "retnet": "matrix(2, 2, direct, rotary, add, fixed, gated, forward)",
    "gla": "matrix(2, 1, direct, identity, add, channel, gated, forward)",
    "hgrn2": "matrix(4, 1, direct, silu, tied, bounded, norm, forward)",
    "tied": "matrix(2, 1, direct, silu, tied, channel, divided, forward)",
    "deltanet": "matrix(2, 1, short, identity, delta, none, norm, forward)",
    "reflect": "matrix(2, 2, direct, silu, reflect, fixed, norm, forward)",
    "gated_deltanet": "matrix(4, 2, short, identity, delta, head, gated, forward)",
    "deltaproduct2": "matrix(2, 1, short, identity, product2, head, gated, forward)",
    "deltaproduct3": "matrix(2, 2, direct, rotary, product3, none, norm, forward)",
    "mixed": "matrix(2, 1, short, elu, add, head, divided, backward)",
    "elu_delta": "matrix(1, 1, short, elu, delta, head, gated, backward)",
}
NAMES = ("heads", "values", "input", "feature", "update", "decay", "read", "direction")


def parsed(text):
    values = text.removeprefix("matrix(").removesuffix(")").split(", ")
    return {
        name: int(value) if value.isdigit() else value
        for name, value in zip(NAMES, values, strict=True)
    }


def sigma(x):
    return 1 / (1 + torch.exp(-x))


def silu(x):
    return x * sigma(x)


def root_mean_square(x, weight):
    return weight * x / torch.sqrt((x**2).mean(-1, keepdim=True) + 1e-6)


def convolved(x, weight, bias):
    """Four taps, the last of them at the token itself, then SiLU."""
    rows = []
    for t in range(x.shape[1]):
        taps = [weight[:, 0, j] * x[:, t - 3 + j] for j in range(4) if t - 3 + j >= 0]
        rows.append(silu(bias + sum(taps)))
    return torch.stack(rows, 1)


def turned(x, position):
    d = x.shape[-1]
    channels = []
    for i in range(0, d, 2):
        angle = position * 10000 ** (-i / d)
        channels.append(x[..., i] * math.cos(angle) - x[..., i + 1] * math.sin(angle))
        channels.append(x[..., i] * math.sin(angle) + x[..., i + 1] * math.cos(angle))
    return torch.stack(channels, -1)


def feature_map(kind, x, position):
    if kind == "rotary":
        return turned(x, position)
    if kind == "elu":
        return torch.where(x > 0, x + 1, torch.exp(x))
    return silu(x) if kind == "silu" else x


def alphas(kind, x, w, head, heads):
    """Decay of one head, [B, 1 or K], of tokens [B, D]."""
    if kind == "none":
        return torch.ones_like(x[:, :1])
    if kind == "fixed":
        return torch.full_like(x[:, :1], 1 - 2.0 ** (-5 - head))
    if kind == "head":
        row = x @ w["gate.projection.weight"].T + w["gate.projection.bias"]
        step = torch.log(1 + torch.exp(row))
        return torch.exp(-torch.exp(w["gate.decay"]) * step)[:, head : head + 1]
    if kind == "bounded":
        least = sigma(w["gate.decay"])
        values = least + (1 - least) * sigma(x @ w["gate.projection.weight"].T)
        return values.chunk(heads, -1)[head]
    logits = x @ w["gate.down.weight"].T @ w["gate.up.weight"].T + w["gate.up.bias"]
    return (sigma(logits) ** (1 / 16)).chunk(heads, -1)[head]


def reference(
    x, w, *, heads, values, input, feature, update, decay, read, direction, substeps, strongest
):
    """For every head and token: one matrix, changed and read."""
    if direction == "backward":
        x = x.flip(1)
    key, value = D // heads, values * D // heads
    projected = x @ w["query_key_value.weight"].T
    if input == "short":
        projected = convolved(projected, w["short.weight"], w["short.bias"])
    key_channels = 0 if update == "tied" else substeps * heads * key
    q, k, v = projected.split((D, key_channels, substeps * heads * value), -1)
    outputs = []
    for h in range(heads):
        state = torch.zeros(x.shape[0], key, value, dtype=x.dtype)
        total = torch.zeros(x.shape[0], key, dtype=x.dtype)
        rows = []
        for t in range(x.shape[1]):
            alpha = alphas(decay, x[:, t], w, h, heads)
            query = feature_map(feature, q[:, t, h * key : (h + 1) * key], t)
            state, total = alpha.unsqueeze(-1) * state, alpha * total
            for j in range(substeps):
                n = j * heads + h
                written = v[:, t, n * value : (n + 1) * value]
                if update == "tied":
                    index = 1 - alpha
                else:
                    index = feature_map(feature, k[:, t, n * key : (n + 1) * key], t)
                if update in ("add", "tied"):
                    state = state + index.unsqueeze(-1) * written.unsqueeze(-2) / math.sqrt(key)
                    total = total + index / math.sqrt(key)
                    continue
                index = index / torch.sqrt((index**2).sum(-1, keepdim=True) + 1e-6)
                beta = strongest * sigma(x[:, t] @ w["strength.weight"][n]).view(-1, 1, 1)
                column, row = index.unsqueeze(-1), index.unsqueeze(-2)
                identity = torch.eye(key, dtype=x.dtype)
                state = (identity - beta * column @ row) @ state
                state = state + beta * column @ written.unsqueeze(-2)
            if update not in ("add", "tied"):
                query = query / torch.sqrt((query**2).sum(-1, keepdim=True) + 1e-6)
            o = (query.unsqueeze(-2) @ state).squeeze(-2)
            if read == "divided":
                least = 1e-6 if (feature, update) == ("elu", "add") else 1.0
                o = o / (query * total).sum(-1, keepdim=True).abs().clamp(min=least)
            else:
                o = root_mean_square(o, w["norm.weight"])
            rows.append(o)
        outputs.append(torch.stack(rows, 1))
    y = torch.cat(outputs, -1)
    if read == "gated":
        y = y * silu(x @ w["output_gate.weight"].T)
    y = y @ w["output.weight"].T
    return y.flip(1) if direction == "backward" else y


@pytest.mark.parametrize("length", [1, 13])
@pytest.mark.parametrize("text", SYSTEMS.values(), ids=SYSTEMS)
def test_agrees_with_a_loop(compare, text, length):
    arguments = parsed(text)
    layer = MatrixState(Shape(8, D, False), **arguments)
    with torch.no_grad():
        for name, parameter in layer.named_parameters():
            if name.endswith(("bias", "norm.weight")) and not name.startswith("gate.projection"):
                parameter.normal_()
    update = arguments["update"]
    substeps = {"product2": 2, "product3": 3}.get(update, 1)
    strongest = 1 if update == "delta" else 2

    def expected(x, w):
        return reference(x, w, **arguments, substeps=substeps, strongest=strongest)

    compare(layer, expected, torch.randn(2, length, D))


@pytest.mark.parametrize("text", SYSTEMS.values(), ids=SYSTEMS)
def test_the_language_says_it_and_it_keeps_its_promises(text):
    causal = "backward" not in text
    context = {"L": (37,), "D": 32, "causal": causal}
    space = Space.load(find_space("hybrid.lark"), context=context)
    term = space.parse(f"net({text})").term
    assert find_problems(term, Shape(37, 32, causal)) == []


def test_a_negative_eigenvalue_turns_a_sign():
    """With beta = 2 and one key, what is stored changes its sign at every other token."""
    arguments = parsed("matrix(1, 1, direct, identity, reflect, none, norm, forward)")
    layer = MatrixState(Shape(8, 2, True), **arguments).double()
    with torch.no_grad():
        layer.strength.weight.fill_(100.0)
        first = torch.tensor([[1.0, 0.0], [0.0, 0.0]])
        layer.query_key_value.weight.copy_(torch.cat((first, first, first)))
        layer.output.weight.copy_(torch.eye(2))
        y = layer(torch.tensor([[[1.0, 0.0]] * 6], dtype=torch.float64))[0, :, 0]
    # S = 2, 0, 2, 0, ...: -S + 2
    stored = torch.tensor([1.0, 0.0] * 3, dtype=torch.float64) * math.sqrt(2)
    assert torch.allclose(y, stored, atol=2e-2)  # a key is 5e-7 shorter than 1


def test_head_decays_start_in_their_published_ranges():
    arguments = parsed("matrix(512, 1, direct, identity, delta, head, norm, forward)")
    gate = MatrixState(Shape(8, 512, True), **arguments).gate
    rates = gate.decay.detach().exp()
    steps = torch.nn.functional.softplus(gate.projection.bias.detach())
    assert 1 <= rates.min() < 1.3
    assert 15.7 < rates.max() <= 16
    assert 1e-3 * 0.99 < steps.min() < 1.2e-3
    assert 0.08 < steps.max() < 0.101
    assert steps.log().mean() == pytest.approx(math.log(1e-2), abs=0.2)


def test_a_bounded_decay_that_forgets_everything_has_finite_gradients():
    arguments = parsed(SYSTEMS["hgrn2"])
    layer = MatrixState(Shape(8, D, True), **arguments)
    with torch.no_grad():
        layer.gate.decay.fill_(-60.0)
        layer.gate.projection.weight.fill_(-20.0)
    x = torch.rand(2, 9, D, requires_grad=True)
    y = layer(x)
    y.sum().backward()
    assert y.isfinite().all()
    assert all(t.grad.isfinite().all() for t in (x, *layer.parameters()))


def test_half_precision_tokens_have_float32_states():
    arguments = parsed(SYSTEMS["gated_deltanet"])
    layer = MatrixState(Shape(8, D, True), **arguments).to(torch.bfloat16)
    state = layer.init_state(2, "cpu", torch.bfloat16)
    x = torch.randn(2, 5, D, dtype=torch.bfloat16)
    y, state = layer.step(x[:, 0], state)
    assert y.dtype == layer(x).dtype == torch.bfloat16
    assert state[0].dtype == torch.float32


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"heads": 3}, "3 heads do not divide"),
        ({"values": 0}, "at least 1 times"),
        ({"input": "long"}, "direct, short"),
        ({"feature": "relu"}, "identity, elu, silu, rotary"),
        ({"heads": 16, "feature": "rotary"}, "odd"),
        ({"update": "sum"}, "update is one of"),
        ({"decay": "channel"}, "decay of delta"),
        ({"update": "tied"}, "decay of tied"),
        ({"read": "divided"}, "read of delta"),
        ({"direction": "both"}, "forward, backward"),
        ({"direction": "backward"}, "later tokens"),
    ],
)
def test_wrong_arguments_are_refused_when_built_and_when_counted(changed, message):
    arguments = parsed(SYSTEMS["gated_deltanet"]) | changed
    for call in (MatrixState, MatrixState.cost):
        with pytest.raises(ValueError, match=message):
            call(Shape(8, D, True), **arguments)

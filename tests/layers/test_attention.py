"""Attention against a loop over queries and heads, in float64."""

import math
from itertools import product

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

from nas.layers.attention import Attention, _pairs, local_attention
from nas.layers.base import Shape

D = 16


def sees(i: int, j: int, window: int | str, causal: bool) -> bool:
    if window == "full":
        return j <= i if causal else True
    if causal:
        return i - int(window) < j <= i
    return abs(i - j) <= int(window) // 2


def turned(vector: torch.Tensor, position: int) -> torch.Tensor:
    """Each pair of channels (2i, 2i + 1), turned in its plane."""
    d = vector.shape[-1]
    channels = []
    for i in range(0, d, 2):
        angle = position * 10000 ** (-i / d)
        first, second = vector[..., i], vector[..., i + 1]
        channels.append(first * math.cos(angle) - second * math.sin(angle))
        channels.append(first * math.sin(angle) + second * math.cos(angle))
    return torch.stack(channels, -1)


def reference(x, w, *, heads, kv, window, position, causal):
    length, d = x.shape[1], D // heads
    projected = x @ w["query_key_value.weight"].T
    q, k, v = projected.split((heads * d, kv * d, kv * d), -1)
    rows = []
    for i in range(length):
        visible = [j for j in range(length) if sees(i, j, window, causal)]
        parts = []
        for h in range(heads):
            g = h // (heads // kv)
            query = q[:, i, h * d : (h + 1) * d]
            keys = [k[:, j, g * d : (g + 1) * d] for j in visible]
            values = torch.stack([v[:, j, g * d : (g + 1) * d] for j in visible], 1)
            if position == "rope":
                query = turned(query, i)
                keys = [turned(key, j) for key, j in zip(keys, visible, strict=True)]
            scores = torch.stack([(query * key).sum(-1) for key in keys], 1) / math.sqrt(d)
            weights = scores.exp() / scores.exp().sum(1, keepdim=True)
            parts.append((weights.unsqueeze(-1) * values).sum(1))
        rows.append(torch.cat(parts, -1))
    return torch.stack(rows, 1) @ w["output.weight"].T


@pytest.mark.parametrize("length", [1, 14])
@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("position", ["none", "rope"])
@pytest.mark.parametrize("window", ["full", 1, 5, 16])
@pytest.mark.parametrize(("heads", "kv"), [(1, 1), (4, 4), (4, 2)])
def test_agrees_with_a_loop(compare, heads, kv, window, position, causal, length):
    arguments = {"heads": heads, "kv": kv, "window": window, "position": position}
    layer = Attention(Shape(8, D, causal), **arguments)

    def expected(x, w):
        return reference(x, w, **arguments, causal=causal)

    compare(layer, expected, torch.randn(2, length, D))


@pytest.mark.parametrize(("before", "after"), [(0, 0), (15, 0), (63, 0), (8, 8), (32, 32)])
@pytest.mark.parametrize("length", [1, 63, 64, 130, 257])
def test_chunks_agree_with_a_mask(error, before, after, length):
    q, k, v = (torch.randn(2, length, n, 8, requires_grad=True) for n in (4, 2, 2))
    y = local_attention(q, k, v, before, after)
    i = torch.arange(length)
    distance = i[:, None] - i[None]
    mask = (distance <= before) & (distance >= -after)
    expected = scaled_dot_product_attention(
        q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2), attn_mask=mask, enable_gqa=True
    ).transpose(1, 2)
    g = torch.randn_like(y)
    actual_gradients = torch.autograd.grad(y, (q, k, v), g)
    expected_gradients = torch.autograd.grad(expected, (q, k, v), g)
    assert error(y, expected) < 1e-5
    for actual, wanted in zip(actual_gradients, expected_gradients, strict=True):
        assert error(actual, wanted) < 1e-5


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("window", [None, 1, 2, 5, 16, 64])
def test_pairs_are_counted(causal, window):
    for length in (1, 2, 7, 20, 40):
        pairs = product(range(length), repeat=2)
        counted = sum(sees(i, j, window or "full", causal) for i, j in pairs)
        assert _pairs(length, window, causal) == counted


def test_a_window_costs_no_more_than_its_tokens():
    arguments = {"heads": 4, "kv": 4, "position": "none"}
    costs = [
        Attention.cost(Shape(1024, 64, True), window=window, **arguments) for window in ("full", 64)
    ]
    assert costs[1].flops < costs[0].flops / 2
    assert costs[1].state == 64 * 2 * 64


def test_rope_needs_no_more_than_distance(error):
    torch.manual_seed(0)
    layer = Attention(Shape(8, D, False), heads=2, kv=2, window="full", position="rope").double()
    x = torch.randn(1, 9, D, dtype=torch.float64)
    with torch.no_grad():
        q, k, _ = layer._heads(x, torch.arange(9))
        later_q, later_k, _ = layer._heads(x, torch.arange(9) + 1000)
    scores = torch.einsum("bihd,bjhd->bhij", q, k)
    assert error(torch.einsum("bihd,bjhd->bhij", later_q, later_k), scores) < 1e-10


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"heads": 3}, "3 heads do not divide"),
        ({"heads": 0}, "0 heads"),
        ({"kv": 3}, "3 key and value heads"),
        ({"window": "half"}, "window"),
        ({"window": 0}, "window"),
        ({"position": "alibi"}, "none or rope"),
        ({"heads": 16, "kv": 1}, "odd"),
    ],
)
def test_wrong_arguments_are_refused_when_built_and_when_counted(changed, message):
    arguments = {"heads": 4, "kv": 4, "window": "full", "position": "rope"} | changed
    for call in (Attention, Attention.cost):
        with pytest.raises(ValueError, match=message):
            call(Shape(8, D, True), **arguments)

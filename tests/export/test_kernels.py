"""Every kernel's plain-torch path can leave with a model: alone it gives the same bits."""

import importlib

import pytest
import torch

from nas.export.source import collect


def draw(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(len(shape)))


Q, K, V = draw(2, 40, 2, 8), draw(2, 40, 2, 8) / 3, draw(2, 40, 2, 8)
LOG_GATE, BETA = -draw(2, 40, 2).abs(), draw(2, 40, 2).sigmoid()
X, GATE = draw(2, 40, 6), draw(2, 40, 6).sigmoid()
TOKENS, EXPERTS = draw(9, 6), torch.arange(18).view(9, 2) % 3

CALLS = {
    "diagonal_scan.operator": ("diagonal_scan", (GATE, X)),
    "block_scan.operator": ("block_scan", (draw(2, 40, 6, 2, 2) / 3, draw(2, 40, 6, 2))),
    "softmax_scan.operator": ("softmax_scan", (draw(2, 40, 2), V)),
    "selective_scan.operator": (
        "selective_scan",
        (X, GATE, -draw(6, 4).abs(), draw(2, 40, 4), draw(2, 40, 4), draw(6)),
    ),
    "gated_linear_attention.operator": ("gated_linear_attention", (Q, K, V, LOG_GATE)),
    "gated_linear_attention.normaliser": ("normalised", (Q.abs(), K.abs(), V, LOG_GATE)),
    "gated_linear_attention.mlstm": ("mlstm", (Q, K, V, BETA, LOG_GATE)),
    "gated_linear_attention.complex_gate": (
        "complex_gated_linear_attention",
        (Q, K, V, LOG_GATE, draw(2, 40, 2)),
    ),
    "gated_delta_rule.operator": ("gated_delta_rule", (Q, K, V, BETA, LOG_GATE)),
    "attention.operator": ("attention", (Q, K, V)),
    "causal_conv1d.operator": ("causal_conv1d", (X, draw(6, 4))),
    "fft_convolution.operator": ("fft_convolution", (X, draw(6, 40))),
    "moe.operator": ("moe", (TOKENS, EXPERTS, draw(9, 2).sigmoid(), draw(3, 6, 5))),
    "fused_rnn.operator": ("fused_rnn", ("lstm", draw(2, 40, 4, 2, 3), draw(2, 4, 3, 3) / 2)),
}
KEYWORDS = {"attention.operator": {"score": "sigmoid", "bias": -3.0}}


@pytest.mark.parametrize("module", CALLS)
def test_the_source_that_is_carried_along_gives_the_same_bits(module):
    name, arguments = CALLS[module]
    place = f"nas.kernels.{module}"
    collected = collect([(place, name)])
    text = "\n".join([*collected.imports, *(text for _, text in collected.sections)])
    assert "nas.kernels" not in text
    assert "triton" not in "".join(collected.imports)
    namespace = {"__name__": "carried"}
    exec(compile(text, "carried", "exec"), namespace)
    keywords = KEYWORDS.get(module, {})
    found = _tensors(namespace[name](*arguments, **keywords))
    expected = _tensors(getattr(importlib.import_module(place), name)(*arguments, **keywords))
    assert len(found) == len(expected)
    assert all(torch.equal(x, y) for x, y in zip(found, expected, strict=True))


def _tensors(value):
    if isinstance(value, torch.Tensor):
        return [value]
    return [x for part in value for x in _tensors(part)]

"""Attention as an operator: registered, traced, compiled, exported, and its refusals."""

import itertools

import pytest
import torch
from torch import Tensor

from nas.kernels.attention import cpu
from nas.kernels.attention.operator import attention
from nas.kernels.attention.pattern import Causal, Full, Landmark, Prefix, Window, pack
from tests.kernels.attention.cases import PATTERNS, make, results


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("name", "score"), [("window", "softmax"), ("prefixes", "sigmoid")])
def test_operators_are_registered_correctly(name, score, dtype) -> None:
    arguments, (grad,), extra = make(20, score=score, slopes=True, dtype=dtype)
    pattern = PATTERNS[name]
    tensors = *(arguments.get(x) for x in ("q", "k", "v", "bias")), extra["slopes"]
    tensors = *tensors, pattern.length if name == "prefixes" else None
    how = (*pack(pattern), score, 0.5, "cpu")
    out, lse = torch.ops.nas.attention(*tensors, *how)
    backward = (*tensors, out, lse, grad, *how)
    torch.library.opcheck(torch.ops.nas.attention_backward.default, backward)
    leaves = [x if x is None else x.requires_grad_() for x in tensors[:4]]
    torch.library.opcheck(torch.ops.nas.attention.default, (*leaves, *tensors[4:], *how))


@pytest.mark.parametrize(("name", "score"), [("window", "softmax"), ("causal", "sigmoid")])
def test_meta_tensors_have_the_shapes_and_types_of_real_ones(name, score) -> None:
    how = (*pack(PATTERNS[name]), score, 0.5, "cpu")
    for dtypes in itertools.product([torch.bfloat16, torch.float32], repeat=2):
        arguments, _, _ = make(20, keys=30)
        tensors = [arguments[n].to(dtypes[n == "q"]).requires_grad_() for n in "qkv"]
        meta = [x.detach().to("meta").requires_grad_() for x in tensors]
        found = [torch.ops.nas.attention(*x, *[None] * 3, *how) for x in (tensors, meta)]
        for real, fake in zip(*found, strict=True):
            assert real.shape == fake.shape
            assert (real.dtype, real.stride()) == (fake.dtype, fake.stride())
        gradients = torch.autograd.grad(found[1][0].sum(), meta)
        real_gradients = torch.autograd.grad(found[0][0].sum(), tensors)
        for real, fake in zip(real_gradients, gradients, strict=True):
            assert (real.shape, real.dtype, real.stride()) == (
                fake.shape,
                fake.dtype,
                fake.stride(),
            )


class Layer(torch.nn.Module):
    def forward(self, q: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> Tensor:
        y = attention(q, k, v, pattern=Window(5)).sin()
        return attention(q, y, v, score="sigmoid", pattern=Causal(), bias=bias).cos()


def test_compiled_code_has_the_same_gradients_at_every_length() -> None:
    compiled = torch.compile(Layer(), backend="aot_eager", fullgraph=True, dynamic=True)
    for length in (20, 33, 47):
        arguments, grads, _ = make(length, kv=4, score="sigmoid")
        out, plain = (results(f, arguments, grads) for f in (compiled, Layer()))
        for name in plain:
            torch.testing.assert_close(out[name], plain[name], msg=name)


def test_prefixes_of_a_tensor_can_be_compiled() -> None:
    def call(q, k, v, lengths):
        return attention(q, k, v, pattern=Prefix(lengths))

    arguments, _, _ = make(30)
    lengths = torch.tensor([3, 17])
    compiled = torch.compile(call, backend="aot_eager", fullgraph=True)
    assert torch.equal(compiled(**arguments, lengths=lengths), call(**arguments, lengths=lengths))


def test_exported_programs_hold_one_operator_of_any_length() -> None:
    length = torch.export.Dim("length", min=2)
    arguments, _, _ = make(20, kv=4, score="sigmoid")
    shapes = {name: {1: length} for name in "qkv"} | {"bias": {}}
    program = torch.export.export(Layer(), (), arguments, dynamic_shapes=shapes)
    calls = [node for node in program.graph.nodes if "nas.attention" in str(node.target)]
    assert len(calls) == 2
    longer, _, _ = make(45, kv=4, score="sigmoid")
    assert torch.equal(program.module()(**longer), Layer()(**longer))


def test_torch_attention_is_used_where_it_computes_the_same() -> None:
    arguments, _, _ = make(20)
    for pattern, uses in [(Full(), True), (Causal(), True), (Window(5), False)]:
        call = torch.export.export(_Softmax(pattern), (), arguments)
        names = [str(node.target) for node in call.graph.nodes]
        assert any("scaled_dot_product" in name for name in names) == uses


class _Softmax(torch.nn.Module):
    def __init__(self, pattern) -> None:
        super().__init__()
        self.pattern = pattern

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return attention(q, k, v, pattern=self.pattern)


def test_a_second_derivative_is_refused_and_not_wrong() -> None:
    arguments, _, _ = make(20)
    q = arguments.pop("q").requires_grad_()
    o = attention(q, **arguments, pattern=Window(5))
    (gradient,) = torch.autograd.grad(o.sum(), q, create_graph=True)
    with pytest.raises(RuntimeError, match="no autograd formula was registered"):
        gradient.square().sum().backward()
    o = cpu.attention(q, **arguments, pattern=Window(5))
    with pytest.raises(RuntimeError, match="only once"):
        torch.autograd.grad(o.sum(), q, create_graph=True)


@pytest.mark.parametrize("score", ["softmax", "sigmoid"])
def test_the_reference_has_second_derivatives(score) -> None:
    arguments, _, _ = make(3, heads=1, kv=1, width=2, batch=1, dtype=torch.float64)
    leaves = [x.requires_grad_() for x in arguments.values()]
    assert torch.autograd.gradgradcheck(
        lambda *x: attention(*x, score=score, pattern=Causal(), backend="reference"), leaves
    )


@pytest.mark.parametrize(
    ("q", "k", "v", "message"),
    [
        ((2, 4, 3), (2, 4, 1, 3), (2, 4, 1, 3), r"q must be \[B, L, H, d\]"),
        ((2, 4, 1, 3), (2, 5, 1, 3), (2, 4, 1, 3), r"\[2, 5, 1, 3\] and \[2, 4, 1, 3\]"),
        ((2, 4, 1, 3), (2, 0, 1, 3), (2, 0, 1, 3), "none of them empty"),
        ((2, 4, 3, 3), (2, 4, 2, 3), (2, 4, 2, 3), "the heads of k divide those of q"),
        ((2, 4, 1, 3), (3, 4, 1, 3), (3, 4, 1, 3), "agree in B and d"),
    ],
)
def test_shapes_that_do_not_fit(q, k, v, message) -> None:
    with pytest.raises(ValueError, match=message):
        attention(torch.zeros(q), torch.zeros(k), torch.zeros(v))


REFUSED = {
    "k must be of a real floating-point type": (TypeError, {"k": torch.ones(2, 4, 2, 3).long()}),
    "q is on cpu and v on meta": (ValueError, {"v": torch.ones(2, 4, 2, 3, device="meta")}),
    "score is 'relu': choose one of softmax, sigmoid": (ValueError, {"score": "relu"}),
    "pattern must be one of": (TypeError, {"pattern": "causal"}),
    "is a grouped softmax": (ValueError, {"score": "sigmoid", "pattern": Landmark(2)}),
    "changes nothing in a softmax": (ValueError, {"bias": 1.0}),
    r"bias must be \[H\] = \[2\]": (ValueError, {"score": "sigmoid", "bias": torch.ones(1)}),
    "slopes have no gradient": (ValueError, {"slopes": torch.ones(2, requires_grad=True)}),
    r"lengths must be \[B\] = \[2\]": (ValueError, {"pattern": Prefix(torch.ones(3).long())}),
    "lengths must be integers": (TypeError, {"pattern": Prefix(torch.ones(2))}),
}


@pytest.mark.parametrize("message", REFUSED)
def test_arguments_that_do_not_fit(message) -> None:
    error, keywords = REFUSED[message]
    with pytest.raises(error, match=message):
        attention(**{name: torch.ones(2, 4, 2, 3) for name in "qkv"} | keywords)

"""The diagonal scan as an operator: registered, traced, compiled, exported, and its refusals."""

import itertools

import pytest
import torch
from torch import Tensor

from nas.kernels.diagonal_scan import cpu
from nas.kernels.diagonal_scan.operator import diagonal_scan
from tests.kernels.diagonal_scan.cases import make, make_packed, results


@pytest.mark.parametrize("initial", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_operators_are_registered_correctly(initial, dtype) -> None:
    (a, b, state), (grad_h, grad_final) = make((2, 20, 3), initial=initial, dtype=dtype)
    backward = (a, b, state, None, grad_h, grad_final, True, "cpu")
    torch.library.opcheck(torch.ops.nas.diagonal_scan_backward.default, backward)
    leaves = [x if x is None else x.requires_grad_() for x in (a, b, state)]
    torch.library.opcheck(torch.ops.nas.diagonal_scan.default, (*leaves, None, False, "cpu"))


@pytest.mark.parametrize("dtype", [torch.float32, torch.complex64])
def test_operators_of_packed_and_complex_numbers_are_registered_correctly(dtype) -> None:
    ends = torch.tensor([0, 5, 5, 12])
    (a, b, state), grads = make_packed(ends.tolist(), dtype=dtype)
    backward = (a, b, state, ends, *grads, True, "cpu")
    torch.library.opcheck(torch.ops.nas.diagonal_scan_backward.default, backward)
    leaves = [x.requires_grad_() for x in (a, b, state)]
    torch.library.opcheck(torch.ops.nas.diagonal_scan.default, (*leaves, ends, False, "cpu"))


def test_meta_tensors_have_the_shapes_and_types_of_real_ones() -> None:
    types = [torch.bfloat16, torch.float32, torch.float64, torch.complex64]
    for dtypes in itertools.product(types, repeat=2):
        a, b = (torch.randn(2, 20, 3).to(d).requires_grad_() for d in dtypes)
        meta = [x.detach().to("meta").requires_grad_() for x in (a, b)]
        for real, fake in zip(diagonal_scan(a, b), diagonal_scan(*meta), strict=True):
            assert (real.shape, real.dtype, real.stride()) == (
                fake.shape,
                fake.dtype,
                fake.stride(),
            )
        gradients = torch.autograd.grad(diagonal_scan(*meta)[0].abs().sum(), meta)
        assert [(g.shape, g.dtype) for g in gradients] == [(x.shape, x.dtype) for x in (a, b)]
    packed = [torch.randn(1, 20, 3), torch.randn(1, 20, 3)]
    ends = torch.tensor([0, 5, 20])
    real = diagonal_scan(*packed, cu_seqlens=ends)
    meta = diagonal_scan(*(x.to("meta") for x in packed), cu_seqlens=ends.to("meta"))
    assert [x.shape for x in real] == [x.shape for x in meta]


class Layer(torch.nn.Module):
    def forward(self, a: Tensor, b: Tensor, initial_state: Tensor) -> tuple[Tensor, Tensor]:
        h, final = diagonal_scan(torch.sigmoid(a), 2 * b, initial_state, reverse=True)
        return h.sin(), final


class PackedLayer(torch.nn.Module):
    def forward(
        self, a: Tensor, b: Tensor, initial_state: Tensor, cu_seqlens: Tensor
    ) -> tuple[Tensor, Tensor]:
        h, final = diagonal_scan(a.exp(), 2 * b, initial_state, cu_seqlens=cu_seqlens)
        return h * 2, final


def test_compiled_code_has_the_same_gradients_at_every_length() -> None:
    compiled = torch.compile(Layer(), backend="aot_eager", fullgraph=True, dynamic=True)
    for length in (20, 33, 47):
        arguments, grads = make((2, length, 3))
        out, plain = (results(f, arguments, grads) for f in (compiled, Layer()))
        for name in plain:
            torch.testing.assert_close(out[name], plain[name], msg=name)


def test_exported_programs_hold_one_operator_of_any_length() -> None:
    length = torch.export.Dim("length", min=2)
    arguments, _ = make((2, 20, 3))
    program = torch.export.export(Layer(), arguments, dynamic_shapes=({1: length}, {1: length}, {}))
    calls = [node for node in program.graph.nodes if "diagonal_scan" in str(node.target)]
    assert len(calls) == 1
    longer, _ = make((2, 45, 3))
    for out, plain in zip(program.module()(*longer), Layer()(*longer), strict=True):
        assert torch.equal(out, plain)


@pytest.mark.parametrize("dtype", [torch.float32, torch.complex64])
def test_compiled_and_exported_packed_or_complex_scans(dtype) -> None:
    compiled = torch.compile(PackedLayer(), backend="aot_eager", fullgraph=True, dynamic=True)
    for ends in ([0, 5, 20], [0, 0, 7, 30, 47]):
        arguments, grads = make_packed(ends, dtype=dtype)
        keywords = {"cu_seqlens": torch.tensor(ends)}
        out, plain = (results(f, arguments, grads, **keywords) for f in (compiled, PackedLayer()))
        for name in plain:
            torch.testing.assert_close(out[name], plain[name], msg=name)
    example = (*make_packed([0, 5, 20], dtype=dtype)[0], torch.tensor([0, 5, 20]))
    any_size = torch.export.Dim.DYNAMIC
    dynamic = ({1: any_size}, {1: any_size}, {0: any_size}, {0: any_size})
    program = torch.export.export(PackedLayer(), example, dynamic_shapes=dynamic)
    calls = [node for node in program.graph.nodes if "diagonal_scan" in str(node.target)]
    assert len(calls) == 1
    longer = (*arguments, keywords["cu_seqlens"])
    for found, wanted in zip(program.module()(*longer), PackedLayer()(*longer), strict=True):
        assert torch.equal(found, wanted)


def test_a_second_derivative_is_refused_and_not_wrong() -> None:
    (a, b, _), _ = make((2, 20, 3))
    a.requires_grad_()
    h, _ = diagonal_scan(a, b)
    (gradient,) = torch.autograd.grad(h.sum(), a, create_graph=True)
    with pytest.raises(RuntimeError, match="no autograd formula was registered"):
        gradient.square().sum().backward()
    h, _ = cpu.diagonal_scan(a, b)
    with pytest.raises(RuntimeError, match="only once"):
        torch.autograd.grad(h.sum(), a, create_graph=True)


def test_the_reference_has_second_derivatives() -> None:
    (a, b, _), _ = make((1, 4, 2), dtype=torch.float64)
    leaves = [a.requires_grad_(), b.requires_grad_()]
    assert torch.autograd.gradgradcheck(lambda *x: diagonal_scan(*x, backend="reference"), leaves)


@pytest.mark.parametrize(
    ("a", "b", "state", "error", "message"),
    [
        ((2, 4), (2, 4), None, ValueError, r"\[B, L, D\]"),
        ((2, 4, 3), (2, 5, 3), None, ValueError, r"\[2, 4, 3\] and \[2, 5, 3\]"),
        ((2, 0, 3), (2, 0, 3), None, ValueError, "L >= 1"),
        ((2, 4, 3), (2, 4, 3), (2, 4), ValueError, r"initial_state must be \[B, D\] = \[2, 3\]"),
    ],
)
def test_shapes_that_do_not_fit(a, b, state, error, message) -> None:
    with pytest.raises(error, match=message):
        diagonal_scan(torch.zeros(a), torch.zeros(b), None if state is None else torch.zeros(state))


def test_tensors_that_do_not_fit() -> None:
    good = torch.zeros(2, 4, 3)
    with pytest.raises(TypeError, match="b must be of a real floating-point type"):
        diagonal_scan(good, good.long())
    with pytest.raises(TypeError, match="a must be of a real floating-point type, complex64 or"):
        diagonal_scan(good.to(torch.complex32), good)
    with pytest.raises(TypeError, match="initial_state is complex, a and b are real"):
        diagonal_scan(good, good, good[:, 0].cfloat())
    with pytest.raises(ValueError, match="a is on cpu and b on meta"):
        diagonal_scan(good, good.to("meta"))


def test_packed_sequences_that_do_not_fit() -> None:
    good, ends = torch.zeros(1, 4, 3), torch.tensor([0, 2, 4])
    with pytest.raises(TypeError, match="cu_seqlens must be int32 or int64"):
        diagonal_scan(good, good, cu_seqlens=ends.float())
    with pytest.raises(ValueError, match=r"cu_seqlens must be \[N \+ 1\]"):
        diagonal_scan(good, good, cu_seqlens=ends[:1])
    with pytest.raises(ValueError, match=r"packed into one, \[1, L, D\], and a is \[2, 4, 3\]"):
        diagonal_scan(good.repeat(2, 1, 1), good.repeat(2, 1, 1), cu_seqlens=ends)
    with pytest.raises(ValueError, match=r"initial_state must be \[N, D\] = \[2, 3\]"):
        diagonal_scan(good, good, torch.zeros(1, 3), cu_seqlens=ends)
    with pytest.raises(ValueError, match="a is on cpu and cu_seqlens on meta"):
        diagonal_scan(good, good, cu_seqlens=ends.to("meta"))
    for backend, wrong in itertools.product(("cpu", "reference"), ([0, 3], [1, 4], [0, 3, 2, 4])):
        with pytest.raises(ValueError, match="must rise from 0 to the length 4"):
            diagonal_scan(good, good, cu_seqlens=torch.tensor(wrong), backend=backend)

"""The diagonal scan, every implementation against a float64 loop over time."""

import itertools

import pytest
import torch
from torch import Tensor

from nas.kernels.diagonal_scan import cpu, reference
from nas.kernels.diagonal_scan.operator import diagonal_scan, diagonal_scan_step
from tests.kernels import harness
from tests.kernels.harness import DEVICES, GPU, INTERPRETING, relative_error

OUTPUTS = ("h", "final_state")
GATES = {
    "weak": lambda shape: 1 - 0.05 * torch.rand(shape),
    "strong": lambda shape: 0.05 * torch.rand(shape),
    "signed": lambda shape: 2 * torch.rand(shape) - 1,
    "exact": lambda shape: torch.tensor([0.0, 1.0, -1.0, 0.5])[torch.randint(4, shape)],
    "ones": torch.ones,
    "zeros": torch.zeros,
    "tiny": lambda shape: 1e-30 * torch.randn(shape),
}
COMPLEX_GATES = {
    "rotating": lambda shape: torch.polar(torch.rand(shape), 7 * torch.rand(shape)),
    "slow": lambda shape: torch.polar(1 - 0.02 * torch.rand(shape), 0.1 * torch.randn(shape)),
    "roots of one": lambda shape: torch.tensor([1, 1j, -1, -1j, 0])[torch.randint(5, shape)],
}
TOLERANCE = {torch.float32: 1e-6, torch.float64: 1e-14, torch.bfloat16: 5e-3, torch.float16: 1e-3}
TOLERANCE |= {torch.complex64: TOLERANCE[torch.float32], torch.complex128: 1e-14}
CU_SEQLENS = {
    "ragged": [0, 1, 18, 18, 50, 63],
    "one": [0, 63],
    "empty ends": [0, 0, 0, 40, 63, 63],
    "single steps": list(range(64)),
}


def make(shape, gates="signed", initial=True, dtype=torch.float32, device="cpu", seed=0):
    """Arguments of the scan, and gradients for both of its results, without requires_grad."""
    torch.manual_seed(seed)
    states, state_dtype = (shape[0], shape[2]), torch.promote_types(dtype, torch.float32)
    drawn = torch.complex128 if dtype.is_complex else torch.float32
    gate = COMPLEX_GATES[gates] if gates in COMPLEX_GATES else GATES[gates]

    def normal(shape, dtype):
        return torch.randn(shape, dtype=drawn).to(device, dtype)

    a, b = gate(shape).to(device, dtype), normal(shape, dtype)
    state = normal(states, state_dtype) if initial else None
    return (a, b, state), (normal(shape, dtype), normal(states, state_dtype))


def make_packed(ends, gates="signed", initial=True, dtype=torch.float32, device="cpu", width=5):
    """Arguments of packed sequences, and gradients."""
    (a, b, _), (grad_h, _) = make((1, ends[-1], width), gates, False, dtype, device)
    states = (len(ends) - 1, 1, width)
    (_, _, state), (_, grad_final) = make(states, gates, initial, dtype, device, seed=1)
    return (a, b, state), (grad_h, grad_final)


def named(arguments):
    return dict(zip(("a", "b", "initial_state"), arguments, strict=True))


def results(function, arguments, grads, **keywords) -> dict[str, Tensor]:
    return harness.results(function, named(arguments), grads, OUTPUTS, **keywords)


def expected(arguments, grads, reverse, **keywords) -> dict[str, Tensor]:
    keywords |= {"reverse": reverse}
    return harness.oracle(reference.diagonal_scan, named(arguments), grads, OUTPUTS, **keywords)


def naive(a, b, state, reverse):
    """The definition, one number at a time."""
    h = torch.empty_like(b)
    batch, length, width = b.shape
    for i, d in itertools.product(range(batch), range(width)):
        value = 0.0 if state is None else state[i, d].item()
        for t in range(length - 1, -1, -1) if reverse else range(length):
            value = a[i, t, d].item() * value + b[i, t, d].item()
            h[i, t, d] = value
    return h


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("initial", [False, True])
def test_the_reference_is_the_definition(initial, reverse) -> None:
    (a, b, state), _ = make((2, 9, 3), initial=initial, dtype=torch.float64)
    h, final = reference.diagonal_scan(a, b, state, reverse=reverse)
    torch.testing.assert_close(h, naive(a, b, state, reverse), rtol=1e-12, atol=0)
    assert torch.equal(final, h[:, 0 if reverse else -1])


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("initial", [False, True])
@pytest.mark.parametrize("gates", GATES)
@pytest.mark.parametrize("width", [1, 60, 128])
@pytest.mark.parametrize("length", [1, 63, 64, 1000])
def test_cpu(guarded_memory, length, width, gates, initial, reverse) -> None:
    arguments, grads = make((2, length, width), gates, initial)
    out = results(diagonal_scan, arguments, grads, reverse=reverse, backend="cpu")
    harness.check(out, expected(arguments, grads, reverse), TOLERANCE[torch.float32])


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("shape", [(2, 100, 24), (1, 15, 4), (3, 17, 2000)])
def test_cpu_in_every_type(guarded_memory, shape, dtype, reverse) -> None:
    arguments, grads = make(shape, dtype=dtype)
    out = results(diagonal_scan, arguments, grads, reverse=reverse, backend="cpu")
    assert out["h"].dtype == out["gradient of a"].dtype == dtype
    assert out["final_state"].dtype == torch.promote_types(dtype, torch.float32)
    harness.check(out, expected(arguments, grads, reverse), TOLERANCE[dtype])


# Both launch paths: a chunked walk (few channels) and a plain loop, with and without a remainder.
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("initial", [False, True])
@pytest.mark.parametrize("shape", [(1, 1, 2), (2, 5, 2), (2, 16, 1), (1, 37, 2)])
def test_cpu_gradients_against_finite_differences(shape, initial, reverse) -> None:
    arguments, _ = make(shape, initial=initial, dtype=torch.float64)
    leaves = [x.double().requires_grad_() for x in arguments if x is not None]
    for function in (diagonal_scan, cpu.diagonal_scan):
        assert torch.autograd.gradcheck(lambda *x, f=function: f(*x, reverse=reverse), leaves)


def test_one_result_alone_has_the_right_gradients() -> None:
    arguments, (grad_h, grad_final) = make((2, 40, 3))
    for grads in [(grad_h, 0 * grad_final), (0 * grad_h, grad_final)]:
        leaves = [x.clone().requires_grad_() for x in arguments]
        h, final = diagonal_scan(*leaves)
        used, grad = (h, grads[0]) if grads[0].any() else (final, grads[1])
        out = torch.autograd.grad(used, leaves, grad)
        oracle = list(expected(arguments, grads, False).values())[2:]
        assert all(relative_error(x, y) < 1e-6 for x, y in zip(out, oracle, strict=True))


@pytest.mark.parametrize("reverse", [False, True])
def test_layouts_that_are_not_contiguous(reverse) -> None:
    shape = (2, 70, 6)
    (a, b, state), (grad_h, grad_final) = make(shape)
    halves = torch.cat([a, b], dim=-1).chunk(2, dim=-1)
    repeated = a[:, :1].expand(shape), b, state[:1].expand(2, 6)
    repeated_grads = grad_h[:, :, :1].expand(shape), grad_final[:, :1].expand(2, 6)
    transposed = tuple(x.mT.contiguous().mT for x in (a, b, state))
    for arguments, grads in [
        ((*halves, state), (grad_h, grad_final)),
        (repeated, (grad_h, grad_final)),
        (transposed, repeated_grads),
    ]:
        out = results(diagonal_scan, arguments, grads, reverse=reverse)
        harness.check(out, expected(arguments, grads, reverse), 1e-6)


def test_types_may_be_mixed() -> None:
    (a, b, state), grads = make((2, 50, 8))
    arguments = (a, b.bfloat16(), state.half())
    out = results(diagonal_scan, arguments, grads)
    types = [out[f"gradient of {x}"].dtype for x in ("a", "b", "initial_state")]
    assert out["h"].dtype == torch.float32
    assert types == [torch.float32, torch.bfloat16, torch.float16]
    harness.check(out, expected(arguments, grads, False), TOLERANCE[torch.bfloat16])


def test_gates_whose_product_overflows() -> None:
    # Nothing flows through the huge gates, so that the result is finite; a product of them is not.
    a, b = torch.full((1, 256, 2), 1e3), torch.zeros(1, 256, 2)
    a[:, 128:] = 0.5
    b[:, 128:] = 1.0
    grads = torch.zeros(1, 256, 2), torch.zeros(1, 2)
    grads[0][:, 200:] = 1
    a[:, 150] = 0
    out = results(diagonal_scan, (a, b, None), grads)
    assert all(x.isfinite().all() for x in out.values())
    harness.check(out, expected((a, b, None), grads, False), 1e-6)


def test_what_is_not_finite_stays_where_it_is() -> None:
    (a, b, _), _ = make((2, 200, 4))
    b[1, 50, 2] = float("nan")
    h, _ = diagonal_scan(a, b)
    found = h.isnan().nonzero().tolist()
    assert found == [[1, t, 2] for t in range(50, 200)]


@pytest.mark.parametrize("backend", ["reference", "cpu"])
def test_the_final_state_is_a_fresh_tensor(backend) -> None:
    arguments, _ = make((2, 20, 3))
    h, final = diagonal_scan(*arguments, backend=backend)
    assert torch.equal(final, h[:, -1])
    final.zero_()
    assert h[:, -1].any()


def test_steps_are_the_scan() -> None:
    for dtype in (torch.float32, torch.bfloat16):
        (a, b, state), _ = make((3, 30, 5), dtype=dtype)
        h, final = diagonal_scan(a, b, state)
        steps = []
        for t in range(30):
            out, state = diagonal_scan_step(a[:, t], b[:, t], state)
            steps.append(out)
        assert steps[0].dtype == dtype
        assert state.dtype == torch.float32
        assert relative_error(torch.stack(steps, 1), h) < TOLERANCE[dtype]
        assert relative_error(state, final) < 1e-6


def test_parts_of_a_sequence_are_the_sequence() -> None:
    (a, b, state), _ = make((2, 90, 5))
    h, final = diagonal_scan(a, b, state)
    first, middle = diagonal_scan(a[:, :33], b[:, :33], state)
    second, end = diagonal_scan(a[:, 33:], b[:, 33:], middle)
    assert relative_error(torch.cat([first, second], 1), h) < 1e-6
    assert relative_error(end, final) < 1e-6


# -- complex numbers ---------------------------------------------------------------------------


def test_the_complex_reference_is_the_definition() -> None:
    (a, b, state), _ = make((2, 9, 3), "rotating", dtype=torch.complex128)
    h, final = reference.diagonal_scan(a, b, state)
    torch.testing.assert_close(h, naive(a, b, state, False), rtol=1e-12, atol=0)
    assert torch.equal(final, h[:, -1])


def test_a_complex_scan_is_a_real_one_of_rotated_pairs() -> None:
    # h = x + iy with a gate r e^{i phi}, in the frame that turns along: gates r alone.
    (a, b, _), _ = make((1, 20, 3), "rotating", initial=False, dtype=torch.complex128)
    turned = torch.polar(torch.ones_like(a.abs()), a.angle().cumsum(1))
    pairs = torch.view_as_real(b / turned).flatten(2)
    h, _ = reference.diagonal_scan(a.abs().repeat_interleave(2, -1), pairs)
    h = torch.view_as_complex(h.unflatten(-1, (-1, 2))) * turned
    torch.testing.assert_close(diagonal_scan(a, b)[0], h)


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("initial", [False, True])
@pytest.mark.parametrize("gates", COMPLEX_GATES)
@pytest.mark.parametrize("shape", [(2, 1, 7), (2, 63, 60), (1, 1000, 3), (3, 17, 2000)])
def test_cpu_complex(guarded_memory, shape, gates, initial, reverse) -> None:
    for dtype in (torch.complex64, torch.complex128):
        arguments, grads = make(shape, gates, initial, dtype)
        out = results(diagonal_scan, arguments, grads, reverse=reverse, backend="cpu")
        assert {x.dtype for x in out.values()} == {dtype}
        harness.check(out, expected(arguments, grads, reverse), TOLERANCE[dtype])


@pytest.mark.parametrize("reverse", [False, True])
def test_real_and_complex_numbers_may_be_mixed(reverse) -> None:
    (a, b, state), grads = make((2, 40, 3), "rotating", dtype=torch.complex64)
    for arguments in [(a.real, b, state), (a, b.real, state.real), (a.real, b, None)]:
        out = results(diagonal_scan, arguments, grads, reverse=reverse)
        for name, x in named(arguments).items():
            assert x is None or out[f"gradient of {name}"].dtype == x.dtype
        assert out["h"].dtype == torch.complex64
        harness.check(out, expected(arguments, grads, reverse), 1e-6)
        inner = results(cpu.diagonal_scan, arguments, grads, reverse=reverse)
        harness.check(inner, out, 1e-7)


@pytest.mark.parametrize("backend", ["cpu", "triton"])
def test_one_gate_for_all_steps_stays_one_in_memory(backend) -> None:
    if backend == "triton":
        pytest.importorskip("triton")
        from nas.kernels.diagonal_scan.triton import _rows

        gate = torch.randn(6, dtype=torch.complex64).expand(2, 20, 6)
        assert _rows(gate).data_ptr() == gate.data_ptr()
        return
    gate = torch.randn(6, dtype=torch.complex64).expand(2, 20, 6)
    conjugate = cpu._conjugate(gate)
    assert conjugate.untyped_storage().nbytes() == 6 * 8
    assert torch.equal(conjugate, gate.conj())


@pytest.mark.parametrize("reverse", [False, True])
def test_complex_layouts_that_are_not_contiguous(reverse) -> None:
    (a, b, state), (grad_h, grad_final) = make((2, 20, 6), "rotating", dtype=torch.complex64)
    fixed = a[:1, :1].expand(2, 20, 6), b.mT.contiguous().mT, state[:1].expand(2, 6)
    for arguments, grads in [
        (fixed, (grad_h, grad_final)),
        ((a.conj(), b.conj(), state.conj()), (grad_h.conj(), grad_final.conj())),
    ]:
        out = results(diagonal_scan, arguments, grads, reverse=reverse)
        harness.check(out, expected(arguments, grads, reverse), 1e-6)


def test_complex_gradients_against_finite_differences() -> None:
    for shape, reverse in [((2, 5, 2), True), ((1, 37, 2), False)]:
        arguments, _ = make(shape, "rotating", dtype=torch.complex128)
        leaves = [x.requires_grad_() for x in arguments]
        for function in (diagonal_scan, cpu.diagonal_scan):
            assert torch.autograd.gradcheck(
                lambda *x, f=function, r=reverse: f(*x, reverse=r), leaves
            )


def test_complex_steps_are_the_scan() -> None:
    (a, b, state), _ = make((3, 30, 5), "slow", dtype=torch.complex64)
    _, final = diagonal_scan(a, b, state)
    for t in range(30):
        out, state = diagonal_scan_step(a[:, t], b[:, t], state)
    assert out.dtype == torch.complex64
    assert relative_error(state, final) < 1e-6


# -- packed sequences --------------------------------------------------------------------------


def alone(arguments, ends, **keywords):
    """Every sequence by itself."""
    a, b, states = arguments
    found = []
    for n, (i, j) in enumerate(itertools.pairwise(ends)):
        state = None if states is None else states[n : n + 1]
        found.append(reference.diagonal_scan(a[:, i:j], b[:, i:j], state, **keywords))
    return torch.cat([h for h, _ in found], 1), torch.cat([x for _, x in found])


@pytest.mark.parametrize("reverse", [False, True])
def test_the_packed_reference_is_every_sequence_by_itself(reverse) -> None:
    ends = [0, 3, 4, 20]
    arguments, _ = make_packed(ends, dtype=torch.float64)
    cu_seqlens = torch.tensor(ends)
    out = reference.diagonal_scan(*arguments, cu_seqlens=cu_seqlens, reverse=reverse)
    for found, one_by_one in zip(out, alone(arguments, ends, reverse=reverse), strict=True):
        assert torch.equal(found, one_by_one)


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("initial", [False, True])
@pytest.mark.parametrize("ends", CU_SEQLENS)
@pytest.mark.parametrize(("gates", "dtype"), [("signed", torch.float32), ("ones", torch.float64)])
def test_cpu_packed(guarded_memory, gates, dtype, ends, initial, reverse) -> None:
    ends = CU_SEQLENS[ends]
    arguments, grads = make_packed(ends, gates, initial, dtype)
    for integer in (torch.int32, torch.int64):
        keywords = {"cu_seqlens": torch.tensor(ends, dtype=integer)}
        out = results(diagonal_scan, arguments, grads, reverse=reverse, backend="cpu", **keywords)
        assert out["final_state"].shape == (len(ends) - 1, 5)
        oracle = expected(arguments, grads, reverse, **keywords)
        harness.check(out, oracle, TOLERANCE[dtype])


@pytest.mark.parametrize("reverse", [False, True])
def test_cpu_packed_and_long_or_complex_or_half(reverse) -> None:
    ends = [0, 500, 500, 513, 1300, 2000]
    for gates, dtype, width in [
        ("weak", torch.float32, 7),
        ("slow", torch.complex64, 7),
        ("signed", torch.bfloat16, 7),
        ("signed", torch.float32, 4100),
    ]:
        short = ends if width == 7 else CU_SEQLENS["ragged"]
        arguments, grads = make_packed(short, gates, True, dtype, width=width)
        keywords = {"cu_seqlens": torch.tensor(short)}
        out = results(diagonal_scan, arguments, grads, reverse=reverse, **keywords)
        oracle = expected(arguments, grads, reverse, **keywords)
        harness.check(out, oracle, TOLERANCE[dtype])


def test_packed_gradients_against_finite_differences() -> None:
    ends = [0, 3, 3, 9]
    for dtype, gates in [(torch.float64, "signed"), (torch.complex128, "rotating")]:
        arguments, _ = make_packed(ends, gates, dtype=dtype, width=2)
        leaves = [x.requires_grad_() for x in arguments]
        for function, reverse in itertools.product((diagonal_scan, cpu.diagonal_scan), (0, 1)):
            keywords = {"cu_seqlens": torch.tensor(ends), "reverse": bool(reverse)}
            assert torch.autograd.gradcheck(lambda *x, f=function, k=keywords: f(*x, **k), leaves)


@pytest.mark.parametrize("reverse", [False, True])
def test_what_is_not_finite_stays_in_its_packed_sequence(reverse) -> None:
    ends = [0, 40, 40, 70, 100]
    (a, b, state), (grad_h, grad_final) = make_packed(ends)
    b[0, 50, 2], grad_h[0, 60, 1] = float("nan"), float("inf")
    keywords = {"cu_seqlens": torch.tensor(ends), "reverse": reverse}
    out = results(diagonal_scan, (a, b, state), (grad_h, grad_final), **keywords)
    for name in ("h", "gradient of a", "gradient of b"):
        outside = torch.cat([out[name][:, :40], out[name][:, 70:]], 1)
        assert outside.isfinite().all()
    for name in ("final_state", "gradient of initial_state"):
        assert out[name].isfinite().all(1).tolist() == [True, True, False, True]


# -- the operator ------------------------------------------------------------------------------


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


# -- Triton ------------------------------------------------------------------------------------

# Small: the interpreter takes about a millisecond for every row of a block.
TRITON_SHAPES = [(1, 1, 1), (2, 17, 5), (1, 33, 40), (2, 16, 32), (1, 63, 33)]
# The interpreter cuts a bfloat16 off where a GPU rounds it: twice the error.
TRITON_TOLERANCE = {**TOLERANCE, torch.bfloat16: 1e-2 if INTERPRETING else 5e-3}


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("initial", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", TRITON_SHAPES)
@pytest.mark.parametrize("device", DEVICES)
def test_triton(guarded_memory, in_padding, device, shape, dtype, initial, reverse) -> None:
    arguments, grads = make(shape, initial=initial, dtype=dtype, device=device)
    arguments = [x if x is None else in_padding(x) for x in arguments]
    grads = [in_padding(x) for x in grads]
    out = results(diagonal_scan, arguments, grads, reverse=reverse, backend="triton")
    harness.check(out, expected(arguments, grads, reverse), TRITON_TOLERANCE[dtype])


@pytest.mark.parametrize("dtype", [torch.float16, torch.float64])
@pytest.mark.parametrize("gates", GATES)
@pytest.mark.parametrize("device", DEVICES)
def test_triton_gates(guarded_memory, device, gates, dtype) -> None:
    arguments, grads = make((1, 35, 7), gates, dtype=dtype, device=device)
    out = results(diagonal_scan, arguments, grads, backend="triton")
    harness.check(out, expected(arguments, grads, False), TRITON_TOLERANCE[dtype])


@pytest.mark.parametrize(("initial", "reverse"), [(False, False), (True, True), (True, False)])
@pytest.mark.parametrize("shape", [(1, 1, 1), (2, 17, 35)])
@pytest.mark.parametrize("device", DEVICES)
def test_triton_complex(guarded_memory, in_padding, device, shape, initial, reverse) -> None:
    arguments, grads = make(shape, "rotating", initial, torch.complex64, device)
    arguments = [x if x is None else in_padding(x) for x in arguments]
    grads = [in_padding(x) for x in grads]
    out = results(diagonal_scan, arguments, grads, reverse=reverse, backend="triton")
    harness.check(out, expected(arguments, grads, reverse), TOLERANCE[torch.complex64])


@pytest.mark.parametrize("device", DEVICES)
def test_triton_mixes_real_and_complex_and_repeats_gates(device) -> None:
    (a, b, state), grads = make((2, 20, 3), "rotating", True, torch.complex64, device)
    gate = a[:1, :1].expand(2, 20, 3)
    for arguments in [(a.real, b, state), (gate, b.real, state.real), (gate.conj(), b, None)]:
        out = results(diagonal_scan, arguments, grads, backend="triton")
        harness.check(out, expected(arguments, grads, False), 1e-6)
    arguments, grads = make((1, 20, 3), "roots of one", True, torch.complex128, device)
    out = results(diagonal_scan, arguments, grads, backend="triton")
    harness.check(out, expected(arguments, grads, False), TOLERANCE[torch.complex128])


@pytest.mark.parametrize(("initial", "reverse"), [(False, False), (True, True), (True, False)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.complex64])
@pytest.mark.parametrize("device", DEVICES)
def test_triton_packed(guarded_memory, in_padding, device, dtype, initial, reverse) -> None:
    ends = [0, 0, 1, 18, 18, 30]
    arguments, grads = make_packed(ends, "signed", initial, dtype, device)
    arguments = [x if x is None else in_padding(x) for x in arguments]
    cu_seqlens = torch.tensor(ends, dtype=torch.int32 if reverse else torch.int64)
    keywords = {"cu_seqlens": cu_seqlens.to(device), "backend": "triton"}
    out = results(diagonal_scan, arguments, grads, reverse=reverse, **keywords)
    oracle = expected(arguments, grads, reverse, cu_seqlens=cu_seqlens)
    harness.check(out, oracle, TOLERANCE[dtype])


@pytest.mark.parametrize("device", DEVICES)
def test_triton_reads_repeated_and_transposed_tensors(device) -> None:
    shape = (2, 20, 6)
    (a, b, state), (grad_h, grad_final) = make(shape, device=device)
    arguments = a[:, :1].expand(shape), b.mT.contiguous().mT, state
    grads = grad_h[:1, :1].expand(shape), grad_final[:1].expand(2, 6)
    out = results(diagonal_scan, arguments, grads, backend="triton")
    harness.check(out, expected(arguments, grads, False), 1e-6)


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("gates", GATES)
@pytest.mark.parametrize("shape", [(2, 1000, 60), (8, 2048, 256), (3, 63, 128)])
@pytest.mark.parametrize("device", GPU)
def test_triton_at_full_size(guarded_memory, device, shape, gates, reverse) -> None:
    for dtype in (torch.float32, torch.bfloat16):
        arguments, grads = make(shape, gates, dtype=dtype, device=device)
        out = results(diagonal_scan, arguments, grads, reverse=reverse)
        harness.check(out, expected(arguments, grads, reverse), TOLERANCE[dtype])


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("device", GPU)
def test_triton_complex_and_packed_at_full_size(guarded_memory, device, reverse) -> None:
    for gates in COMPLEX_GATES:
        arguments, grads = make((4, 1000, 129), gates, True, torch.complex64, device)
        out = results(diagonal_scan, arguments, grads, reverse=reverse)
        harness.check(out, expected(arguments, grads, reverse), 2e-6)
    ends = torch.tensor([0, 1, 1000, 1000, 1003, 4000])
    for dtype in (torch.float32, torch.bfloat16, torch.complex64):
        arguments, grads = make_packed(ends.tolist(), "weak", True, dtype, device, width=200)
        out = results(diagonal_scan, arguments, grads, reverse=reverse, cu_seqlens=ends.to(device))
        oracle = expected(arguments, grads, reverse, cu_seqlens=ends)
        harness.check(out, oracle, max(TOLERANCE[dtype], 2e-6))


def test_triton_kernels_in_the_interpreter(in_the_interpreter) -> None:
    if INTERPRETING:
        pytest.skip("this is that process")
    in_the_interpreter(__file__, "interpreter")


@pytest.mark.parametrize(
    ("number", "module", "packed"),
    [("bf16", "real", False), ("fp32", "real", True), ("fp32", "complex", True)],
)
@pytest.mark.parametrize("kernel", ["forward_kernel", "backward_kernel"])
def test_triton_kernels_compile_for_a_gpu_that_is_not_here(kernel, number, module, packed) -> None:
    pytest.importorskip("triton")
    if INTERPRETING:
        pytest.skip("nothing compiles in the interpreter")
    from nas.kernels.diagonal_scan import triton_complex, triton_real

    function = getattr({"real": triton_real, "complex": triton_complex}[module], kernel)
    constants = {"width": 60, "stride_a": 120, "stride_b": 0, "stride_g": 60, "REVERSE": True}
    constants |= {"PACKED": packed, "HAS_INITIAL": True, "BLOCK": 32, "ROWS": 8}
    names = function.fn.arg_names
    types = {name: f"*{number}" if name.endswith("_ptr") else "i32" for name in names}
    states = ("initial_ptr", "final_ptr", "grad_final_ptr", "grad_initial_ptr")
    types |= dict.fromkeys(states, "*fp32") | {"cu_ptr": "*i32"}
    harness.compile_for_hopper(function, types, constants, num_warps=1, enable_fp_fusion=True)

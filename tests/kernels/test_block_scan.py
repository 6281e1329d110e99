"""The block scan, every implementation against a float64 loop over time."""

import itertools

import pytest
import torch
from torch import Tensor

from nas.kernels.block_scan import cpu, reference
from nas.kernels.block_scan.operator import block_scan, block_scan_step
from tests.kernels import harness
from tests.kernels.harness import DEVICES, GPU, INTERPRETING, relative_error

OUTPUTS = ("h", "final_state")


def _turning(shape):
    angle, size = torch.randn(shape), 1 - 0.05 * torch.rand(shape)
    top = torch.stack([angle.cos(), -angle.sin()], -1)
    return size[..., None, None] * torch.stack(
        [top, torch.stack([-top[..., 1], top[..., 0]], -1)], -2
    )


# Of each row the magnitudes add up to one at most: no product of such matrices grows.
GATES = {
    "turning": _turning,
    "strong": lambda shape: 0.05 * torch.randn((*shape, 2, 2)),
    "signed": lambda shape: torch.rand((*shape, 2, 2)) - 0.5,
    "exact": lambda shape: torch.tensor([0.0, 0.5, -0.5])[torch.randint(3, (*shape, 2, 2))],
    "identity": lambda shape: torch.eye(2).expand(*shape, 2, 2),
    "swap": lambda shape: torch.eye(2).flip(0).expand(*shape, 2, 2),
    "zeros": lambda shape: torch.zeros((*shape, 2, 2)),
    "tiny": lambda shape: 1e-30 * torch.randn((*shape, 2, 2)),
}
TOLERANCE = {torch.float32: 2e-6, torch.float64: 1e-14, torch.bfloat16: 5e-3, torch.float16: 1e-3}


def make(shape, gates="signed", initial=True, dtype=torch.float32, device="cpu", seed=0):
    """Arguments of the scan, and gradients for both of its results, without requires_grad."""
    torch.manual_seed(seed)
    states, state_dtype = (shape[0], shape[2], 2), torch.promote_types(dtype, torch.float32)
    a, b = GATES[gates](shape).to(device, dtype), torch.randn(*shape, 2).to(device, dtype)
    state = torch.randn(states).to(device, state_dtype) if initial else None
    grad_h = torch.randn(*shape, 2).to(device, dtype)
    grad_final = torch.randn(states).to(device, state_dtype)
    return (a, b, state), (grad_h, grad_final)


def named(arguments):
    return dict(zip(("a", "b", "initial_state"), arguments, strict=True))


def results(function, arguments, grads, **keywords) -> dict[str, Tensor]:
    return harness.results(function, named(arguments), grads, OUTPUTS, **keywords)


def expected(arguments, grads, reverse) -> dict[str, Tensor]:
    named_arguments = named(arguments)
    return harness.oracle(reference.block_scan, named_arguments, grads, OUTPUTS, reverse=reverse)


def naive(a, b, state, reverse):
    """The definition, one number at a time."""
    h = torch.empty_like(b)
    batch, length, width, _ = b.shape
    for i, d in itertools.product(range(batch), range(width)):
        x, y = (0.0, 0.0) if state is None else state[i, d].tolist()
        for t in range(length - 1, -1, -1) if reverse else range(length):
            (p, q), (r, s) = a[i, t, d].tolist()
            u, v = b[i, t, d].tolist()
            x, y = p * x + q * y + u, r * x + s * y + v
            h[i, t, d, 0], h[i, t, d, 1] = x, y
    return h


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("initial", [False, True])
def test_the_reference_is_the_definition(initial, reverse) -> None:
    (a, b, state), _ = make((2, 9, 3), initial=initial, dtype=torch.float64)
    h, final = reference.block_scan(a, b, state, reverse=reverse)
    torch.testing.assert_close(h, naive(a, b, state, reverse), rtol=1e-12, atol=1e-15)
    assert torch.equal(final, h[:, 0 if reverse else -1])


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("initial", [False, True])
@pytest.mark.parametrize("gates", GATES)
@pytest.mark.parametrize(("length", "width"), [(1, 60), (63, 60), (64, 1), (1000, 3)])
def test_cpu(guarded_memory, length, width, gates, initial, reverse) -> None:
    arguments, grads = make((2, length, width), gates, initial)
    out = results(block_scan, arguments, grads, reverse=reverse, backend="cpu")
    harness.check(out, expected(arguments, grads, reverse), TOLERANCE[torch.float32])


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("shape", [(2, 100, 24), (1, 15, 4), (3, 17, 6000)])
def test_cpu_in_every_type(guarded_memory, shape, dtype, reverse) -> None:
    arguments, grads = make(shape, dtype=dtype)
    out = results(block_scan, arguments, grads, reverse=reverse, backend="cpu")
    assert out["h"].dtype == out["gradient of a"].dtype == dtype
    assert out["final_state"].dtype == torch.promote_types(dtype, torch.float32)
    harness.check(out, expected(arguments, grads, reverse), TOLERANCE[dtype])


# Both launch paths: a chunked walk (few channels) and a plain loop, with and without a remainder.
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("initial", [False, True])
@pytest.mark.parametrize("shape", [(1, 1, 2), (2, 5, 2), (2, 16, 1), (1, 19, 1)])
def test_cpu_gradients_against_finite_differences(shape, initial, reverse) -> None:
    arguments, _ = make(shape, initial=initial, dtype=torch.float64)
    leaves = [x.double().requires_grad_() for x in arguments if x is not None]
    for function in (block_scan, cpu.block_scan):
        assert torch.autograd.gradcheck(lambda *x, f=function: f(*x, reverse=reverse), leaves)


def test_one_result_alone_has_the_right_gradients() -> None:
    arguments, (grad_h, grad_final) = make((2, 40, 3))
    for grads in [(grad_h, 0 * grad_final), (0 * grad_h, grad_final)]:
        leaves = [x.clone().requires_grad_() for x in arguments]
        h, final = block_scan(*leaves)
        used, grad = (h, grads[0]) if grads[0].any() else (final, grads[1])
        out = torch.autograd.grad(used, leaves, grad)
        oracle = list(expected(arguments, grads, False).values())[2:]
        assert all(relative_error(x, y) < 2e-6 for x, y in zip(out, oracle, strict=True))


@pytest.mark.parametrize("reverse", [False, True])
def test_layouts_that_are_not_contiguous(reverse) -> None:
    shape = (2, 70, 6)
    (a, b, state), (grad_h, grad_final) = make(shape)
    parts = torch.cat([a.flatten(-2), b], dim=-1)
    halves = parts[..., :4].unflatten(-1, (2, 2)), parts[..., 4:]
    repeated = a[:, :1].expand(a.shape), b, state[:1].expand(2, 6, 2)
    repeated_grads = grad_h[:, :, :1].expand(b.shape), grad_final[:, :1].expand(2, 6, 2)
    transposed = tuple(x.mT.contiguous().mT for x in (a, b, state))
    for arguments, grads in [
        ((*halves, state), (grad_h, grad_final)),
        (repeated, (grad_h, grad_final)),
        (transposed, repeated_grads),
    ]:
        out = results(block_scan, arguments, grads, reverse=reverse)
        harness.check(out, expected(arguments, grads, reverse), 2e-6)


def test_types_may_be_mixed() -> None:
    (a, b, state), grads = make((2, 50, 8))
    arguments = (a, b.bfloat16(), state.half())
    out = results(block_scan, arguments, grads)
    types = [out[f"gradient of {x}"].dtype for x in ("a", "b", "initial_state")]
    assert out["h"].dtype == torch.float32
    assert types == [torch.float32, torch.bfloat16, torch.float16]
    harness.check(out, expected(arguments, grads, False), TOLERANCE[torch.bfloat16])


def test_gates_whose_product_overflows() -> None:
    # Nothing flows through the huge gates, so that the result is finite; a product of them is not.
    a, b = 1e3 * torch.eye(2).repeat(1, 256, 2, 1, 1), torch.zeros(1, 256, 2, 2)
    a[:, 128:] /= 2e3
    b[:, 128:] = 1.0
    grads = torch.zeros(1, 256, 2, 2), torch.zeros(1, 2, 2)
    grads[0][:, 200:] = 1
    a[:, 150] = 0
    out = results(block_scan, (a, b, None), grads)
    assert all(x.isfinite().all() for x in out.values())
    harness.check(out, expected((a, b, None), grads, False), 2e-6)


def test_what_is_not_finite_stays_where_it_is() -> None:
    (a, b, _), _ = make((2, 200, 4))
    b[1, 50, 2, 1] = float("nan")
    h, _ = block_scan(a, b)
    found = h.isnan().any(-1).nonzero().tolist()
    assert found == [[1, t, 2] for t in range(50, 200)]


@pytest.mark.parametrize("backend", ["reference", "cpu"])
def test_the_final_state_is_a_fresh_tensor(backend) -> None:
    arguments, _ = make((2, 20, 3))
    h, final = block_scan(*arguments, backend=backend)
    assert torch.equal(final, h[:, -1])
    final.zero_()
    assert h[:, -1].any()


def test_steps_are_the_scan() -> None:
    for dtype in (torch.float32, torch.bfloat16):
        (a, b, state), _ = make((3, 30, 5), dtype=dtype)
        h, final = block_scan(a, b, state)
        steps = []
        for t in range(30):
            out, state = block_scan_step(a[:, t], b[:, t], state)
            steps.append(out)
        assert steps[0].dtype == dtype
        assert state.dtype == torch.float32
        assert relative_error(torch.stack(steps, 1), h) < TOLERANCE[dtype]
        assert relative_error(state, final) < 1e-6


def test_parts_of_a_sequence_are_the_sequence() -> None:
    (a, b, state), _ = make((2, 90, 5))
    h, final = block_scan(a, b, state)
    first, middle = block_scan(a[:, :33], b[:, :33], state)
    second, end = block_scan(a[:, 33:], b[:, 33:], middle)
    assert relative_error(torch.cat([first, second], 1), h) < 1e-6
    assert relative_error(end, final) < 1e-6


# -- the operator ------------------------------------------------------------------------------


@pytest.mark.parametrize("initial", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_operators_are_registered_correctly(initial, dtype) -> None:
    (a, b, state), (grad_h, grad_final) = make((2, 20, 3), initial=initial, dtype=dtype)
    backward = (a, b, state, grad_h, grad_final, True, "cpu")
    torch.library.opcheck(torch.ops.nas.block_scan_backward.default, backward)
    leaves = [x if x is None else x.requires_grad_() for x in (a, b, state)]
    torch.library.opcheck(torch.ops.nas.block_scan.default, (*leaves, False, "cpu"))


def test_meta_tensors_have_the_shapes_and_types_of_real_ones() -> None:
    for dtypes in itertools.product([torch.bfloat16, torch.float32, torch.float64], repeat=2):
        shapes = (2, 20, 3, 2, 2), (2, 20, 3, 2)
        a, b = (
            torch.randn(n, dtype=d, requires_grad=True) for n, d in zip(shapes, dtypes, strict=True)
        )
        meta = [x.detach().to("meta").requires_grad_() for x in (a, b)]
        for real, fake in zip(block_scan(a, b), block_scan(*meta), strict=True):
            assert (real.shape, real.dtype, real.stride()) == (
                fake.shape,
                fake.dtype,
                fake.stride(),
            )
        gradients = torch.autograd.grad(block_scan(*meta)[0].sum(), meta)
        assert [(g.shape, g.dtype) for g in gradients] == [(x.shape, x.dtype) for x in (a, b)]


class Layer(torch.nn.Module):
    def forward(self, a: Tensor, b: Tensor, initial_state: Tensor) -> tuple[Tensor, Tensor]:
        h, final = block_scan(a.sin() / 2, 2 * b, initial_state, reverse=True)
        return h.sin(), final


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
    calls = [node for node in program.graph.nodes if "block_scan" in str(node.target)]
    assert len(calls) == 1
    longer, _ = make((2, 45, 3))
    for out, plain in zip(program.module()(*longer), Layer()(*longer), strict=True):
        assert torch.equal(out, plain)


def test_a_second_derivative_is_refused_and_not_wrong() -> None:
    (a, b, _), _ = make((2, 20, 3))
    a.requires_grad_()
    h, _ = block_scan(a, b)
    (gradient,) = torch.autograd.grad(h.sum(), a, create_graph=True)
    with pytest.raises(RuntimeError, match="no autograd formula was registered"):
        gradient.square().sum().backward()
    h, _ = cpu.block_scan(a, b)
    with pytest.raises(RuntimeError, match="only once"):
        torch.autograd.grad(h.sum(), a, create_graph=True)


def test_the_reference_has_second_derivatives() -> None:
    (a, b, _), _ = make((1, 4, 2), dtype=torch.float64)
    leaves = [a.requires_grad_(), b.requires_grad_()]
    assert torch.autograd.gradgradcheck(lambda *x: block_scan(*x, backend="reference"), leaves)


@pytest.mark.parametrize(
    ("a", "b", "state", "error", "message"),
    [
        ((2, 4, 2, 2), (2, 4, 2), None, ValueError, r"a must be \[B, L, D, 2, 2\]"),
        ((2, 4, 3, 3, 3), (2, 4, 3, 3), None, ValueError, r"\[2, 4, 3, 3, 3\] and \[2, 4, 3, 3\]"),
        ((2, 4, 3, 2, 2), (2, 5, 3, 2), None, ValueError, r"and \[2, 5, 3, 2\]"),
        ((2, 0, 3, 2, 2), (2, 0, 3, 2), None, ValueError, "L >= 1"),
        ((2, 4, 3, 2, 2), (2, 4, 3, 2), (2, 3), ValueError, r"\[B, D, 2\] = \[2, 3, 2\]"),
    ],
)
def test_shapes_that_do_not_fit(a, b, state, error, message) -> None:
    with pytest.raises(error, match=message):
        block_scan(torch.zeros(a), torch.zeros(b), None if state is None else torch.zeros(state))


def test_tensors_that_do_not_fit() -> None:
    matrices, good = torch.zeros(2, 4, 3, 2, 2), torch.zeros(2, 4, 3, 2)
    with pytest.raises(TypeError, match="b must be of a real floating-point type"):
        block_scan(matrices, good.long())
    with pytest.raises(TypeError, match="a must be of a real floating-point type"):
        block_scan(matrices.cfloat(), good)
    with pytest.raises(ValueError, match="a is on cpu and b on meta"):
        block_scan(matrices, good.to("meta"))


# -- Triton ------------------------------------------------------------------------------------

# Small: the interpreter takes about a millisecond for every row of a block.
TRITON_SHAPES = [(1, 1, 1), (2, 9, 35)]
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
    out = results(block_scan, arguments, grads, reverse=reverse, backend="triton")
    harness.check(out, expected(arguments, grads, reverse), TRITON_TOLERANCE[dtype])


@pytest.mark.parametrize("dtype", [torch.float16, torch.float64])
@pytest.mark.parametrize("gates", ["turning", "exact", "tiny"])
@pytest.mark.parametrize("device", DEVICES)
def test_triton_gates(guarded_memory, device, gates, dtype) -> None:
    arguments, grads = make((1, 6, 7), gates, dtype=dtype, device=device)
    out = results(block_scan, arguments, grads, backend="triton")
    harness.check(out, expected(arguments, grads, False), TRITON_TOLERANCE[dtype])


@pytest.mark.parametrize("device", DEVICES)
def test_triton_reads_repeated_and_transposed_tensors(device) -> None:
    shape = (2, 20, 6)
    (a, b, state), (grad_h, grad_final) = make(shape, device=device)
    arguments = a[:, :1].expand(a.shape), b.mT.contiguous().mT, state
    grads = grad_h[:1, :1].expand(b.shape), grad_final[:1].expand(2, 6, 2)
    out = results(block_scan, arguments, grads, backend="triton")
    harness.check(out, expected(arguments, grads, False), 1e-6)


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("gates", GATES)
@pytest.mark.parametrize("shape", [(2, 1000, 60), (8, 2048, 256), (3, 63, 128)])
@pytest.mark.parametrize("device", GPU)
def test_triton_at_full_size(guarded_memory, device, shape, gates, reverse) -> None:
    for dtype in (torch.float32, torch.bfloat16):
        arguments, grads = make(shape, gates, dtype=dtype, device=device)
        out = results(block_scan, arguments, grads, reverse=reverse)
        harness.check(out, expected(arguments, grads, reverse), TOLERANCE[dtype])


def test_triton_kernels_in_the_interpreter(in_the_interpreter) -> None:
    if INTERPRETING:
        pytest.skip("this is that process")
    in_the_interpreter(__file__, "interpreter")


@pytest.mark.parametrize("number", ["bf16", "fp32"])
@pytest.mark.parametrize("kernel", ["_forward_kernel", "_backward_kernel"])
def test_triton_kernels_compile_for_a_gpu_that_is_not_here(kernel, number) -> None:
    pytest.importorskip("triton")
    if INTERPRETING:
        pytest.skip("nothing compiles in the interpreter")
    from nas.kernels.block_scan import triton as kernels

    function = getattr(kernels, kernel)
    other = number == "bf16"
    constants = {"width": 60, "REVERSE": other, "HAS_INITIAL": other, "BLOCK": 32, "ROWS": 4}
    names = function.fn.arg_names
    types = {name: f"*{number}" if name.endswith("_ptr") else "i32" for name in names}
    states = ("initial_ptr", "final_ptr", "grad_final_ptr", "grad_initial_ptr")
    types |= dict.fromkeys(states, "*fp32")
    harness.compile_for_hopper(function, types, constants, num_warps=1, enable_fp_fusion=True)
